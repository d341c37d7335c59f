"""Convert a caller's values: a reward to a float, a mask to booleans, a meta to JSON values.

Every place that takes such a value from a bot, an environment or a file uses these functions, so that all of them
accept and refuse the same.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import os
import uuid
from collections import deque
from collections.abc import Mapping, Set
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.errors import EpisodeError

Array = npt.NDArray[Any]

LONGEST_META = 90_000
"""Maximum length of the JSON of a meta that an agent writes; readers accept 100,000, and the writer adds keys."""
_DEEPEST = 50
_MOST_VALUES = 20_000
_LARGEST_WHOLE = 2**1000
"""Python refuses to parse larger integers from JSON (sys.set_int_max_str_digits)."""
_ADDITIVE = -1e3
"""Numbers below this indicate an additive mask for logits."""


def one_number(value: Any, name: str = "the reward") -> float:
    """Convert a scalar, or an array of exactly one element with any number of axes, to a float.

    NaN and infinities are returned; the caller decides whether they are allowed.

    >>> one_number(3), one_number(np.float32(0.5)), one_number(np.array([2.0])), one_number([[1]])
    (3.0, 0.5, 2.0, 1.0)
    >>> one_number(np.array([1.0, 2.0]))
    Traceback (most recent call last):
    ...
    background_training.errors.EpisodeError: the reward has shape (2,); exactly one number is needed

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
    """Convert a mask to a bool array of the same shape: True where an action is legal.

    Accepted are bool, and integers or floats that are all exactly 0 or 1. Other numbers could mean the opposite: in an
    additive mask 0 stands for a legal action.

    >>> truth_values([1, 0, 1]), truth_values(np.array([0.0, 1.0]))
    (array([ True, False,  True]), array([False,  True]))
    >>> truth_values([0.0, -1e8])
    Traceback (most recent call last):
    ...
    background_training.errors.EpisodeError: action_mask holds -1e+08, as a mask that is added to logits; True or 1 ... is needed

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


def json_values(given: Any, longest: int = LONGEST_META) -> tuple[dict[str, Any], dict[str, str]]:
    """Convert a mapping to JSON values; return them by key, and the reason for each key that was left out.

    Enum members become their names (those of IntEnum and StrEnum their values, as JSON has it), NumPy's and other numbers
    a number, NaN and infinities a text, arrays, sets and tuples a list, paths, dates, ids and bytes a text, time spans
    their seconds, dataclasses an object. Other objects are left out, as is what contains itself, is nested too deep or is
    too much.

    >>> from pathlib import PurePosixPath
    >>> json_values({"minerals": np.int64(50), "units": np.arange(3), "replay": PurePosixPath("a.SC2Replay")})
    ({'minerals': 50, 'units': [0, 1, 2], 'replay': 'a.SC2Replay'}, {})
    >>> json_values({"map": "Acropolis", "bot": object()})
    ({'map': 'Acropolis'}, {'bot': 'it is of type object'})

    Args:
        given: a mapping or a dataclass; None is an empty one.
        longest: maximum length of the whole as JSON; the longest values are left out until it fits.
    """
    kept: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    if given is None:
        return kept, left_out
    sizes: dict[str, int] = {}
    # A foreign object may raise anything when it is inspected; the episode must be saved all the same.
    try:
        if dataclasses.is_dataclass(given) and not isinstance(given, type):
            given = {field.name: getattr(given, field.name, None) for field in dataclasses.fields(given)}
        if not isinstance(given, Mapping):
            return kept, {"meta": f"it is of type {type(given).__name__}, no mapping"}
        pairs = list(given.items())
    except Exception as error:  # noqa: BLE001
        return kept, {"meta": f"{type(error).__name__} when it was read"}
    for raw_key, raw in pairs:
        key = type(raw_key).__name__
        try:
            key = text_of(raw_key)
            kept[key] = _Plain().of(raw)
            sizes[key] = len(json.dumps(kept[key])) + len(json.dumps(key)) + 4
        except Exception as error:  # noqa: BLE001
            kept.pop(key, None)
            left_out[key] = str(error)[:200] if isinstance(error, _LeftOutError) else f"{type(error).__name__} when it was read"
    while sum(sizes.values()) > longest:
        largest = max(sizes, key=lambda name: sizes[name])
        left_out[largest] = f"it takes {sizes.pop(largest)} letters; all of meta may take {longest}"
        del kept[largest]
    return kept, left_out


def text_of(value: Any) -> str:
    """Convert a value to text: an enum member's name, a path, a number; characters that UTF-8 can't encode are replaced.

    Raises:
        EpisodeError: "bad-meta", it is no single value.
    """
    plain = _Plain().of(_name_of(value) if isinstance(value, enum.Enum) else value)
    if isinstance(plain, (dict, list)):
        raise _LeftOutError("bad-meta", f"it is of type {type(value).__name__}", "a text is needed")
    return plain if isinstance(plain, str) else json.dumps(plain)


class _LeftOutError(EpisodeError):
    """JSON has nothing for a value."""

    def __str__(self) -> str:
        return self.found


class _Plain:
    """The conversion of one value, with its bounds."""

    def __init__(self) -> None:
        self._values = 0
        self._within: list[int] = []

    def of(self, value: Any) -> Any:
        """The value as JSON can hold it.

        Raises:
            EpisodeError: it can't.
        """
        self._values += 1
        if self._values > _MOST_VALUES:
            raise _left_out(f"it holds more than {_MOST_VALUES} values")
        if value is None or value is True or value is False:
            return value
        for types, convert in _CONVERSIONS:
            if isinstance(value, types):
                return convert(value)
        if isinstance(value, enum.Enum):
            return self._inner(value, [_name_of(value)])[0]
        if isinstance(value, (np.generic, np.ndarray)):
            return self._array(np.asarray(value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            pairs = list(value.items())
            return dict(zip([text_of(key) for key, _ in pairs], self._inner(value, [item for _, item in pairs]), strict=True))
        if isinstance(value, (list, tuple, deque, range)):
            return self._inner(value, list(value))
        if isinstance(value, Set):
            return sorted(self._inner(value, list(value)), key=lambda item: (type(item).__name__, json.dumps(item)))
        if hasattr(value, "__array__"):  # a tensor, a series
            return self._array(np.asarray(value))
        raise _left_out(f"it is of type {type(value).__name__}")

    def _inner(self, outer: Any, values: list[Any]) -> list[Any]:
        if id(outer) in self._within:
            raise _left_out("it contains itself")
        if len(self._within) >= _DEEPEST:
            raise _left_out(f"it is nested more than {_DEEPEST} deep")
        self._within.append(id(outer))
        plain = [self.of(value) for value in values]
        self._within.pop()
        return plain

    def _array(self, array: Array) -> Any:
        if array.size > _MOST_VALUES:
            raise _left_out(f"it holds more than {_MOST_VALUES} values")
        if array.dtype.kind in "mMc":
            array = array.astype(str)
        elif array.dtype.kind == "f":
            array = array.astype(np.float64)  # tolist leaves a long double as it is
        elif array.dtype.kind not in "biuUSO":
            raise _left_out(f"it is an array of type {array.dtype}")
        values = array.tolist()
        return self._inner(array, values) if isinstance(values, list) else self.of(values)


def _name_of(member: enum.Enum) -> Any:
    """A member's name; a combination of flags may have none."""
    return member.name if isinstance(member.name, str) else member.value


def _left_out(found: str) -> EpisodeError:
    return _LeftOutError("bad-meta", found, "a value that JSON can hold is needed")


def _clean(text: str) -> str:
    """Replace lone surrogates, which UTF-8 can't encode."""
    return str.encode(text, "utf-8", "replace").decode()


def _whole(value: int) -> int:
    number = int(value)
    if abs(number) > _LARGEST_WHOLE:
        raise _left_out("it is a whole number beyond all measure")
    return number


def _real(value: Any) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _bytes(value: bytes | bytearray | memoryview) -> str:
    return bytes(value).decode("utf-8", "backslashreplace")


_CONVERSIONS: tuple[tuple[Any, Any], ...] = (
    (str, _clean),
    (int, _whole),
    ((float, Decimal, Fraction), _real),
    (complex, str),
    ((bytes, bytearray, memoryview), _bytes),
    (os.PathLike, lambda path: _bytes(raw) if isinstance(raw := os.fspath(path), bytes) else _clean(raw)),
    ((datetime.datetime, datetime.date, datetime.time), lambda moment: moment.isoformat()),
    (datetime.timedelta, lambda span: span.total_seconds()),
    (uuid.UUID, str),
)


def _as_what(values: Array) -> str:
    """Describe the numbers of a mask that are neither 0 nor 1."""
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
