"""Several switches at once, each on or off: independent Bernoulli variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from background_training.errors import EpisodeError
from background_training.spaces.action_space import ActionDistribution, ActionSpace, check_rows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MultiBinary(ActionSpace):
    """D numbers, each 0 or 1."""

    size: int

    kind: ClassVar[str] = "multi_binary"

    @property
    def outputs(self) -> int:
        return self.size

    @property
    def words(self) -> str:
        return f"actions of {self.size} numbers, each 0 or 1"

    @property
    def name_count(self) -> int:
        return self.size

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": self.size}

    def checked(self, raw: Array, steps: int) -> Array:
        if raw.dtype.kind not in "iub":
            raise EpisodeError("wrong-dtype", f"actions is of type {raw.dtype}", f"whole numbers are needed: {self.words}")
        check_rows(raw, steps, self.size, self.words)
        wrong = np.argwhere((raw != 0) & (raw != 1))
        if wrong.size:
            step, place = (int(index) for index in wrong[0])
            found = f"number {place} of the action of step {step} is {int(raw[step, place])}"
            raise EpisodeError("action-out-of-range", found, "0 or 1 is needed there")
        return raw.astype(np.int8)

    def distribution(self, outputs: Array, mask: Array | None = None) -> Bernoullis:
        return Bernoullis(outputs)

    def noise(self, rng: np.random.Generator, count: int) -> Array:
        return rng.random((count, self.size))

    def none(self, count: int) -> Array:
        return np.zeros((count, self.size), np.int8)


class Bernoullis(ActionDistribution):
    """p(1) = 1 / (1 + exp(-logit)), for each number by itself."""

    def __init__(self, logits: Array) -> None:
        self._logits = logits
        self._log_sums = np.logaddexp(0.0, logits).astype(logits.dtype, copy=False)
        """log(1 + exp(logit)), [B, D]"""

    def log_probs(self, actions: Array) -> Array:
        """log pi(a) = sum a * logit - log(1 + exp(logit))."""
        return np.asarray((actions * self._logits - self._log_sums).sum(axis=1))

    def gradient(self, actions: Array, strengths: Array, entropy: float) -> tuple[Array, Array]:
        """d log pi / d logit = a - p;  H = sum log(1 + exp(logit)) - logit * p;  dH / d logit = -logit * p * (1 - p)."""
        ones = self._ones()
        strengths = strengths.astype(ones.dtype, copy=False)
        gradient = strengths[:, None] * (ones - actions)
        entropies = (self._log_sums - self._logits * ones).sum(axis=1)
        if entropy:
            gradient += entropy * self._logits * ones * (1.0 - ones)
        return gradient, entropies

    def kl_divergence(self, other: ActionDistribution) -> float:
        """Mean of sum p (logit_p - logit_q) - log(1 + exp(logit_p)) + log(1 + exp(logit_q))."""
        assert isinstance(other, Bernoullis)
        parts = self._ones() * (self._logits - other._logits) - self._log_sums + other._log_sums
        return float(parts.sum(axis=1).mean(dtype=np.float64))

    def sampled(self, noise: Array | None) -> tuple[Array, Array]:
        """`noise`: [B, D] in [0, 1)."""
        actions = (self._logits > 0.0 if noise is None else noise < self._ones()).astype(np.int8)
        return actions, np.minimum(self.log_probs(actions), 0.0).astype(np.float32)

    def _ones(self) -> Array:
        """The chance of a 1, [B, D]; by way of the logarithm, as exp(-logit) could overflow."""
        return np.asarray(np.exp(self._logits - self._log_sums))
