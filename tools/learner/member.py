"""One process of a crew as the worker sees it: started, given orders, listened to, ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from local_training import yield_point
from local_training.blas_threads import limit_blas_threads
from local_training.optimizer import Moments
from local_training.paths import CHECKOUT
from local_training.shared_work import CriticOutcome, CriticTask
from local_training.training_state import Trainable
from tools.learner import child_process, hands, shared_desk
from tools.learner.hands import LOOK_SECONDS, Who
from tools.learner.seats import BEAT, ENOUGH, HOLD, Seats
from tools.learner.shared_desk import Array

_NEVER = 1 << 40


class Member:
    """One process of the crew.

    It promises that the process is gone when `end` returns.

    Attributes:
        ready: it has come up.
        free: it works for nobody; also of one that is not ready yet.
        gone: the process has ended.
        lent: the members that help it with the present lesson.
        fault: why it was killed, if it was.
    """

    def __init__(self, seats: Seats, who: Who, told: Callable[[Member, dict[str, Any]], None]) -> None:
        """Start it; `told` is called by a thread of its own with what it says, and at last with {"gone": True}.

        Raises:
            OSError: the machine starts no process.
        """
        self.who = who
        self._seats = seats
        self._told = told
        self.news = threading.Condition()
        self._orders = threading.Lock()
        self.ready = self.gone = False
        self.free = True
        self.lent: list[Member] = []
        self.fault = ""
        self.lesson = 0
        self.epochs: list[dict[str, Any]] = []
        self._results: Array | None = None
        self._forgetting = 0
        self._seen = (-1, 0.0)
        facts, handed_on = seats.of_child(who.seat)
        seats.flags[who.seat] = 0
        environment = child_process.child_environment(dict(os.environ))
        limit_blas_threads(environment)
        # In the worker's own session: it has the low priority that a session of its own would have to be given again.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.learner.crew_member", json.dumps({**facts, "life": who.life})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=CHECKOUT,
            env=environment,
            **handed_on,
            **child_process.without_window(),
        )
        self._thread = threading.Thread(target=self._listen, name="background-learner-crew", daemon=True)
        self._thread.start()

    def begin(self, task: CriticTask, lesson: int, helpers: Sequence[Member]) -> None:
        """Lay a task before it and order it, with others to help; all of them are free.

        Raises:
            OSError: it is gone, or there is no memory.
        """
        begun, described = task.begun, task.objective.described()
        steps, size = len(task.states), len(begun.weights)
        layout: shared_desk.Layout = [
            (task.states.shape, "<f4"),
            ((len(task.orders), steps), "<i8"),
            *shared_desk.layout_of(described.arrays),
            ((3, size), "<f4"),
            ((len(task.orders), 3, size), "<f4"),
        ]
        memory = self._seats.tasks[self.who.seat]
        states, orders, *values, weights, self._results = memory.arrays(layout)
        states[...] = task.states
        for row, order in zip(orders, task.orders, strict=True):
            row[...] = order
        for place, array in zip(values, described.arrays, strict=True):
            place[...] = array
        weights[...] = (begun.weights, begun.moments.first, begun.moments.second)
        self._seats.flags[self.who.seat, ENOUGH] = _NEVER
        with self.news:
            self.lesson, self.epochs = lesson, []
            self.lent = list(helpers)
            for member in (self, *helpers):
                member.free = False
        where = {"memory": memory.whereabouts, "layout": layout, "lesson": lesson, "sizes": task.sizes}
        pace = {"pace": tuple(vars(task.pace).values()), "optimizer_steps": begun.moments.steps}
        helping = {"hands": [member.who for member in helpers], "patience": hands.HANG_SECONDS}
        self.order(do="train", **where, **pace, **helping)

    def result(self, epochs: int) -> CriticOutcome | None:
        """What it made of the first so many epochs, as soon as that is there; None if it will not be.

        One that hangs is killed.
        """
        flags = self._seats.flags[self.who.seat]
        flags[ENOUGH] = epochs
        silence = hands.Silence()
        while True:
            with self.news:
                if len(self.epochs) >= epochs:
                    break
                if self.gone:
                    return None
                self.news.wait(LOOK_SECONDS)
            yield_point.reached()
            if silence.seconds(int(flags[BEAT])) > hands.HANG_SECONDS:
                self.kill("it hung")
                return None
        assert self._results is not None
        weights, first, second = self._results[epochs - 1].copy()
        facts = self.epochs[epochs - 1]
        return CriticOutcome(Trainable(weights, Moments(first, second, facts["optimizer_steps"])), facts["loss"])

    def forget(self, lesson: int) -> None:
        """Have it leave whatever it does for lessons up to this one; it is free once it has said so."""
        with self.news:
            self.free = False
            self._forgetting = lesson
        self.order(do="forget", lesson=lesson)

    def set_free(self) -> None:
        with self.news:
            self.free = True
            self.news.notify_all()

    def hangs(self) -> bool:
        """Whether it has been busy since some earlier call, long ago, and has shown no life since then."""
        beat, moment = int(self._seats.flags[self.who.seat, BEAT]), time.monotonic()
        if self.free or beat != self._seen[0]:
            self._seen = beat, moment
        return moment - self._seen[1] > hands.HANG_SECONDS

    def wait_free(self, seconds: float) -> bool:
        """Wait for it to have come up and to work for nobody."""
        with self.news:
            return self.news.wait_for(lambda: (self.ready and self.free) or self.gone, seconds) and not self.gone

    def hold(self, standing: bool) -> None:
        """Make it stand still, or go on."""
        self._seats.flags[self.who.seat, HOLD] = int(standing)

    def kill(self, fault: str) -> None:
        self.fault = self.fault or fault
        self.process.kill()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def order(self, **order: Any) -> None:
        """Raises OSError: it is gone."""
        assert self.process.stdin is not None
        with self._orders:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                said = json.loads(line)
            except ValueError:
                break  # the last words of one that was killed while it spoke
            self._hear(said)
            self._told(self, said)
        with self.news:
            self.gone = True
            self.news.notify_all()
        self._told(self, {"gone": True})

    def _hear(self, said: dict[str, Any]) -> None:
        with self.news:
            if "ready" in said:
                self.ready = True
            elif "forgotten" in said:
                self.free = self.free or said["forgotten"] == self._forgetting
            elif said.get("lesson") == self.lesson and "free" in said:
                self.free = True
            elif said.get("lesson") == self.lesson and "epochs" in said:
                self.epochs.append(said)
            self.news.notify_all()
