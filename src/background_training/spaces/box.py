"""Real numbers within bounds: a diagonal Gaussian whose numbers tanh squashes into them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from background_training.errors import EpisodeError
from background_training.spaces.action_space import ActionDistribution, ActionSpace, check_rows

Array = npt.NDArray[Any]

FARTHEST = 7.25
"""tanh of it is 1 - 1e-6: nearer to a bound, float32 could not resolve an action."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(8)
_WEIGHTS /= math.sqrt(2.0 * math.pi)
_LOG_ROOT = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Box(ActionSpace):
    """D real numbers, number d between low[d] and high[d]. A network outputs D means followed by D logarithms of
    deviations; zeros give about a uniform distribution."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    kind: ClassVar[str] = "box"
    has_densities: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        return 2 * len(self.low)

    @property
    def words(self) -> str:
        bounds = [f"{low:g} to {high:g}" for low, high in zip(self.low[:5], self.high[:5], strict=True)]
        return f"actions of {len(self.low)} real numbers, {', '.join(bounds)}{', ...' if len(self.low) > 5 else ''}"

    @property
    def name_count(self) -> int:
        return len(self.low)

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "low": list(self.low), "high": list(self.high)}

    def checked(self, raw: Array, steps: int) -> Array:
        if raw.dtype.kind not in "fiu":
            raise EpisodeError("wrong-dtype", f"actions is of type {raw.dtype}", f"real numbers are needed: {self.words}")
        check_rows(raw, steps, len(self.low), self.words)
        if not np.isfinite(raw).all():
            bad = int(np.count_nonzero(~np.isfinite(raw)))
            raise EpisodeError("not-finite", f"actions holds {bad} values that are NaN or infinite", "finite numbers are needed")
        low, high = self._bounds
        with np.errstate(over="ignore"):  # beyond float32 is beyond every bound
            actions = raw.astype(np.float32)
        wrong = np.argwhere((actions < low) | (actions > high))
        if wrong.size:
            step, place = (int(index) for index in wrong[0])
            found = f"number {place} of the action of step {step} is {float(raw[step, place]):g}"
            needed = f"{self.low[place]:g} to {self.high[place]:g} is needed there: what the game took, not what it cut off"
            raise EpisodeError("action-out-of-range", found, needed)
        return actions

    def distribution(self, outputs: Array, mask: Array | None = None) -> SquashedGaussian:
        return SquashedGaussian(self, outputs)

    def noise(self, rng: np.random.Generator, count: int) -> Array:
        return rng.standard_normal((count, len(self.low)))

    def none(self, count: int) -> Array:
        return np.zeros((count, len(self.low)), np.float32)

    def unsquashed(self, actions: Array) -> Array:
        """x [B, D] float64, such that the actions are middle + half * tanh(x)."""
        shares = (actions - self.middle) / self.half
        largest = math.tanh(FARTHEST)
        return np.asarray(np.arctanh(np.clip(shares, -largest, largest)))

    def squashed(self, numbers: Array) -> Array:
        """middle + half * tanh(x), [B, D] float32, never beyond the bounds."""
        low, high = self._bounds
        return np.asarray(np.clip((self.middle + self.half * np.tanh(numbers)).astype(np.float32), low, high))

    @functools.cached_property
    def middle(self) -> Array:
        """[D] float64"""
        return np.asarray(np.add(self.low, self.high) / 2.0)

    @functools.cached_property
    def half(self) -> Array:
        """[D] float64, half of the width between the bounds"""
        return np.asarray(np.subtract(self.high, self.low) / 2.0)

    @functools.cached_property
    def _bounds(self) -> tuple[Array, Array]:
        return np.array(self.low, np.float32), np.array(self.high, np.float32)


LARGEST_LOG_DEVIATION = 40.0


class SquashedGaussian(ActionDistribution):
    """a = middle + half * tanh(x), x ~ N(mean, deviation^2), each number by itself.

    log pi(a) = sum log N(x) - log(half * (1 - tanh(x)^2)). The squashing terms cancel in the KL
    divergence, which is that of the Gaussians.

    Source: Haarnoja et al. 2018, appendix C.
    """

    def __init__(self, space: Box, outputs: Array) -> None:
        width = len(space.low)
        self._space = space
        self._mean = outputs[:, :width]
        # Otherwise a foreign model could overflow during a game; trained policies stay far below.
        self._log_deviation = np.clip(outputs[:, width:], -LARGEST_LOG_DEVIATION, LARGEST_LOG_DEVIATION)
        self._deviation = np.exp(self._log_deviation)

    def log_probs(self, actions: Array) -> Array:
        numbers = self._space.unsquashed(actions)
        stretch = (_log_slope(numbers) + np.log(self._space.half)).sum(axis=1)
        return np.asarray(self._gaussian(self._distances(numbers)) - stretch).astype(self._mean.dtype)

    def gradient(self, actions: Array, strengths: Array, entropy: float) -> tuple[Array, Array]:
        """With z = (x - mean) / deviation: d log pi / d mean = z / deviation;  d log pi / d log deviation = z^2 - 1.

        H = sum log deviation + log(2 pi e) / 2 + log half + E[log(1 - tanh(x)^2)], the mean by Gauss' quadrature, and
        its gradient by the slope of log(1 - tanh(x)^2), -2 tanh(x).
        """
        distances = self._distances(self._space.unsquashed(actions)).astype(self._mean.dtype)
        strengths = -strengths.astype(self._mean.dtype, copy=False)[:, None]
        gradient = np.concatenate([strengths * distances / self._deviation, strengths * (distances * distances - 1.0)], axis=1)
        around = self._deviation[..., None] * _NODES.astype(self._mean.dtype)
        numbers = self._mean[..., None] + around
        weights = _WEIGHTS.astype(self._mean.dtype)
        known = self._log_deviation + (_LOG_ROOT + 0.5) + np.log(self._space.half).astype(self._mean.dtype)
        entropies = (known + _log_slope(numbers) @ weights).sum(axis=1)
        if entropy:
            slopes = -2.0 * np.tanh(numbers)
            gradient -= entropy * np.concatenate([slopes @ weights, 1.0 + (slopes * around) @ weights], axis=1)
        return gradient, entropies

    def kl_divergence(self, other: ActionDistribution) -> float:
        """Mean of sum log(q / p) + (p^2 + (mean_p - mean_q)^2) / (2 q^2) - 1/2, for deviations p and q."""
        assert isinstance(other, SquashedGaussian)
        apart = (self._mean - other._mean) / other._deviation
        narrower = self._log_deviation - other._log_deviation
        parts = 0.5 * (np.exp(2.0 * narrower) + apart * apart - 1.0) - narrower
        return float(parts.sum(axis=1).mean(dtype=np.float64))

    def sampled(self, noise: Array | None) -> tuple[Array, Array]:
        """`noise`: [B, D], normal."""
        numbers = self._mean if noise is None else self._mean + self._deviation * noise
        actions = self._space.squashed(numbers)
        return actions, self.log_probs(actions).astype(np.float32)

    def _distances(self, numbers: Array) -> Array:
        return np.asarray((numbers - self._mean) / self._deviation)

    def _gaussian(self, distances: Array) -> Array:
        return np.asarray((-0.5 * distances * distances - self._log_deviation - _LOG_ROOT).sum(axis=1))


def _log_slope(numbers: Array) -> Array:
    """log(1 - tanh(x)^2) = 2 (log 2 - |x| - log(1 + exp(-2 |x|)))."""
    size = np.abs(numbers)
    return np.asarray(2.0 * (math.log(2.0) - size - np.log1p(np.exp(-2.0 * size))))
