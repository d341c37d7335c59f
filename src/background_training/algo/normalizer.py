"""Running mean, variance and range of a stream of rows, merged exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDEST = 10.0
"""Scaled values stay within about this many units over the observed range: rare spikes widen the scale."""


@dataclass(frozen=True)
class Normalizer:
    """Mean and spread of each of S numbers over all rows seen so far.

    The order and grouping of rows affect rounding only. It does not clip: scaling is linear, so that it can be folded into
    the first layer of a network.
    """

    count: float | Array
    """Rows seen; fewer after fading. [S] in a widened model, whose features were added at different times."""
    mean: Array
    """[S] float64"""
    squares: Array
    """[S] float64, sum of the squared distances from the mean."""
    lowest: Array
    """[S] float64"""
    highest: Array
    """[S] float64"""

    @property
    def variance(self) -> Array:
        """[S] float64; 0 before the first row."""
        return np.asarray(self.squares / np.maximum(self.count, 1.0))

    @property
    def inverse_scale(self) -> Array:
        """[S] float64, the factor of a distance from the mean: 1 / max(deviation, half the span / 10).

        1 before the first row. 0 for a constant feature: it carries no information, and dividing by almost 0 would blow up
        its first change.
        """
        unseen = np.equal(self.count, 0.0)
        if unseen.all():
            return np.ones_like(self.mean)
        span = self.highest - self.lowest
        scale = np.maximum(np.sqrt(self.variance), span / (2.0 * WIDEST))
        # Below this, changes are indistinguishable from float32 rounding.
        changes = span > 1e-6 * np.maximum(np.abs(self.highest), np.abs(self.lowest))
        return np.where(unseen, 1.0, np.where(changes, 1.0 / np.where(changes, scale, 1.0), 0.0))

    def scaled(self, rows: Array) -> Array:
        """(rows - mean) * inverse_scale, [B, S] float32."""
        centred = rows - self.mean.astype(np.float32)
        centred *= self.inverse_scale.astype(np.float32)
        return centred


def new_normalizer(width: int) -> Normalizer:
    """A normalizer without rows: `scaled` returns rows unchanged."""
    return Normalizer(0.0, np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width))


def of_rows(rows: Array) -> Normalizer:
    """The normalizer of rows [B, S], B at least 1."""
    wide = rows.astype(np.float64)
    mean = wide.mean(axis=0)
    return Normalizer(float(len(rows)), mean, ((wide - mean) ** 2).sum(axis=0), wide.min(axis=0), wide.max(axis=0))


def merged(one: Normalizer, other: Normalizer) -> Normalizer:
    """The normalizer of the rows of both.

    With d = mean2 - mean1 and n = n1 + n2:  mean = mean1 + d n2/n;  squares = squares1 + squares2 + d^2 n1 n2/n.

    Source: Chan, Golub & LeVeque 1983, eq. 2.1.
    """
    if not np.any(one.count):
        return other
    if not np.any(other.count):
        return one
    count = one.count + other.count
    rows = np.maximum(count, 1.0)  # a feature that neither has seen stays unchanged
    distance = other.mean - one.mean
    first, second = np.equal(one.count, 0.0), np.equal(other.count, 0.0)
    return Normalizer(
        count=count,
        mean=one.mean + distance * (other.count / rows),
        squares=one.squares + other.squares + distance**2 * (one.count * other.count / rows),
        lowest=np.where(first, other.lowest, np.where(second, one.lowest, np.minimum(one.lowest, other.lowest))),
        highest=np.where(first, other.highest, np.where(second, one.highest, np.maximum(one.highest, other.highest))),
    )


def faded(normalizer: Normalizer, longest: float) -> Normalizer:
    """The same mean and variance with at most the weight of `longest` rows, so that newer rows count for more."""
    if np.max(normalizer.count) <= longest:
        return normalizer
    share = longest / np.maximum(normalizer.count, longest)
    count = longest if np.ndim(normalizer.count) == 0 else np.minimum(normalizer.count, longest)
    return Normalizer(count, normalizer.mean, normalizer.squares * share, normalizer.lowest, normalizer.highest)


def widened(normalizer: Normalizer, numbers: int) -> Normalizer:
    """The normalizer with this many further features at the end, without observations."""
    if numbers == 0:
        return normalizer
    count = np.concatenate([np.broadcast_to(normalizer.count, normalizer.mean.shape), np.zeros(numbers)])
    rows = (normalizer.mean, normalizer.squares, normalizer.lowest, normalizer.highest)
    return Normalizer(count, *(np.concatenate([row, np.zeros(numbers)]) for row in rows))
