"""One network's training in one lesson: epochs of gradient steps towards an objective, in an order given beforehand.

Policy and value network meet only before a lesson and after it, so each can be trained in a thread of its own. The gradient
of a minibatch is the sum of parts with fixed borders, added in their order: the bits of a model depend on both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.algo import adam, network, yield_point
from background_training.algo.network import PART_STEPS, Layers, Passes, Sizes
from background_training.algo.objectives import Objective
from background_training.algo.training_state import Trainable

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pace:
    """How large the steps are."""

    minibatch_size: int
    learning_rate: float
    max_grad_norm: float


class NetworkTraining:
    """A network during one lesson; the weights it began with stay as they are.

    The same order of steps gives the same bits, whatever happens between two epochs and in whichever thread they run.
    One thread at a time may call it, but for `abandon`.
    """

    def __init__(self, begun: Trainable, sizes: Sizes, states: Array, objective: Objective, pace: Pace) -> None:
        """`states`: [T, S + 1] float32, scaled, with ones at the end (see `passes.with_ones`)."""
        self.present = begun.copied()
        self.gradient_norm = 0.0
        self.samples = 0
        self.minibatches = 0
        self._abandoned = False
        self._sizes = sizes
        self._states = states
        self._objective = objective
        self._pace = pace
        self._passes = Passes(sizes)
        self._rows = np.empty((min(PART_STEPS, len(states)), states.shape[1]), states.dtype)
        self._layers = network.layers_of(self.present.weights, sizes)
        self._gradient, self._part, self._scratch = (np.empty_like(self.present.weights) for _ in range(3))
        self._gradient_layers, self._part_layers = (network.layers_of(vector, sizes) for vector in (self._gradient, self._part))

    def epoch(self, order: Array) -> None:
        """Go through all steps once, in this order [T], in minibatches of about equal size."""
        self._objective.arrange(order)
        for start, stop in _equal_shares(len(order), math.ceil(len(order) / self._pace.minibatch_size)):
            if self._abandoned:
                return
            self._step(order[start:stop], start)

    def abandon(self) -> None:
        """Have an epoch in another thread end at its next minibatch; what it has made is of no use then."""
        self._abandoned = True

    def outputs(self) -> Array:
        """What the network answers to all the states by now, [T, A]."""
        return self._passes.outputs_of(self._layers, self._states)

    def _step(self, minibatch: Array, start: int) -> None:
        """Take one gradient step; `minibatch` holds numbers of states, `start` its place in the epoch's order."""
        for part in network.parts_of(len(minibatch), self._sizes.hidden):
            if part.start == 0:
                self._write_gradient(minibatch[part], start, self._gradient_layers)
            else:
                self._write_gradient(minibatch[part], start + part.start, self._part_layers)
                self._gradient += self._part
        self._gradient *= 1.0 / len(minibatch)
        self.gradient_norm += adam.clip(self._gradient, self._pace.max_grad_norm)
        weights, moments = self.present.weights, self.present.moments
        moments = adam.adam(weights, self._gradient, moments, self._pace.learning_rate, self._scratch)
        self.present = Trainable(weights, moments)
        self.samples += len(minibatch)
        self.minibatches += 1

    def _write_gradient(self, steps: Array, start: int, into: Layers) -> None:
        """Write the gradient summed over these steps, which begin at place `start` of the epoch's order."""
        yield_point.reached()
        states = self._rows[: len(steps)]
        # Without a mode, take() would go by way of another array, as it checks the numbers first.
        np.take(self._states, steps, axis=0, out=states, mode="clip")
        outputs = self._passes.forward(self._layers, states)
        self._passes.backward(self._layers, states, self._objective.gradient(outputs, start), into)


def _equal_shares(count: int, shares: int) -> Iterator[tuple[int, int]]:
    """Borders of about equal shares, the first ones larger by one, as np.array_split makes them."""
    size, larger = divmod(count, shares)
    start = 0
    for number in range(shares):
        stop = start + size + (number < larger)
        yield start, stop
        start = stop
