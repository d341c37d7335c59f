"""The leading side of members that make parts of gradients: lays a network's task before them, and gives out jobs.

Whoever trains a network leads: the worker for one, a member for the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from local_training import yield_point
from local_training.hands import Job, Made
from local_training.objectives import Description, Sums
from local_training.shared_work import Task
from tools.learner import shared_desk
from tools.learner.seats import BEAT
from tools.learner.shared_desk import Array, Layout, SharedMemory

HANG_SECONDS = 10.0
"""A member that owes something and shows no life for so long is given up."""
LOOK_SECONDS = 0.02
_LONGEST_LOOK_SECONDS = 0.5


class Who(NamedTuple):
    """A member: its seat, and the how manieth process on it that is, so that what was meant for a dead one is known by it."""

    seat: int
    life: int


class Silence:
    """How long a member has shown no life, as seen by who looks again and again.

    A look that comes late counts as one of half a second: when the machine stood still, or another was let run, the member
    stood still too, and is not to blame.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat = -1
        self._seconds = 0.0
        self._looked = clock()

    def seconds(self, beat: int) -> float:
        """Look at its beat; the seconds since that last changed."""
        moment = self._clock()
        self._seconds = 0.0 if beat != self._beat else self._seconds + min(moment - self._looked, _LONGEST_LOOK_SECONDS)
        self._beat, self._looked = beat, moment
        return self._seconds


class Table(Protocol):
    """The seats, as worker and members both have them."""

    flags: Array
    desks: list[SharedMemory]
    near: list[Any]


class HandDesk(NamedTuple):
    """What lies before a hand."""

    states: Array
    orders: Array
    """[E, T] int64"""
    steps: list[Array]
    """What the objective is made of."""
    weights: Array
    gradient: Array
    outputs: Array

    @staticmethod
    def of(arrays: Sequence[Array]) -> HandDesk:
        states, orders, *steps, weights, gradient, outputs = arrays
        return HandDesk(states, orders, steps, weights, gradient, outputs)


class MemberHands:
    """Members who help with one task; see `local_training.hands`.

    It promises that `made` does not wait for a dead or hanging one for ever, and that after `settle` nobody writes into the
    memory any more, but for those that were reported to `lose`.
    """

    def __init__(
        self,
        table: Table,
        members: Sequence[Who],
        task: Task,
        lesson: int,
        is_lost: Callable[[Who], bool],
        lose: Callable[[Who], None],
        patience: float,
        reserve: Callable[[], Sequence[Who]] = tuple,
    ) -> None:
        """Lay the task before all of them.

        Args:
            lesson: a number greater than that of any former task.
            is_lost: whether a member is known to have ended.
            lose: told of a member that will not deliver what it owes.
            patience: seconds without a sign of life after which one is given up.
            reserve: members that have become free meanwhile and may join, each named once.
        """
        self._is_lost, self._lose, self._patience = is_lost, lose, patience
        self._table, self._task, self._lesson, self._reserve = table, task, lesson, reserve
        self._hands: list[_Hand] = []
        self._asked: list[_Hand] = []
        self._join(members)

    def _join(self, members: Sequence[Who]) -> None:
        for who in members:
            hand = _Hand(self._table, who, self._lesson)
            try:
                hand.lay(self._task, self._task.objective.described())
                self._hands.append(hand)
            except (OSError, ValueError):
                self._lose(who)

    def count(self) -> int:
        self._join(self._reserve())
        return len(self._hands)

    def share(self, weights: Array, steps_taken: int, jobs: Sequence[Job]) -> None:
        self._asked = self._hands[: len(jobs)]
        for hand, job in zip(self._asked, jobs, strict=True):
            hand.ask(weights, steps_taken, job)

    def made(self, number: int) -> Made | None:
        hand = self._asked[number]
        made = hand.made(self._is_lost, yield_point.reached, self._patience)
        if made is None:
            self._hands.remove(hand)
            self._lose(hand.who)
        return made

    def settle(self) -> None:
        """Wait until nobody works on anything any more, as when a task is broken off."""
        for hand in [hand for hand in self._hands if hand.owes]:
            if hand.made(self._is_lost, lambda: None, self._patience) is None:
                self._hands.remove(hand)
                self._lose(hand.who)


class _Hand:
    """One member at its desk."""

    def __init__(self, table: Table, who: Who, lesson: int) -> None:
        self.who = who
        self.owes = False
        self._lesson = lesson
        self._memory = table.desks[who.seat]
        self._flags = table.flags[who.seat]
        self._end = table.near[who.seat]
        self._number = 0
        self._steps_taken = -1
        self._job = Job(0, 0)

    def lay(self, task: Task, described: Description) -> None:
        """Raises OSError: no memory is left, or it takes nothing."""
        steps, columns = task.states.shape
        size = len(task.begun.weights)
        layout: Layout = [
            ((steps, columns), "<f4"),
            ((len(task.orders), steps), "<i8"),
            *shared_desk.layout_of(described.arrays),
            ((size,), "<f4"),
            ((size,), "<f4"),
            ((steps, task.sizes.outputs), "<f4"),
        ]
        self._desk = HandDesk.of(self._memory.arrays(layout))
        self._desk.states[...] = task.states
        for row, order in zip(self._desk.orders, task.orders, strict=True):
            row[...] = order
        for place, array in zip(self._desk.steps, described.arrays, strict=True):
            place[...] = array
        where = {"memory": self._memory.whereabouts, "layout": layout}
        self._send({**where, "sizes": task.sizes, "objective": described.facts})

    def ask(self, weights: Array, steps_taken: int, job: Job) -> None:
        if steps_taken != self._steps_taken:
            self._desk.weights[...] = weights
            self._steps_taken = steps_taken
        self._number += 1
        self._job = job
        self.owes = True
        self._send({"number": self._number, "job": job})

    def made(self, is_lost: Callable[[Who], bool], rest: Callable[[], None], patience: float) -> Made | None:
        """Wait for the last job; None if it will not be done."""
        try:
            sums = self._answer(is_lost, rest, patience)
        except (OSError, EOFError, ValueError):
            sums = None
        if sums is None:
            return None
        self.owes = False
        start, stop, epoch = self._job
        return Made(self._desk.outputs[start:stop] if epoch < 0 else self._desk.gradient, sums)

    def _answer(self, is_lost: Callable[[Who], bool], rest: Callable[[], None], patience: float) -> Sums | None:
        silence = Silence()
        while True:
            if self._end.poll(LOOK_SECONDS):
                said = json.loads(self._end.recv_bytes())
                if (said["lesson"], said["number"]) == (self._lesson, self._number):
                    return tuple(said["sums"])
                continue
            rest()
            if silence.seconds(int(self._flags[BEAT])) > patience or is_lost(self.who):
                return None

    def _send(self, message: dict[str, Any]) -> None:
        self._end.send_bytes(json.dumps({"life": self.who.life, "lesson": self._lesson, **message}).encode())
