"""From timed events to a player's build order: what was ordered, when, and at which supply.

Pure. The rules, each of which a well-known reader of replays gets wrong:
- a unit is ordered when its egg begins, not when it hatches; a morph when it begins, not when it ends;
- what is there at loop 0 is no order; nor is what began, died and was never finished;
- two zerglings hatch from one egg and are one order;
- supply is what the player had before the order; a drone that sits in an unfinished building does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from background_training.starcraft.replays import unit_facts
from background_training.starcraft.replays.supply_count import SupplyCount
from background_training.starcraft.replays.timed_events import Begun, Born, Changed, Died, Done, Event


class Order(NamedTuple):
    """One line of a build order."""

    supply: int
    loop: int
    item: str

    @property
    def seconds(self) -> float:
        return unit_facts.seconds_of(self.loop)


def read_build_order(events: Sequence[Event], player: int) -> list[Order]:
    """Everything the Zerg `player` ordered and got, sorted by its start.

    What has begun and is neither finished nor dead when the game ends was ordered too. An egg that the end
    of the game finds unhatched keeps its secret and is left out. Orders of one loop stay in the order in which
    the game tells of them, and each of them finds the supply that the ones before it have left.

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
    """The starts of one player's orders, gathered event by event."""

    def __init__(self, player: int) -> None:
        self._player = player
        self._starts: list[tuple[int, str]] = []
        self._unfinished: dict[int, Begun] = {}
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
        elif isinstance(event, Begun):
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

    def _take_beginning(self, begun: Begun) -> None:
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
