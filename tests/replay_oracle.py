"""A second reading of replays, written to disagree with the first wherever either is wrong.

It shares no line with tools/replay and none with sc2reader: it decodes the tracker events' bytes itself; a unit's start is the
moment its larva turned into the egg it hatches from, not its birth minus a table's build time; a zergling pair is one
egg, not two births in one loop; supply starts from the game's own count every 160 loops. Slow, and in no hurry.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import mpyq

SECONDS_PER_LOOP = 1 / 22.4
STATS, BORN, DIED, TYPE_CHANGE, UPGRADE, INIT, DONE = 0, 1, 2, 4, 5, 6, 7

QUEEN_LOOPS, LAIR_LOOPS, HIVE_LOOPS, SPIRE_LOOPS, BOOST_LOOPS = 50 * 16, 80 * 16, 100 * 16, 100 * 16, 110 * 16
HATCHED = {
    "Drone": 1.0,
    "Overlord": 0.0,
    "Zergling": 0.5,
    "Roach": 2.0,
    "Hydralisk": 2.0,
    "Mutalisk": 2.0,
    "Corruptor": 2.0,
    "Infestor": 2.0,
    "SwarmHostMP": 3.0,
    "Viper": 3.0,
    "Ultralisk": 6.0,
}
MORPHED = {
    "BanelingCocoon": "Baneling",
    "RavagerCocoon": "Ravager",
    "LurkerMPEgg": "LurkerMP",
    "BroodLordCocoon": "BroodLord",
    "OverlordCocoon": "Overseer",
    "TransportOverlordCocoon": "OverlordTransport",
}
BUILDING_MORPHS = {"Lair": LAIR_LOOPS, "Hive": HIVE_LOOPS, "GreaterSpire": SPIRE_LOOPS}


class Item(NamedTuple):
    loop: int
    name: str
    supply: float

    @property
    def seconds(self) -> float:
        return self.loop * SECONDS_PER_LOOP


class Raw(NamedTuple):
    """One tracker event: `fields` by their number in Blizzard's protocol."""

    loop: int
    kind: int
    fields: dict[int, Any]

    @property
    def tag(self) -> tuple[int, int]:
        return self.fields[0], self.fields[1]

    @property
    def name(self) -> str:
        return str(self.fields[2].decode())


class Bytes:
    """Blizzard's self-describing encoding: a byte for the type, then the value."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """Sign in the lowest bit of the first byte, six bits there, seven in each that follows."""
        first = self.byte()
        value, shift, last = (first & 0x7F) >> 1, 6, first
        while last & 0x80:
            last = self.byte()
            value |= (last & 0x7F) << shift
            shift += 7
        return -value if first & 1 else value

    def value(self) -> Any:
        kind = self.byte()
        if kind == 0:
            return [self.value() for _ in range(self.number())]
        if kind == 1:
            return self.take((self.number() + 7) // 8)
        if kind == 2:
            return self.take(self.number())
        if kind == 3:
            return self.number(), self.value()
        if kind == 4:
            return self.value() if self.byte() else None
        if kind == 5:
            return {self.number(): self.value() for _ in range(self.number())}
        if kind in (6, 7, 8):
            return int.from_bytes(self.take({6: 1, 7: 4, 8: 8}[kind]), "little")
        assert kind == 9, kind
        return self.number()


def raw_events(path: Path) -> list[Raw]:
    archive = mpyq.MPQArchive(io.BytesIO(path.read_bytes()), listfile=False)
    data = archive.read_file("replay.tracker.events", force_decompress=True)
    stream, loop, events = Bytes(data or b""), 0, []
    while stream.at < len(stream.data):
        loop += stream.value()[1]
        kind = stream.value()
        events.append(Raw(loop & 0xFFFFFFFF, kind, stream.value()))
    return events


def zerg_numbers(events: list[Raw]) -> list[int]:
    """Players who own a hatchery at loop 0, in the order of their numbers."""
    return sorted({event.fields[3] for event in events if event.kind == BORN and event.loop == 0 and event.name == "Hatchery"})


def build_order(events: list[Raw], player: int, length: int) -> list[Item]:
    """The player's first orders by their starts."""
    eggs = hatched(events, player)
    starts = sorted([*eggs, *built(events, player), *morphed(events, player)], key=lambda start: start[0])
    items: list[Item] = []
    for loop, name in starts[:length]:
        in_this_loop = sum(change_by(item.name) for item in items if item.loop == loop)
        items.append(Item(loop, name, supply_before(events, player, loop, eggs) + in_this_loop))
    return items


def change_by(name: str) -> float:
    """What an order does to the supply at once."""
    if name == "Zergling":
        return 1.0
    if name in (*MORPHED.values(), *BUILDING_MORPHS, "NydusCanal"):
        return 0.0
    return 2.0 if name == "Queen" else HATCHED.get(name, -1.0)


def hatched(events: list[Raw], player: int) -> list[tuple[int, str]]:
    """Units from eggs, by the egg's first event; queens, which have no egg, by their birth."""
    eggs: dict[tuple[int, int], int] = {}
    births: list[Raw] = []
    found: list[tuple[int, str]] = []
    for event in events:
        if births and event.loop != births[0].loop:
            births = []
        if event.kind == BORN and event.loop and event.fields[3] == player:
            if event.name == "Queen":
                found.append((event.loop - QUEEN_LOOPS, "Queen"))
            elif event.name in HATCHED:
                births.append(event)
        elif event.kind == TYPE_CHANGE and event.name == "Egg":
            eggs[event.tag] = event.loop
        elif event.kind == TYPE_CHANGE and event.tag in eggs and births:
            found.append((eggs.pop(event.tag), births[0].name))
            births = []
    return found


def built(events: list[Raw], player: int) -> list[tuple[int, str]]:
    """Buildings by their placing, unless they died before they were done."""
    begun = {event.tag: event for event in events if event.kind == INIT and event.fields[3] == player and event.loop}
    done = {event.tag for event in events if event.kind == DONE}
    died = {event.tag for event in events if event.kind == DIED}
    return [
        (event.loop, event.name)
        for tag, event in begun.items()
        if (tag in done or tag not in died) and not event.name.startswith("CreepTumor")
    ]


def morphed(events: list[Raw], player: int) -> list[tuple[int, str]]:
    """What grew out of another unit or building of the player."""
    own = {event.tag for event in events if event.kind in (BORN, INIT) and event.fields[3] == player}
    cocoons: dict[tuple[int, int], tuple[int, str]] = {}
    found = []
    for event in events:
        if event.kind == BORN and event.name == "Baneling" and event.fields[3] == player:
            found.append((event.loop - 20 * 16, "Baneling"))
        if event.kind != TYPE_CHANGE or event.tag not in own:
            continue
        if event.name in MORPHED:
            cocoons[event.tag] = event.loop, MORPHED[event.name]
        elif event.name in BUILDING_MORPHS:
            found.append((event.loop - BUILDING_MORPHS[event.name], event.name))
        elif cocoons.get(event.tag, (0, ""))[1] == event.name:
            found.append(cocoons.pop(event.tag))
    return found


def supply_before(events: list[Raw], player: int, loop: int, eggs: list[tuple[int, str]]) -> float:
    """The game's own last count before `loop`, and what hatching, building and dying have changed since."""
    counts = [event for event in events if event.kind == STATS and event.fields[0] == player and event.loop < max(loop, 2)]
    since, supply = counts[-1].loop, counts[-1].fields[1][29] / 4096
    supply += sum(change_by(name) for start, name in eggs if since <= start < loop)
    names = {event.tag: event.name for event in events if event.kind == BORN and event.fields[3] == player}
    placed = {
        event.tag for event in events if event.kind == INIT and event.fields[3] == player and not event.name.startswith("Creep")
    }
    finished = [event.loop for event in events if event.kind == DONE and event.tag in placed]
    for event in events:
        if event.kind == INIT and event.tag in placed and since <= event.loop < loop:
            supply -= 1.0
        elif event.kind == DIED and since <= event.loop < loop:
            name = names.get(event.tag, "")
            used_up = [done for done in finished if name == "Drone" and event.loop - 1 <= done <= event.loop]
            if used_up:
                finished.remove(used_up[0])  # off the count since the placing of the building
            else:
                supply -= 2.0 if name == "Queen" else HATCHED.get(name, 0.0)
    return supply


def boost_start(events: list[Raw], player: int) -> float | None:
    """When the zerglings' speed was begun, in seconds."""
    for event in events:
        if event.kind == UPGRADE and event.fields[0] == player and event.fields[1] == b"zerglingmovementspeed":
            return (event.loop - BOOST_LOOPS) * SECONDS_PER_LOOP
    return None
