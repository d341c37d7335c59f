"""Median and spread of a handful of numbers.

Pure, and exact to the last bit whatever the order of the numbers: they are sorted first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict


class Spread(TypedDict):
    median: float
    p10: float
    p90: float


def spread_of(numbers: Iterable[float]) -> Spread:
    """Median, 10th and 90th percentile, to the hundredth; at least one number is needed."""
    ordered = sorted(numbers)
    return Spread(median=quantile(ordered, 0.5), p10=quantile(ordered, 0.1), p90=quantile(ordered, 0.9))


def quantile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the sorted numbers lie, to the hundredth.

    Linear between neighbours: with h = (n - 1) * share, it is x[floor(h)] + (h - floor(h)) * (x[floor(h) + 1] - x[floor(h)]).

    Source: Hyndman & Fan 1996, type 7; NumPy's default.
    """
    position = (len(ordered) - 1) * share
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return round(ordered[below] + (position - below) * (ordered[above] - ordered[below]), 2)


def median_low(numbers: Iterable[float]) -> float:
    """The median, or the lower of the two in the middle: always a value that was there."""
    ordered = sorted(numbers)
    return ordered[(len(ordered) - 1) // 2]
