"""The second process of a training: does the value network's part of each lesson while the worker does the policy's.

What it makes is what the worker would have made, bit for bit. So it may be missing, slow, hang or be killed at any moment:
what it has not finished is done again by the worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

from local_training import yield_point
from local_training.blas_threads import limit_blas_threads
from local_training.optimizer import Moments
from local_training.paths import CHECKOUT
from local_training.settings import LearnerSettings
from local_training.shared_work import CriticOutcome, CriticTask, Here, Share
from local_training.training_state import Trainable
from tools.learner import child_process
from tools.learner.restart_budget import RestartBudget
from tools.learner.shared_desk import BEAT, ENOUGH, HOLD, Desk, Shape, SharedMemory

HANG_SECONDS = 10.0
"""A member that shows no life for so long is replaced."""
KEPT_SECONDS = 30.0
"""A member is kept for so long after it was last needed."""
_LOOK_SECONDS = 0.02
_READY_SECONDS = 30.0
_FREE_SECONDS = 0.05
"""A member that is told that it has done enough sees so at its next part of a gradient."""
_NEVER = 1 << 40


class Member:
    """One process of the crew, and the desk between it and us.

    It promises that the process is gone when `end` returns, and that no memory outlives both sides.
    """

    def __init__(self) -> None:
        """Start it.

        Raises:
            OSError: the machine starts no process, or gives no memory.
        """
        self._memory = SharedMemory()
        environment = child_process.child_environment(dict(os.environ))
        limit_blas_threads(environment)
        inherited: dict[str, Any] = {"pass_fds": self._memory.inherited} if self._memory.inherited else {}
        # In the worker's own session: it has the low priority that a session of its own would have to be given again.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.learner.crew_member"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=CHECKOUT,
            env=environment,
            **inherited,
            **child_process.without_window(),
        )
        self.news = threading.Condition()
        self.gone = False
        self.ready = False
        self.free = False
        self.lesson = 0
        self.epochs: list[dict[str, Any]] = []
        self._desk: Desk | None = None
        self._thread = threading.Thread(target=self._listen, name="background-learner-crew", daemon=True)
        self._thread.start()

    def begin(self, task: CriticTask) -> None:
        """Lay a task on the desk and order it; the member is free.

        Raises:
            OSError: it is gone, or there is no memory.
        """
        weights, moments = task.begun.weights, task.begun.moments
        steps, columns = task.states.shape
        shape = Shape(steps, columns, len(task.orders), len(weights))
        desk = self._memory.desk(shape)
        self._desk = desk
        desk.flags[:] = 0
        desk.flags[ENOUGH] = _NEVER
        desk.states[...] = task.states
        desk.targets[...] = task.targets
        for row, order in zip(desk.orders, task.orders, strict=True):
            row[...] = order
        desk.begun[...] = (weights, moments.first, moments.second)
        with self.news:
            self.lesson += 1
            self.epochs = []
            self.free = False
        where = {"handle": self._memory.handle, "size": self._memory.size, "shape": shape, "lesson": self.lesson}
        self._order({**where, "sizes": task.sizes, "pace": tuple(vars(task.pace).values()), "optimizer_steps": moments.steps})

    def hold(self, standing: bool) -> None:
        """Make it stand still, or go on."""
        if self._desk is not None:
            self._desk.flags[HOLD] = int(standing)

    def result(self, epochs: int) -> CriticOutcome | None:
        """What it made of the first so many epochs, as soon as that is there; None if it will not be.

        A member that hangs is killed.
        """
        assert self._desk is not None
        self._desk.flags[ENOUGH] = epochs
        alive_at, beat = time.monotonic(), -1
        while True:
            with self.news:
                if len(self.epochs) >= epochs:
                    break
                if self.gone:
                    return None
                self.news.wait(_LOOK_SECONDS)
            yield_point.reached()
            if int(self._desk.flags[BEAT]) != beat:
                alive_at, beat = time.monotonic(), int(self._desk.flags[BEAT])
            elif time.monotonic() - alive_at > HANG_SECONDS:
                self.process.kill()
                return None
        weights, first, second = self._desk.results[epochs - 1].copy()
        facts = self.epochs[epochs - 1]
        return CriticOutcome(Trainable(weights, Moments(first, second, facts["optimizer_steps"])), facts["loss"])

    def wait_free(self, seconds: float) -> bool:
        with self.news:
            return self.news.wait_for(lambda: self.free or self.gone, seconds) and not self.gone

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        self._desk = None
        self._memory.close()

    def _order(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                break  # the last words of one that was killed while it spoke
            with self.news:
                if "ready" in said:
                    self.ready = self.free = True
                elif "free" in said:
                    self.free = True
                elif said["lesson"] == self.lesson:
                    self.epochs.append(said)
                self.news.notify_all()
        with self.news:
            self.gone = True
            self.news.notify_all()


class Crew:
    """Offers itself to lessons (see `shared_work`), and starts, ends and replaces its member.

    It promises that a lesson's outcome does not depend on it, and that after `close` no process of it is left.
    """

    def __init__(
        self, settings: LearnerSettings, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; nothing is started yet. `say` is given sentences for people."""
        self._settings = settings
        self._budget = RestartBudget(settings.restart_limit)
        self._say = say
        self._clock = clock
        self._needed_until = float("-inf")
        self._member: Member | None = None
        self._start_due: float | None = float("-inf")
        self.taken_over = 0
        self.done_again = 0

    @property
    def size(self) -> int:
        """Members at work or ready for it."""
        return int(self._member is not None)

    def tend(self, allowed: int, waiting: int) -> None:
        """Have a member or none, as load and backlog want it; to be called between batches.

        Args:
            allowed: processes that may work, this one included.
            waiting: files that wait, those of the next batch included. One batch alone is not worth a start.
        """
        if waiting > self._settings.batch_size or self._settings.share_from == 0:
            self._needed_until = self._clock() + KEPT_SECONDS
        member = self._member
        if member is not None and (member.gone or self._too_large(member)):
            self._replace("it used too much memory" if not member.gone else "it died")
        if allowed < 2 or self._clock() >= self._needed_until:
            self.close()
        elif self._member is None and self._start_due is not None and self._clock() >= self._start_due:
            try:
                self._member = Member()
            except OSError as error:
                self._note_death(f"it can't be started ({error})")

    def begin(self, task: CriticTask) -> Share | None:
        member = self._member
        work = len(task.orders) * len(task.states) * len(task.begun.weights)
        if member is None or work < self._settings.share_from:
            return None
        forced = self._settings.share_from == 0
        if not (member.ready or forced) or not member.wait_free(_READY_SECONDS if forced else _FREE_SECONDS):
            return None
        try:
            member.begin(task)
        except (OSError, ValueError) as error:
            self._replace(f"it takes no order ({error})")
            return None
        return _Elsewhere(self, member, task)

    def hold(self, standing: bool) -> None:
        """Stand still with the worker, and go on with it."""
        if self._member is not None:
            self._member.hold(standing)

    def close(self) -> None:
        if self._member is not None:
            self._member.end()
            self._member = None

    def note_failure(self, member: Member) -> None:
        """A task was not done; the member that should have done it is replaced."""
        self.done_again += 1
        if member is self._member:
            self._replace("it died or hung in the middle of a lesson")

    def _replace(self, reason: str) -> None:
        self.close()
        self._note_death(reason)

    def _note_death(self, reason: str) -> None:
        wait_seconds = self._budget.back_off(self._clock())
        self._start_due = None if wait_seconds is None else self._clock() + wait_seconds
        then = "the training goes on without it" if wait_seconds is None else f"another is started in {wait_seconds:.1f} s"
        self._say(f"the second training process is gone: {reason}; {then}. Its work is done again")

    def _too_large(self, member: Member) -> bool:
        try:
            return bool(psutil.Process(member.process.pid).memory_info().rss > self._settings.worker_memory_bytes)
        except psutil.Error:
            return False


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
