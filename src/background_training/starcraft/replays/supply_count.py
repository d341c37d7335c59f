"""How much supply a Zerg player uses at a given loop, counted from the events of the game."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from background_training.starcraft.replays import unit_facts
from background_training.starcraft.replays.timed_events import Begun, Born, Changed, Died, Done, Event


class SupplyCount:
    """The supply one player uses, loop by loop.

    A unit counts from the loop in which its egg begins until its death. A drone that enters a building stays alive,
    for the game, until the loop after the building is done; it is taken off for as long as it sits inside.

    It does not know of eggs that never hatched: while such an egg lived, the count is short by its unit.
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
    """(loop, change of supply), gathered event by event."""

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
        elif isinstance(event, Begun):
            if event.player == self._player and event.name not in unit_facts.NOT_BUILT_BY_DRONES:
                self._with_drone_inside.add(event.unit)
                self._change(event.loop, -1.0)
        elif isinstance(event, Changed):
            if event.unit in self._supplies:
                supply = unit_facts.supply_of(event.name)
                self._change(event.loop, supply - self._supplies[event.unit])
                self._supplies[event.unit] = supply
        elif isinstance(event, Done):
            # The drone that sat inside is reported dead one loop later; until then it must not be seen alive.
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
