"""Means and shares with their 95 % intervals. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_NORMAL = 1.959964
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120)
"""The two-sided 95 % quantile of Student's t for 1, 2, ... degrees of freedom."""


class Estimate(NamedTuple):
    """A value and the ends of its interval; for a single game both ends equal the value."""

    value: float
    low: float
    high: float
    games: int


class Stretch(NamedTuple):
    """Games `first` to `last`, counted from 1, and their mean."""

    first: int
    last: int
    mean: Estimate


def student_quantile(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t, within 0.002 of it.

    A table up to 16 degrees; beyond, Cornish and Fisher's expansion: z + (z^3 + z) / (4 v) + (5 z^5 + 16 z^3 + 3 z) / (96 v^2).
    """
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def mean_of(values: Array) -> Estimate:
    """Mean and interval: mean +- t s / sqrt(n), with s the sample's standard deviation; of at least one value."""
    count, mean = len(values), float(values.mean())
    half = student_quantile(count - 1) * float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return Estimate(mean, mean - half, mean + half, count)


def share_of(wins: int, count: int) -> Estimate:
    """A share and Wilson's interval, which stays within 0 and 1 and is sound for few games.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4.
    """
    share, z = wins / count, _NORMAL
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), count)


def stretches(values: Array, most: int, fewest_games: int = 5) -> list[Stretch]:
    """Cut a series into stretches of equal length, and take the mean of each.

    Args:
        values: one per game, in their order.
        most: stretches, at most; fewer when they would hold less than `fewest_games`.
    """
    if not len(values):
        return []
    parts = np.array_split(np.arange(len(values)), max(1, min(most, len(values) // fewest_games)))
    return [Stretch(int(part[0]) + 1, int(part[-1]) + 1, mean_of(values[part])) for part in parts]


def first_and_last(values: Sequence[float] | Array) -> tuple[Array, Array]:
    """The first and the last tenth, at least one game each; they overlap only where there is one game."""
    array = np.asarray(values, np.float64)
    size = max(1, len(array) // 10)
    return array[:size], array[-size:]


FEWEST_FOR_A_VERDICT = 5
"""Pairs of games needed for a verdict: with fewer, differences that are equal by chance look certain."""


def difference_of(first: Sequence[float] | Array, second: Sequence[float] | Array) -> Estimate:
    """Paired difference: the mean of first minus second and its interval; noise common to both cancels.

    Args:
        first, second: [N], each pair from the same game played twice.
    """
    return mean_of(np.asarray(first, np.float64) - np.asarray(second, np.float64))


def verdict(difference: Estimate) -> str:
    """ "better", "worse" or "alike"; "unknown" where the evidence is insufficient.

    Better and worse: the interval excludes 0. Alike: every pair of games has equal results.
    """
    if difference.games < FEWEST_FOR_A_VERDICT:
        return "unknown"
    if difference.low > 0 or difference.high < 0:
        return "better" if difference.low > 0 else "worse"
    return "alike" if difference.low == difference.high == 0 else "unknown"


def games_needed(difference: Estimate) -> int | None:
    """About how many games are needed to establish a difference of this size; None for a difference of 0."""
    half = (difference.high - difference.low) / 2
    if difference.value == 0 or half == 0:
        return None
    return math.ceil(difference.games * (half / difference.value) ** 2)
