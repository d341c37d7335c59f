"""What the two networks are trained towards: the slope of a loss by a network's outputs, and what is counted on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from background_training.algo import losses
from background_training.spaces.action_space import ActionSpace

Array = npt.NDArray[Any]


class Objective(Protocol):
    """What a network is trained towards."""

    def arrange(self, order: Array) -> None:
        """Get ready for an epoch that takes the steps in this order, [T]."""

    def gradient(self, outputs: Array, start: int) -> Array:
        """The gradient of the loss by the outputs [B, A] of the steps start to start + B of the order, [B, A].

        Adds what is counted to the sums: call it once for each part, in their order, as the last bits depend on it.
        """


class ActorObjective:
    """The clipped policy-gradient loss with its entropy bonus, see `reinforce.policy_loss`."""

    def __init__(
        self,
        space: ActionSpace,
        steps: Sequence[Array],
        mask: Array | None,
        bounds: losses.Bounds,
    ) -> None:
        """`steps`: actions, advantages, and the actions' log-probabilities under the policy that played, each [T]."""
        self._space = space
        self._steps = steps
        self._mask = mask
        self._bounds = bounds
        self.surrogate = 0.0
        self.entropy = 0.0
        self.clipped = 0.0

    def arrange(self, order: Array) -> None:
        self._arranged = tuple(values[order] for values in self._steps)
        self._arranged_mask = None if self._mask is None else self._mask[order]

    def gradient(self, outputs: Array, start: int) -> Array:
        part = slice(start, start + len(outputs))
        actions, advantages, log_probs = (values[part] for values in self._arranged)
        mask = None if self._arranged_mask is None else self._arranged_mask[part]
        loss = losses.policy_loss(self._space.chances(outputs, mask), actions, advantages, log_probs, self._bounds)
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
        loss, errors = losses.value_loss(outputs[:, 0], self._arranged[start : start + len(outputs)])
        self.loss += loss
        return errors[:, None]
