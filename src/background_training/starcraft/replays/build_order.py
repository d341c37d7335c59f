"""From timed events to a player's build order: what was ordered, when, and at which supply.

Pure. The rules, each of which some well-known replay parser gets wrong:
- a unit is ordered when its egg starts, not when it hatches; a morph when it starts, not when it ends;
- what exists at loop 0 is no order; nor is what was started and died unfinished;
- two zerglings hatch from one egg and are one order;
- supply is what the player had before the order; a drone that sits in an unfinished building does not count.

From a build order follow its opening (the order of hatchery, extractor and pool) and its key timings.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from background_training.starcraft.replays import unit_facts
from background_training.starcraft.replays.game import Born, Changed, Died, Done, Event, Researched, Started


class SupplyCount:
    """The supply one player uses, loop by loop.

    A unit counts from the loop in which its egg starts until its death. For the game, a drone that becomes a building is alive
    until the loop after the building is finished; here it does not count meanwhile.

    Eggs that never hatched are unknown: while such an egg existed, the count is short by its unit.
    """

    def __init__(self, events: Sequence[Event], player: int) -> None:
        steps = _Steps(player)
        for event in events:
            steps.take(event)
        changes = sorted(steps.changes)
        self._loops = [loop for loop, _ in changes]
        self._totals = [0.0, *accumulate(change for _, change in changes)]

    def at(self, loop: int) -> float:
        """The supply used when `loop` begins, before anything happens in it."""
        return self._totals[bisect_left(self._loops, loop)]


class _Steps:
    """(loop, change of supply), collected event by event."""

    def __init__(self, player: int) -> None:
        self.changes: list[tuple[int, float]] = []
        self._player = player
        self._supplies: dict[int, float] = {}
        self._with_drone_inside: set[int] = set()

    def take(self, event: Event) -> None:
        if isinstance(event, Born):
            if event.player == self._player:
                self._supplies[event.unit] = supply = unit_facts.supply_of(event.name)
                self._change(unit_facts.supply_loop(event.loop, event.name), supply)
        elif isinstance(event, Started):
            if event.player == self._player and event.name not in unit_facts.NOT_BUILT_BY_DRONES:
                self._with_drone_inside.add(event.unit)
                self._change(event.loop, -1.0)
        elif isinstance(event, Changed):
            if event.unit in self._supplies:
                supply = unit_facts.supply_of(event.name)
                self._change(event.loop, supply - self._supplies[event.unit])
                self._supplies[event.unit] = supply
        elif isinstance(event, Done):
            # The drone is reported dead one loop later; until then it must not count.
            self._let_drone_out(event.unit, event.loop + 1)
        elif isinstance(event, Died):
            self._let_drone_out(event.unit, event.loop)
            self._change(event.loop, -self._supplies.pop(event.unit, 0.0))

    def _let_drone_out(self, building: int, loop: int) -> None:
        if building in self._with_drone_inside:
            self._with_drone_inside.remove(building)
            self._change(loop, 1.0)

    def _change(self, loop: int, supply: float) -> None:
        if supply:
            self.changes.append((loop, supply))


class Order(NamedTuple):
    """One line of a build order."""

    supply: int
    loop: int
    item: str

    @property
    def seconds(self) -> float:
        return unit_facts.seconds_of(self.loop)


def read_build_order(events: Sequence[Event], player: int) -> list[Order]:
    """Everything that the Zerg `player` ordered and got, sorted by its start.

    What was started and is neither finished nor dead when the game ends was ordered too. An egg that has not hatched by the end
    of the game is left out, since its content is unknown. Orders of one loop stay in the order of their events, and the supply of
    each includes the ones before it.

    Args:
        events: of the whole game, all players, in the order of the game.
        player: the number of the player.
    """
    starts = _Starts(player)
    for event in events:
        starts.take(event)
    supply = SupplyCount(events, player)
    orders: list[Order] = []
    loop, taken_in_this_loop = -1, 0.0
    for start_loop, item in starts.in_order():
        if start_loop != loop:
            loop, taken_in_this_loop = start_loop, 0.0
        orders.append(Order(int(supply.at(loop) + taken_in_this_loop), loop, item))
        taken_in_this_loop += unit_facts.supply_of_order(item)
    return orders


class _Starts:
    """The starts of one player's orders, collected event by event."""

    def __init__(self, player: int) -> None:
        self._player = player
        self._starts: list[tuple[int, str]] = []
        self._unfinished: dict[int, Started] = {}
        self._names: dict[int, str] = {}
        self._cocoon_loops: dict[int, int] = {}
        self._lone_zergling_loop = -1

    def in_order(self) -> list[tuple[int, str]]:
        """(loop, item), with what is still unfinished; sorting is stable, so that ties keep the game's order."""
        unfinished = [(begun.loop, begun.name) for begun in self._unfinished.values()]
        return sorted([*self._starts, *unfinished], key=lambda start: start[0])

    def take(self, event: Event) -> None:
        if isinstance(event, Born):
            if event.player == self._player:
                self._take_birth(event)
        elif isinstance(event, Started):
            if event.player == self._player:
                self._take_beginning(event)
        elif isinstance(event, Done):
            if begun := self._unfinished.pop(event.unit, None):
                self._starts.append((begun.loop, begun.name))
        elif isinstance(event, Changed):
            if event.unit in self._names:
                self._take_change(event, self._names[event.unit])
        elif isinstance(event, Died):
            self._unfinished.pop(event.unit, None)

    def _take_birth(self, born: Born) -> None:
        self._names[born.unit] = born.name
        if born.loop == 0 or born.name not in unit_facts.BUILD_LOOPS:
            return
        if born.name == "Zergling":
            second_of_its_egg = self._lone_zergling_loop == born.loop
            self._lone_zergling_loop = -1 if second_of_its_egg else born.loop
            if second_of_its_egg:
                return
        self._starts.append((unit_facts.order_loop(born.loop, born.name), born.name))

    def _take_beginning(self, begun: Started) -> None:
        self._names[begun.unit] = begun.name
        if begun.loop > 0 and begun.name not in unit_facts.NOT_ORDERED:
            self._unfinished[begun.unit] = begun

    def _take_change(self, change: Changed, old_name: str) -> None:
        self._names[change.unit] = change.name
        if change.name in unit_facts.COCOONS:
            self._cocoon_loops[change.unit] = change.loop
        elif unit_facts.COCOONS.get(old_name) == change.name:
            self._starts.append((self._cocoon_loops.pop(change.unit), change.name))
        elif change.name in unit_facts.MORPH_LOOPS and change.name != old_name:
            self._starts.append((unit_facts.order_loop(change.loop, change.name), change.name))


Line = tuple[int, float, str]
"""(supply, start in seconds, item), a line of a build order as results keep it."""

SHORT_NAMES = {"Hatchery": "hatch", "Extractor": "gas", "ExtractorRich": "gas", "SpawningPool": "pool"}

EARLY_POOL_DRONES = 2
"""A pool within this many drones after the start is an early pool: a rush, not an economic opening."""

TEXT_BUILDINGS = 6
"""Buildings an opening's text names at most."""


class OpeningName(NamedTuple):
    """`key` is the name of the kind of opening ("hatch-gas-pool"); `text` is this player's ("17 hatch, 18 gas, 17 pool")."""

    key: str
    text: str


def opening_of(build_order: Sequence[Line], start_supply: int) -> OpeningName:
    """Name the opening of one build order.

    The key lists hatcheries, extractors and the pool up to the pool: "hatch-gas-pool", "hatch-hatch-pool",
    "gas-pool". What begins with the pool is "early-pool" up to two drones after the start, else "pool-first". Without
    any pool it is "no-pool". The text goes on until hatchery, extractor and pool have each been named, six buildings at most.
    """
    buildings = [(supply, SHORT_NAMES[item]) for supply, _, item in build_order if item in SHORT_NAMES]
    names = [name for _, name in buildings]
    return OpeningName(_key(names, buildings, start_supply), _text(names, buildings))


def _key(names: list[str], buildings: list[tuple[int, str]], start_supply: int) -> str:
    if "pool" not in names:
        return "no-pool"
    until_pool = names[: names.index("pool") + 1]
    if len(until_pool) > 1:
        return "-".join(until_pool[:TEXT_BUILDINGS])
    return "early-pool" if buildings[0][0] <= start_supply + EARLY_POOL_DRONES else "pool-first"


def _text(names: list[str], buildings: list[tuple[int, str]]) -> str:
    firsts = [names.index(name) for name in ("hatch", "gas", "pool") if name in names]
    length = min(TEXT_BUILDINGS, max(firsts, default=-1) + 1)
    return ", ".join(f"{supply} {name}" for supply, name in buildings[:length])


FIRST_ORDERS = {
    "spawning_pool": ("SpawningPool",),
    "extractor": ("Extractor", "ExtractorRich"),
    "queen": ("Queen",),
    "roach_warren": ("RoachWarren",),
    "hydralisk_den": ("HydraliskDen",),
    "lair": ("Lair",),
    "hive": ("Hive",),
}
"""Timings that are the start of the first order of an item."""

BASES = ("base_2", "base_3", "base_4")
"""The first, second and third hatchery ordered; the start hatchery is base 1. A macro hatchery counts as a base."""

RESEARCH = {"metabolic_boost": "zerglingmovementspeed"}

NAMES = ("spawning_pool", "extractor", *BASES, "queen", "roach_warren", "hydralisk_den", "lair", "hive", *RESEARCH)
"""Every key timing, in the order in which tables show them."""


class Timing(NamedTuple):
    """The start of something, in seconds of play, and the supply used just before."""

    seconds: float
    supply: int


def key_timings(orders: Sequence[Order], events: Sequence[Event], player: int) -> dict[str, Timing]:
    """The key timings of one player; what the player never ordered is left out.

    Args:
        orders: the player's build order, sorted by start.
        events: of the whole game, with the ends of research.
    """
    found: dict[str, Timing] = {}
    for name, items in FIRST_ORDERS.items():
        for order in orders:
            if order.item in items:
                found[name] = Timing(order.seconds, order.supply)
                break
    hatcheries = (order for order in orders if order.item == "Hatchery")
    found.update({name: Timing(order.seconds, order.supply) for name, order in zip(BASES, hatcheries, strict=False)})
    found.update(_research_timings(events, player))
    return {name: found[name] for name in NAMES if name in found}


def _research_timings(events: Sequence[Event], player: int) -> dict[str, Timing]:
    """Only the end of research is recorded; it was started its whole duration before."""
    found: dict[str, Timing] = {}
    supply = SupplyCount(events, player)
    for name, upgrade in RESEARCH.items():
        for event in events:
            if isinstance(event, Researched) and event.player == player and event.name == upgrade:
                loop = max(0, event.loop - unit_facts.RESEARCH_LOOPS[upgrade])
                found[name] = Timing(unit_facts.seconds_of(loop), int(supply.at(loop)))
                break
    return found
