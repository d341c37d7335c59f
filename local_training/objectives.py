"""What the two networks are trained towards: the slope of a loss by a network's outputs, and what is counted on the way.

An objective can be described and made again from that, so that any process can work on a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from local_training import reinforce
from local_training.actions import kinds
from local_training.actions.space import ActionSpace

Array = npt.NDArray[Any]

Sums = tuple[float, ...]
"""What is counted of a part; parts are added in their order, so that the last bits do not depend on who made them."""


class Description(NamedTuple):
    """All that an objective is made of."""

    facts: dict[str, Any]
    """What fits into JSON."""
    arrays: Sequence[Array]
    """One row per step, each [T, ...]."""


class Objective(Protocol):
    """What a network is trained towards."""

    def arrange(self, order: Array) -> None:
        """Get ready for an epoch that takes the steps in this order, [T]."""

    def gradient(self, outputs: Array, start: int) -> tuple[Array, Sums]:
        """The gradient of the loss by the outputs [B, A] of the steps start to start + B of the order, [B, A]."""

    def count(self, sums: Sums) -> None:
        """Add what was counted of one more part."""

    def described(self) -> Description:
        """What `of_description` makes an equal one of."""


class ActorObjective:
    """The clipped policy-gradient loss with its entropy bonus, see `reinforce.policy_loss`."""

    def __init__(
        self,
        space: ActionSpace,
        steps: Sequence[Array],
        mask: Array | None,
        bounds: reinforce.Bounds,
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

    def gradient(self, outputs: Array, start: int) -> tuple[Array, Sums]:
        part = slice(start, start + len(outputs))
        actions, advantages, log_probs = (values[part] for values in self._arranged)
        mask = None if self._arranged_mask is None else self._arranged_mask[part]
        loss = reinforce.policy_loss(self._space.chances(outputs, mask), actions, advantages, log_probs, self._bounds)
        return loss.gradient, (loss.surrogate, loss.entropy, loss.clipped)

    def count(self, sums: Sums) -> None:
        surrogate, entropy, clipped = sums
        self.surrogate += surrogate
        self.entropy += entropy
        self.clipped += clipped

    def described(self) -> Description:
        facts = {"space": self._space.as_json(), "outputs": self._space.outputs, "bounds": tuple(self._bounds)}
        return Description(facts, [*self._steps, *([] if self._mask is None else [self._mask])])


class CriticObjective:
    """Half the squared distance from the targets [T]."""

    def __init__(self, targets: Array) -> None:
        self._targets = targets
        self.loss = 0.0

    def arrange(self, order: Array) -> None:
        self._arranged = self._targets[order]

    def gradient(self, outputs: Array, start: int) -> tuple[Array, Sums]:
        loss, errors = reinforce.value_loss(outputs[:, 0], self._arranged[start : start + len(outputs)])
        return errors[:, None], (loss,)

    def count(self, sums: Sums) -> None:
        self.loss += sums[0]

    def described(self) -> Description:
        return Description({}, [self._targets])


def of_description(facts: dict[str, Any], arrays: Sequence[Array]) -> Objective:
    """The objective that was described so, with nothing counted yet."""
    if "space" not in facts:
        return CriticObjective(np.asarray(arrays[0]))
    mask = arrays[3] if len(arrays) > 3 else None
    space = kinds.of_json(facts["space"], facts["outputs"])
    return ActorObjective(space, arrays[:3], mask, reinforce.Bounds(*facts["bounds"]))
