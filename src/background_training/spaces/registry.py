"""Action spaces by their names in files."""

from __future__ import annotations

from typing import Any

import numpy as np

from background_training.spaces.action_space import ActionSpace
from background_training.spaces.box import Box
from background_training.spaces.discrete import Discrete
from background_training.spaces.multi_binary import MultiBinary
from background_training.spaces.multi_discrete import MultiDiscrete

LARGEST_BOUND = 1e6
"""Of a real number in an action."""

NAMES = (Discrete.kind, MultiDiscrete.kind, MultiBinary.kind, Box.kind)


def of_json(said: Any, most: int) -> ActionSpace:
    """The space that a file describes, as `ActionSpace.as_json` does; {"kind": "discrete", "count": A} is one too.

    Args:
        most: how many outputs a network may need for it.

    Raises:
        ValueError: what was found, and what is needed, in words.
    """
    if _is_count(said, most):
        return Discrete(said)
    if not isinstance(said, dict):
        raise ValueError(f"{_shown(said)} is no description", "a JSON object with a kind is needed")
    kind = said.get("kind")
    if kind == Discrete.kind and _is_count(said.get("count"), most):
        return Discrete(said["count"])
    if kind == MultiDiscrete.kind:
        sizes = said.get("sizes")
        if isinstance(sizes, list) and sizes and all(_is_count(size, most) for size in sizes) and sum(sizes) <= most:
            return MultiDiscrete(tuple(sizes))
        raise ValueError(f"sizes are {_shown(sizes)}", f"a list of whole numbers from 1, {most} together at most, is needed")
    if kind == MultiBinary.kind:
        if _is_count(said.get("size"), most):
            return MultiBinary(said["size"])
        raise ValueError(f"size is {_shown(said.get('size'))}", f"a whole number from 1 to {most} is needed")
    if kind == Box.kind:
        return _box(said.get("low"), said.get("high"), most)
    if kind == Discrete.kind:
        raise ValueError(f"count is {_shown(said.get('count'))}", f"a whole number from 1 to {most} is needed")
    raise ValueError(f"kind is {_shown(kind)}", "one of " + ", ".join(NAMES) + " is needed")


def _box(low: Any, high: Any, most: int) -> Box:
    for name, bounds in (("low", low), ("high", high)):
        if not (isinstance(bounds, list) and 0 < len(bounds) <= most // 2 and all(_is_bound(number) for number in bounds)):
            raise ValueError(f"{name} is {_shown(bounds)}", f"a list of finite numbers, {most // 2} at most, is needed")
    if len(low) != len(high) or not (np.array(low, np.float32) < np.array(high, np.float32)).all():
        raise ValueError(f"low is {_shown(low)} and high {_shown(high)}", "as many of each, the low ones below, are needed")
    return Box(tuple(float(number) for number in low), tuple(float(number) for number in high))


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_bound(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST_BOUND


def _shown(value: Any) -> str:
    return ascii(value)[:40]
