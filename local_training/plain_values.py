"""What a caller's values mean: the one number of a reward, the truth values of a mask.

Every place that takes such a value from a bot, an environment or a file uses these functions, so that all of them
accept and refuse the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from local_training.errors import EpisodeError

Array = npt.NDArray[Any]

_ADDITIVE = -1e3
"""Numbers below this in a mask are meant to be added to the logits."""


def one_number(value: Any, name: str = "the reward") -> float:
    """The number that a scalar is, or an array of exactly one element, of any number of axes.

    NaN and infinities are returned as they are: whether they are allowed is the caller's matter.

    >>> one_number(3), one_number(np.float32(0.5)), one_number(np.array([2.0])), one_number([[1]])
    (3.0, 0.5, 2.0, 1.0)
    >>> one_number(np.array([1.0, 2.0]))
    Traceback (most recent call last):
    ...
    local_training.errors.EpisodeError: the reward has shape (2,); exactly one number is needed

    Args:
        name: what the value is, for the message.

    Raises:
        EpisodeError: "wrong-shape" for several numbers or none, "wrong-dtype" for anything else.
    """
    if type(value) is float or type(value) is int or type(value) is bool:
        return _float(value, name)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; a tensor that needs a gradient or lies on a GPU
        raise EpisodeError("wrong-dtype", f"{name} is of type {type(value).__name__} ({error})", "one number is needed") from None
    if array.dtype.kind in "fiub":
        if array.size != 1:
            raise EpisodeError("wrong-shape", f"{name} has shape {array.shape}", "exactly one number is needed")
        return float(array.reshape(-1)[0])
    if array.shape == () and hasattr(type(value), "__float__"):  # Decimal, Fraction
        return _float(value, name)
    raise EpisodeError("wrong-dtype", f"{name} is {_short(value)}", "one number is needed")


def truth_values(raw: Any, name: str = "action_mask") -> Array:
    """A mask as bool array of the same shape: True where an action is legal.

    Only truth values are a mask: bool, or whole or real numbers that are all exactly 0 or 1. Numbers of another kind
    could mean the opposite: in an additive mask 0 stands for a legal action.

    >>> truth_values([1, 0, 1]), truth_values(np.array([0.0, 1.0]))
    (array([ True, False,  True]), array([False,  True]))
    >>> truth_values([0.0, -1e8])
    Traceback (most recent call last):
    ...
    local_training.errors.EpisodeError: action_mask holds -1e+08, as a mask that is added to logits; True or 1 ... is needed

    Raises:
        EpisodeError: "bad-mask", or "wrong-dtype" for what holds no numbers.
    """
    needed = "True or 1 for each legal action and False or 0 for each other is needed"
    try:
        mask = np.asarray(raw)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EpisodeError("wrong-dtype", f"{name} is no array ({error})", needed) from None
    if mask.dtype == np.bool_:
        return mask
    if mask.dtype.kind not in "iuf":
        raise EpisodeError("wrong-dtype", f"{name} is of type {mask.dtype}", needed)
    legal = mask == 1
    other = ~(legal | (mask == 0))
    if other.any():
        raise EpisodeError("bad-mask", f"{name} holds {_as_what(mask[other])}", needed)
    return np.asarray(legal)


def _as_what(values: Array) -> str:
    """What the numbers of a mask that are neither 0 nor 1 look like."""
    if np.isnan(values).any():
        return "NaN"
    lowest = float(values.min())
    if lowest <= _ADDITIVE:
        return f"{lowest:g}, as a mask that is added to logits"
    if (values == np.floor(values)).all():
        return f"{values[0]:g}, as a count or a list of action numbers"
    return f"{values[0]:g}, as a score or a probability"


def _float(value: Any, name: str) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError, TypeError) as error:
        raise EpisodeError("wrong-dtype", f"{name} is {_short(value)} ({error})", "one number is needed") from None


def _short(value: Any) -> str:
    """A value in a message; its own `repr` may be long, or fail."""
    return f"of type {type(value).__name__}" if not isinstance(value, (str, bytes, int, float, type(None))) else ascii(value)[:40]
