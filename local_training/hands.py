"""Who makes parts of gradients beside the process that trains a network: none, where nobody else is asked.

What is made does not depend on it: into which parts a gradient falls, and in which order they are added, is decided by the
network and the number of steps alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt

from local_training.objectives import Sums

Array = npt.NDArray[Any]


class Job(NamedTuple):
    """A piece of work on a network: the gradient of a part of an epoch, or what the network answers to some states."""

    start: int
    stop: int
    """Steps: places in the epoch's order, or numbers of states."""
    epoch: int = -1
    """Which of the orders; -1: it is the answers that are wanted."""


class Made(NamedTuple):
    """What became of a job; holds until the next one."""

    array: Array
    """The gradient [P], or the answers [B, A]."""
    sums: Sums
    """What the objective counted of the part."""


class Hands(Protocol):
    """Some processes that all know the network, its states and its objective."""

    def count(self) -> int:
        """How many there are by now; they may get fewer at any time."""

    def share(self, weights: Array, steps_taken: int, jobs: Sequence[Job]) -> None:
        """Give out jobs, at most one for each: the first one to the first. `steps_taken` tells weights from newer ones."""

    def made(self, number: int) -> Made | None:
        """Wait for a job of the last `share`; None: whoever had it is gone."""


class NoHands:
    """Nobody else."""

    def count(self) -> int:
        return 0

    def share(self, weights: Array, steps_taken: int, jobs: Sequence[Job]) -> None:
        assert not jobs, "there is nobody to give them to"

    def made(self, number: int) -> Made | None:
        return None
