"""Who else does a part of a lesson: the value network's training may go on in another process meanwhile.

Which processes there are is a matter of this process as its priority is, so a helper is set once for the process and not
handed through the arithmetic. What is computed does not depend on it; tests compare the bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from local_training.network_training import CriticObjective, NetworkTraining, Pace
from local_training.passes import Sizes
from local_training.training_state import Trainable

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CriticTask:
    """All that the value network's training in one lesson depends on."""

    begun: Trainable
    sizes: Sizes
    states: Array
    """[T, S + 1] float32, see `passes.with_ones`."""
    targets: Array
    """[T] float32"""
    orders: Sequence[Array]
    """[T] int64 for each epoch that there may be."""
    pace: Pace


class CriticOutcome(NamedTuple):
    """The value network after some epochs, and the loss of all their steps."""

    trained: Trainable
    loss: float


class Share(Protocol):
    """A task that is being worked on."""

    def after(self, epochs: int) -> CriticOutcome:
        """The outcome of the first so many epochs; waits for it. To be called once."""


class Helper(Protocol):
    """Whoever may take a task over."""

    def begin(self, task: CriticTask) -> Share | None:
        """Begin to work on it elsewhere; None: nobody is free, or it is not worth it."""


class Here:
    """A task that is worked on by this process, and not before its outcome is asked for."""

    def __init__(self, task: CriticTask) -> None:
        self._task = task

    def after(self, epochs: int) -> CriticOutcome:
        task = self._task
        objective = CriticObjective(task.targets)
        training = NetworkTraining(task.begun, task.sizes, task.states, objective, task.pace)
        for order in task.orders[:epochs]:
            training.epoch(order)
        return CriticOutcome(training.present, objective.loss)


_helper: Helper | None = None


def share_with(helper: Helper | None) -> None:
    """From now on offer tasks to this helper; None: do everything here."""
    global _helper
    _helper = helper


def begun(task: CriticTask) -> Share:
    """The task, at work elsewhere if somebody helps."""
    share = _helper.begin(task) if _helper is not None else None
    return Here(task) if share is None else share
