"""One network's way through a lesson: epochs of gradient steps towards an objective, in an order given beforehand.

Policy and value network meet only before a lesson and after it, so each can go its way in a process of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from local_training import optimizer, passes, reinforce, yield_point
from local_training.actions.space import ActionSpace
from local_training.batch import Batch
from local_training.passes import PART_STEPS, Passes, Sizes
from local_training.training_state import Trainable

Array = npt.NDArray[Any]


class Objective(Protocol):
    """What a network is trained towards; it counts what it sees, as sums over steps."""

    def arrange(self, order: Array) -> None:
        """Get ready for an epoch that takes the steps in this order, [T]."""

    def gradient(self, outputs: Array, start: int) -> Array:
        """The gradient of the loss by the outputs [B, A] of the steps start to start + B of the order, [B, A]."""


class ActorObjective:
    """The clipped policy-gradient loss with its entropy bonus, see `reinforce.policy_loss`."""

    def __init__(self, space: ActionSpace, batch: Batch, advantages: Array, played: Array, bounds: reinforce.Bounds) -> None:
        """`advantages`, and `played`, the actions' log-probabilities under the policy that played: [T]."""
        self._space = space
        self._steps = (batch.actions, advantages, played)
        self._mask = batch.mask
        self._bounds = bounds
        self.surrogate = 0.0
        self.entropy = 0.0
        self.clipped = 0

    def arrange(self, order: Array) -> None:
        self._arranged = tuple(values[order] for values in self._steps)
        self._arranged_mask = None if self._mask is None else self._mask[order]

    def gradient(self, outputs: Array, start: int) -> Array:
        part = slice(start, start + len(outputs))
        actions, advantages, log_probs = (values[part] for values in self._arranged)
        mask = None if self._arranged_mask is None else self._arranged_mask[part]
        loss = reinforce.policy_loss(self._space.chances(outputs, mask), actions, advantages, log_probs, self._bounds)
        self.surrogate += loss.surrogate
        self.entropy += loss.entropy
        self.clipped += loss.clipped
        return loss.gradient


class CriticObjective:
    """Half the squared distance from the targets [T]."""

    def __init__(self, targets: Array) -> None:
        self._targets = targets
        self.loss = 0.0

    def arrange(self, order: Array) -> None:
        self._arranged = self._targets[order]

    def gradient(self, outputs: Array, start: int) -> Array:
        loss, errors = reinforce.value_loss(outputs[:, 0], self._arranged[start : start + len(outputs)])
        self.loss += loss
        return errors[:, None]


@dataclass(frozen=True)
class Pace:
    """How large the steps are."""

    minibatch_steps: int
    learning_rate: float
    longest_gradient: float


class NetworkTraining:
    """A network on its way; the weights it began with stay as they are.

    It promises the same bits whatever else happens between two epochs, and in whatever process it runs.
    """

    def __init__(self, begun: Trainable, sizes: Sizes, states: Array, objective: Objective, pace: Pace) -> None:
        """`states`: [T, S + 1] float32, scaled, with ones at the end (see `passes.with_ones`)."""
        self.present = begun.copied()
        self.gradient_norm = 0.0
        self.samples = 0
        self.minibatches = 0
        self._states = states
        self._objective = objective
        self._pace = pace
        self._passes = Passes(sizes)
        self._layers = passes.layers_of(self.present.weights, sizes)
        self._gradient, self._part, self._scratch = (np.empty_like(self.present.weights) for _ in range(3))
        self._into = [passes.layers_of(vector, sizes) for vector in (self._gradient, self._part)]
        self._rows = np.empty((min(PART_STEPS, len(states)), states.shape[1]), states.dtype)

    def epoch(self, order: Array) -> None:
        """Go through all steps once, in this order [T], in minibatches of about equal size."""
        self._objective.arrange(order)
        start = 0
        for rows in np.array_split(order, math.ceil(len(order) / self._pace.minibatch_steps)):
            self._step(rows, start)
            start += len(rows)

    def outputs(self) -> Array:
        """What the network answers to all the states by now, [T, A]."""
        return self._passes.outputs_of(self._layers, self._states)

    def _step(self, rows: Array, start: int) -> None:
        for offset in range(0, len(rows), PART_STEPS):
            self._make_part(rows[offset : offset + PART_STEPS], start + offset, 1 if offset else 0)
            if offset:
                self._gradient += self._part
        self._gradient *= 1.0 / len(rows)
        self.gradient_norm += optimizer.clip(self._gradient, self._pace.longest_gradient)
        weights, moments = self.present.weights, self.present.moments
        moments = optimizer.adam(weights, self._gradient, moments, self._pace.learning_rate, self._scratch)
        self.present = Trainable(weights, moments)
        self.samples += len(rows)
        self.minibatches += 1

    def _make_part(self, rows: Array, start: int, place: int) -> None:
        yield_point.reached()
        states = self._rows[: len(rows)]
        # Without a mode, take() would go by way of another array, as it checks the numbers first.
        np.take(self._states, rows, axis=0, out=states, mode="clip")
        outputs = self._passes.forward(self._layers, states)
        gradient = self._objective.gradient(outputs, start)
        self._passes.backward(self._layers, states, gradient, self._into[place])
