"""A process that trains the value network for the worker beside it: orders on stdin, answers on stdout, arrays in memory.

It holds nothing: what it made is taken once it is whole, and made again by the worker if it never gets so. When stdin ends,
so does it.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np

from local_training import yield_point
from local_training.network_training import CriticObjective, NetworkTraining, Pace
from local_training.optimizer import Moments
from local_training.passes import Sizes
from local_training.training_state import Trainable
from tools.learner import quiet_process, shared_desk
from tools.learner.shared_desk import BEAT, ENOUGH, HOLD, Desk, Shape

_STANDING_SECONDS = 0.02


class _EnoughError(Exception):
    """The worker needs no further epoch."""


class _Member:
    """The work on one task after another."""

    def __init__(self, answers: BinaryIO) -> None:
        self._answers = answers
        self._memory: mmap.mmap | None = None
        self._where: tuple[Any, int] = ("", 0)

    def work_on(self, order: dict[str, Any]) -> None:
        """Train all epochs, or as many as are needed, and tell of each one when its result lies on the desk."""
        where = (order["handle"], order["size"])
        if where != self._where:
            self._memory, self._where = shared_desk.opened(*where), where
        assert self._memory is not None
        desk = shared_desk.desk_in(self._memory, Shape(*order["shape"]))
        epoch = 0

        def rest() -> float:
            return _rest(desk, epoch)

        yield_point.rest_with(rest)
        weights, first, second = desk.begun
        objective = CriticObjective(desk.targets)
        begun = Trainable(weights, Moments(first, second, order["optimizer_steps"]))
        training = NetworkTraining(begun, Sizes(*order["sizes"]), desk.states, objective, Pace(*order["pace"]))
        try:
            for epoch, steps in enumerate(desk.orders):
                rest()
                training.epoch(steps)
                present = training.present
                desk.results[epoch] = (present.weights, present.moments.first, present.moments.second)
                facts = {"loss": objective.loss, "optimizer_steps": present.moments.steps}
                self.say(lesson=order["lesson"], epochs=epoch + 1, **facts)
        except _EnoughError:
            pass
        self.say(lesson=order["lesson"], free=True)

    def say(self, **facts: Any) -> None:
        self._answers.write(json.dumps(facts).encode() + b"\n")
        self._answers.flush()


def _rest(desk: Desk, epoch: int) -> float:
    """Show that there is life here, stand still while the worker does, stop when nobody needs the rest."""
    if epoch >= desk.flags[ENOUGH]:
        raise _EnoughError
    desk.flags[BEAT] += 1
    while desk.flags[HOLD]:
        time.sleep(_STANDING_SECONDS)
        desk.flags[BEAT] += 1
    return 0.0


def main() -> int:
    """Run as `python -m tools.learner.crew_member`."""
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    quiet_process.lower_priority()
    waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(orders, waiting), daemon=True).start()
    member = _Member(answers)
    member.say(ready=True)
    while True:
        with np.errstate(all="ignore"):  # what overflows is found by the worker's check of the result
            member.work_on(waiting.get())


def _listen(orders: BinaryIO, waiting: SimpleQueue[dict[str, Any]]) -> None:
    for line in orders:
        waiting.put(json.loads(line))
    # The worker is gone, or wants no more; what is half made is of no use to anybody.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
