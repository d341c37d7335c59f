"""The other processes of a training: they train the value network meanwhile, and make parts of both networks' gradients.

What they make is what the worker would have made, bit for bit. So any of them may be missing, slow, hang or be killed at
any moment: what it has not finished is done again by those who are left.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Any

import psutil

from local_training import passes
from local_training.settings import LearnerSettings
from local_training.shared_work import CriticOutcome, CriticTask, Here, Share, Task
from tools.learner import hands
from tools.learner.hands import MemberHands, Who
from tools.learner.member import Member
from tools.learner.restart_budget import RestartBudget
from tools.learner.seats import Seats

KEPT_SECONDS = 30.0
"""Members are kept for so long after they were last needed."""
_READY_SECONDS = 30.0
_FREE_SECONDS = 0.05
"""A member that is told that it has done enough sees so at its next part of a gradient."""


class Crew:
    """Offers itself to lessons (see `shared_work`), and starts, ends and replaces its members.

    It promises that a lesson's outcome does not depend on it, and that after `close` no process of it is left.

    Attributes:
        taken_over: value networks of lessons that members have trained.
        done_again: pieces of work that a member began and others did.
    """

    def __init__(
        self, settings: LearnerSettings, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; nothing is started yet. `say` is given sentences for people."""
        self._settings = settings
        self._budget = RestartBudget(settings.restart_limit)
        self._say = say
        self._clock = clock
        self._forced = settings.share_from == 0
        self._needed_until = float("-inf")
        self._seats: Seats | None = None
        self._members: dict[int, Member] = {}
        self._start_due: float | None = float("-inf")
        self._lives = itertools.count(1)
        self._lessons = itertools.count(1)
        self._parts = self._newest_parts = 1
        self._for_policy: list[Member] = []
        self._leaders: list[Member] = []
        self._hands: MemberHands | None = None
        self.taken_over = 0
        self.done_again = 0

    @property
    def size(self) -> int:
        """Members at work or ready for it."""
        return len(self._members)

    def tend(self, allowed: int, waiting: int) -> None:
        """Have as many members as load and backlog want; to be called between batches.

        Args:
            allowed: processes that may work, this one included.
            waiting: files that wait, those of the next batch included. One batch alone is not worth a start.
        """
        if waiting > self._settings.batch_size or self._forced:
            self._needed_until = self._clock() + KEPT_SECONDS
        for member in list(self._members.values()):
            fault = self._fault_of(member)
            if fault:
                self._replace(member, fault)
        # There is no work for more than one on each part that either network's minibatches have.
        self._parts, self._newest_parts = self._newest_parts or self._parts, 0
        wanted = min(allowed, self._settings.max_workers) - 1 if self._clock() < self._needed_until else 0
        if not self._forced:
            wanted = min(wanted, 2 * self._parts - 1)
        self.limit(wanted + 1)
        if wanted <= 0:
            self.close()
        while len(self._members) < wanted and self._start_due is not None and self._clock() >= self._start_due:
            self._start_one()

    def begin(self, task: CriticTask) -> Share | None:
        self._newest_parts = max(self._newest_parts, len(passes.parts_of(task.pace.minibatch_steps, task.sizes.hidden)))
        self._for_policy, self._leaders = [], []
        if not self._is_worth_it(task):
            return None
        free = self._free_members()
        if not free:
            return None
        leader, others = free[0], free[1:]
        most = self._most_hands(task)
        self._for_policy, for_value = others[0::2][:most], others[1::2][:most]
        try:
            leader.begin(task, next(self._lessons), for_value)
        except (OSError, ValueError) as error:
            self._replace(leader, f"it takes no order ({error})")
            return None
        self._leaders = [leader]
        return _Elsewhere(self, leader, task)

    def hands(self, task: Task) -> MemberHands | None:
        chosen = self._free_members() if isinstance(task, CriticTask) else self._for_policy
        most = self._most_hands(task)
        chosen, later = chosen[:most], self._leaders[: most - len(chosen)]
        if not (chosen or later) or not self._is_worth_it(task) or self._seats is None:
            return None

        def reserve() -> list[Who]:
            """Whoever has trained the value network to its end and has nothing to do any more."""
            found = [member for member in later if member.free and not member.gone]
            for member in found:
                later.remove(member)
            return [member.who for member in found]

        who, lesson = [member.who for member in chosen], next(self._lessons)
        self._hands = MemberHands(self._seats, who, task, lesson, self._is_lost, self._lose, hands.HANG_SECONDS, reserve)
        return self._hands

    def hold(self, standing: bool) -> None:
        """Stand still with the worker, and go on with it."""
        for member in self._members.values():
            member.hold(standing)

    def limit(self, allowed: int) -> None:
        """Have at most so many processes work, this one included, from now on: those that are too many leave their work to
        the others, in the middle of a lesson too."""
        for seat in sorted(self._members)[max(allowed - 1, 0) :]:
            self._dismiss(self._members[seat])

    def pids(self) -> list[int]:
        return [member.process.pid for member in self._members.values()]

    def close(self) -> None:
        self._hands = None
        while self._members:
            self._members.popitem()[1].end()
        if self._seats is not None:
            self._seats.close()
            self._seats = None

    def note_failure(self, member: Member) -> None:
        """A task was not done; the member that should have done it is replaced."""
        self.done_again += 1
        self._leaders = []
        self._replace(member, "it died or hung in the middle of a lesson")

    def _is_worth_it(self, task: Task) -> bool:
        return len(task.orders) * len(task.states) * len(task.begun.weights) >= self._settings.share_from

    def _most_hands(self, task: Task) -> int:
        """How many members beside its leader a network can use: one for each part of a minibatch."""
        return len(passes.parts_of(min(task.pace.minibatch_steps, len(task.states)), task.sizes.hidden)) - 1

    def _free_members(self) -> list[Member]:
        """All that have nothing to do, in the order of their seats."""
        if self._hands is not None:
            self._hands.settle()
            self._hands = None
        end = time.monotonic() + (_READY_SECONDS if self._forced else _FREE_SECONDS)
        there = [self._members[seat] for seat in sorted(self._members) if self._forced or self._members[seat].ready]
        return [member for member in there if member.wait_free(max(0.0, end - time.monotonic()))]

    def _start_one(self) -> None:
        try:
            if self._seats is None:
                self._seats = Seats(self._settings.max_workers - 1)
            seat = min(set(range(self._settings.max_workers - 1)) - set(self._members))
            self._members[seat] = Member(self._seats, Who(seat, next(self._lives)), self._hear)
        except OSError as error:
            self._note_death(f"it can't be started ({error})")

    def _hear(self, member: Member, said: dict[str, Any]) -> None:
        """What a member tells, in the thread that listens to it."""
        if "free" in said and said["lesson"] == member.lesson:
            helpers, member.lent = member.lent, []
            for helper in helpers:
                helper.set_free()
        elif "lost" in said:
            for helper in member.lent:
                if list(helper.who) == said["lost"]:
                    self.done_again += 1
                    helper.kill("it hung in the middle of a lesson")
        elif "gone" in said:
            for leader in list(self._members.values()):
                if member in leader.lent:
                    with contextlib.suppress(OSError, ValueError):
                        leader.order(do="lose", who=member.who)

    def _is_lost(self, who: Who) -> bool:
        member = self._members.get(who.seat)
        return member is None or member.who != who or member.gone

    def _lose(self, who: Who) -> None:
        """One of our own hands owes something and will not deliver."""
        self.done_again += 1
        member = self._members.get(who.seat)
        if member is not None and member.who == who:
            self._replace(member, "it died or hung in the middle of a lesson")

    def _replace(self, member: Member, reason: str) -> None:
        if self._members.get(member.who.seat) is member:
            self._dismiss(member)
            self._note_death(reason)

    def _dismiss(self, member: Member) -> None:
        """End a member; those that help it leave what they do for it."""
        for helper in member.lent:
            with contextlib.suppress(OSError, ValueError):
                helper.forget(member.lesson)
        del self._members[member.who.seat]
        member.end()

    def _note_death(self, reason: str) -> None:
        wait_seconds = self._budget.back_off(self._clock())
        self._start_due = None if wait_seconds is None else self._clock() + wait_seconds
        then = "the training goes on without it" if wait_seconds is None else f"another is started in {wait_seconds:.1f} s"
        self._say(f"a training process is gone: {reason}; {then}. Its work is done again")

    def _fault_of(self, member: Member) -> str:
        """Why it has to be replaced; "" if it need not."""
        if member.gone:
            return member.fault or "it died"
        if member.hangs():
            return "it hung"
        try:
            size = psutil.Process(member.process.pid).memory_info().rss
        except psutil.Error:
            return ""
        return "it used too much memory" if size > self._settings.worker_memory_bytes else ""


class _Elsewhere:
    """A task that a member works on; its outcome is made here when that fails."""

    def __init__(self, crew: Crew, member: Member, task: CriticTask) -> None:
        self._crew, self._member, self._task = crew, member, task

    def after(self, epochs: int) -> CriticOutcome:
        outcome = self._member.result(epochs)
        if outcome is not None:
            self._crew.taken_over += 1
            return outcome
        self._crew.note_failure(self._member)
        return Here(self._task).after(epochs)
