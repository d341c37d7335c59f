"""Adam, and clipping of a gradient's norm."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DECAY1, DECAY2, EPSILON = 0.9, 0.999, 1e-5


class Moments(NamedTuple):
    """Adam's running means of past gradients."""

    first: Array
    """[P], running mean of the gradient."""
    second: Array
    """[P], running mean of its square."""
    steps: int
    """Steps taken so far."""


def new_moments(size: int) -> Moments:
    """The moments before the first step."""
    return Moments(np.zeros(size, np.float32), np.zeros(size, np.float32), 0)


def norm(gradient: Array) -> float:
    """Euclidean length of a gradient [P], summed in float64."""
    wide = gradient.astype(np.float64)
    return math.sqrt(float(wide @ wide))


def clip(gradient: Array, longest: float) -> float:
    """Scale a gradient [P] down in place to the norm `longest` if it is longer.

    Returns:
        The norm before; NaN or infinity when the gradient is not finite, which is then left unchanged.
    """
    length = norm(gradient)
    if math.isfinite(length) and length > longest:
        gradient *= longest / length
    return length


def adam(weights: Array, gradient: Array, moments: Moments, learning_rate: float, scratch: Array | None = None) -> Moments:
    """Move weights [P] in place one step against a gradient [P]; the moments' arrays change in place too.

    m = 0.9 m + 0.1 g;  v = 0.999 v + 0.001 g^2;  w -= rate * (m / (1 - 0.9^k)) / (sqrt(v / (1 - 0.999^k)) + 1e-5).

    Args:
        scratch: [P], a work array; pass the same one for every step to avoid allocations.

    Returns:
        The moments with their step count one higher.

    Source: Kingma & Ba 2015, algorithm 1; epsilon 1e-5 as in the PPO of OpenAI Baselines.
    """
    first, second, steps = moments.first, moments.second, moments.steps + 1
    work = np.empty_like(weights) if scratch is None else scratch
    first *= DECAY1
    np.multiply(gradient, 1.0 - DECAY1, out=work)
    first += work
    second *= DECAY2
    np.multiply(gradient, gradient, out=work)
    work *= 1.0 - DECAY2
    second += work
    np.sqrt(second, out=work)
    work *= 1.0 / math.sqrt(1.0 - DECAY2**steps)
    work += EPSILON
    np.divide(first, work, out=work)
    work *= learning_rate / (1.0 - DECAY1**steps)
    weights -= work
    return Moments(first, second, steps)
