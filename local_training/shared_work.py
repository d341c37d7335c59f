"""Who else does a part of a lesson: other processes may train the value network meanwhile, and make parts of gradients.

Which processes there are is a matter of this process as its priority is, so a helper is set once for the process and not
handed through the arithmetic. What is computed does not depend on it; tests compare the bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from local_training.hands import Hands
from local_training.network_training import NetworkTraining, Pace
from local_training.objectives import CriticObjective, Objective
from local_training.passes import Sizes
from local_training.training_state import Trainable

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Task:
    """All that one network's training in one lesson depends on."""

    begun: Trainable
    sizes: Sizes
    states: Array
    """[T, S + 1] float32, see `passes.with_ones`."""
    objective: Objective
    orders: Sequence[Array]
    """[T] int64 for each epoch that there may be."""
    pace: Pace


@dataclass(frozen=True)
class CriticTask(Task):
    """The value network's."""

    objective: CriticObjective


class CriticOutcome(NamedTuple):
    """The value network after some epochs, and the loss of all their steps."""

    trained: Trainable
    loss: float


class Share(Protocol):
    """A task that is being worked on."""

    def after(self, epochs: int) -> CriticOutcome:
        """The outcome of the first so many epochs; waits for it. To be called once."""


class Helper(Protocol):
    """Whoever may take work over."""

    def begin(self, task: CriticTask) -> Share | None:
        """Begin to work on it elsewhere; None: nobody is free, or it is not worth it."""

    def hands(self, task: Task) -> Hands | None:
        """Who makes parts of gradients for a task that this process works on; None: nobody."""


class Here:
    """A task that is worked on by this process, and not before its outcome is asked for."""

    def __init__(self, task: CriticTask) -> None:
        self._task = task

    def after(self, epochs: int) -> CriticOutcome:
        training = trained_here(self._task)
        for order in self._task.orders[:epochs]:
            training.epoch(order)
        return CriticOutcome(training.present, self._task.objective.loss)


_helper: Helper | None = None


def share_with(helper: Helper | None) -> None:
    """From now on offer tasks to this helper; None: do everything here."""
    global _helper
    _helper = helper


def begun(task: CriticTask) -> Share:
    """The task, at work elsewhere if somebody helps."""
    share = _helper.begin(task) if _helper is not None else None
    return Here(task) if share is None else share


def trained_here(task: Task) -> NetworkTraining:
    """The training of a task in this process, with what hands there are."""
    hands = _helper.hands(task) if _helper is not None else None
    return NetworkTraining(task.begun, task.sizes, task.states, task.objective, task.pace, hands)
