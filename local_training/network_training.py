"""One network's way through a lesson: epochs of gradient steps towards an objective, in an order given beforehand.

Policy and value network meet only before a lesson and after it, so each can go its way in a process of its own. Within a
network, the gradient of a minibatch is the sum of parts that depend on nothing but the weights, so other processes can
make some of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from local_training import optimizer, passes, yield_point
from local_training.hands import Hands, Job, NoHands
from local_training.objectives import Objective, Sums
from local_training.passes import PART_STEPS, Layers, Passes, Sizes
from local_training.training_state import Trainable

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pace:
    """How large the steps are."""

    minibatch_steps: int
    learning_rate: float
    longest_gradient: float


class PartWork:
    """Makes parts of gradients of one network: each follows from weights, steps and objective alone."""

    def __init__(self, sizes: Sizes, states: Array, objective: Objective) -> None:
        """`states`: [T, S + 1] float32, scaled, with ones at the end (see `passes.with_ones`)."""
        self._states = states
        self._objective = objective
        self._passes = Passes(sizes)
        self._rows = np.empty((min(PART_STEPS, len(states)), states.shape[1]), states.dtype)

    def arrange(self, order: Array) -> None:
        """Get ready for an epoch that takes the steps in this order, [T]."""
        self._order = order
        self._objective.arrange(order)

    def gradient(self, layers: Layers, start: int, stop: int, into: Layers) -> Sums:
        """Write the gradient, summed over the steps at these places of the order; what the objective counted of them."""
        yield_point.reached()
        states = self._rows[: stop - start]
        # Without a mode, take() would go by way of another array, as it checks the numbers first.
        np.take(self._states, self._order[start:stop], axis=0, out=states, mode="clip")
        outputs = self._passes.forward(layers, states)
        gradient, sums = self._objective.gradient(outputs, start)
        self._passes.backward(layers, states, gradient, into)
        return sums

    def outputs(self, layers: Layers, start: int, stop: int) -> Array:
        """What the network answers to some states, [B, A]; the same bits if `start` is a multiple of PART_STEPS."""
        return self._passes.outputs_of(layers, self._states[start:stop])


class NetworkTraining:
    """A network on its way; the weights it began with stay as they are.

    It promises the same bits whatever else happens between two epochs, in whatever process it runs, and whoever's hands
    help or cease to.
    """

    def __init__(
        self, begun: Trainable, sizes: Sizes, states: Array, objective: Objective, pace: Pace, hands: Hands | None = None
    ) -> None:
        """`states`: [T, S + 1] float32, scaled, with ones at the end (see `passes.with_ones`)."""
        self.present = begun.copied()
        self.gradient_norm = 0.0
        self.samples = 0
        self.minibatches = 0
        self._epochs = 0
        self._sizes = sizes
        self._steps = len(states)
        self._objective = objective
        self._pace = pace
        self._hands: Hands = NoHands() if hands is None else hands
        self._work = PartWork(sizes, states, objective)
        self._layers = passes.layers_of(self.present.weights, sizes)
        self._gradient, self._part, self._scratch = (np.empty_like(self.present.weights) for _ in range(3))
        self._into = [passes.layers_of(vector, sizes) for vector in (self._gradient, self._part)]

    def epoch(self, order: Array) -> None:
        """Go through all steps once, in this order [T], in minibatches of about equal size."""
        self._work.arrange(order)
        for start, stop in _equal_shares(len(order), math.ceil(len(order) / self._pace.minibatch_steps)):
            self._step(start, stop)
        self._epochs += 1

    def outputs(self) -> Array:
        """What the network answers to all the states by now, [T, A]."""
        parts = -(-self._steps // PART_STEPS)
        shares = list(_equal_shares(parts, min(parts, 1 + self._hands.count())))
        mine, *others = [Job(first * PART_STEPS, min(last * PART_STEPS, self._steps)) for first, last in shares]
        self._share(others)
        found = [self._work.outputs(self._layers, mine.start, mine.stop)]
        for number, job in enumerate(others):
            made = self._hands.made(number)
            found.append(self._work.outputs(self._layers, job.start, job.stop) if made is None else made.array.copy())
        return found[0] if not others else np.concatenate(found)

    def _share(self, jobs: Sequence[Job]) -> None:
        if jobs:
            self._hands.share(self.present.weights, self.minibatches, jobs)

    def _step(self, start: int, stop: int) -> None:
        jobs = [
            Job(start + part.start, start + part.stop, self._epochs) for part in passes.parts_of(stop - start, self._sizes.hidden)
        ]
        done = 0
        while done < len(jobs):
            others = jobs[done + 1 : done + 1 + self._hands.count()]
            self._share(others)
            self._add_own(jobs[done], is_first=done == 0)
            for number, job in enumerate(others):
                made = self._hands.made(number)
                if made is None:
                    self._add_own(job)
                else:
                    self._gradient += made.array
                    self._objective.count(made.sums)
            done += 1 + len(others)
        self._gradient *= 1.0 / (stop - start)
        self.gradient_norm += optimizer.clip(self._gradient, self._pace.longest_gradient)
        weights, moments = self.present.weights, self.present.moments
        moments = optimizer.adam(weights, self._gradient, moments, self._pace.learning_rate, self._scratch)
        self.present = Trainable(weights, moments)
        self.samples += stop - start
        self.minibatches += 1

    def _add_own(self, job: Job, is_first: bool = False) -> None:
        sums = self._work.gradient(self._layers, job.start, job.stop, self._into[0 if is_first else 1])
        if not is_first:
            self._gradient += self._part
        self._objective.count(sums)


def _equal_shares(count: int, shares: int) -> Iterator[tuple[int, int]]:
    """Borders of about equal shares, the first ones larger by one, as np.array_split makes them."""
    size, larger = divmod(count, shares)
    start = 0
    for number in range(shares):
        stop = start + size + (number < larger)
        yield start, stop
        start = stop
