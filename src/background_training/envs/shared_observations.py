"""Observations and actions of a space as rows of arrays in shared memory.

A space of Box, Discrete, MultiBinary and MultiDiscrete, also nested in Dict and Tuple, is laid out as one array
[N, *shape] per leaf, in the structure Gymnasium's `create_empty_array` gives it. Other spaces have no fixed size and
travel as messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import Space, spaces

Rows = Any
"""An array [N, ...], or a dict or tuple of such."""

_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
_ALIGNMENT = 64  # a cache line: two workers writing to neighbouring leaves never fight over one


def is_shareable(space: Space[Any]) -> bool:
    """Whether every sample of `space` has the same size and consists of numbers."""
    if isinstance(space, spaces.Dict):
        return all(is_shareable(part) for part in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return all(is_shareable(part) for part in space.spaces)
    return isinstance(space, _LEAVES)


def byte_count(space: Space[Any], count: int) -> int:
    """Bytes that `count` rows of `space` take, up to the next aligned address."""
    if isinstance(space, spaces.Dict):
        return sum(byte_count(part, count) for part in space.spaces.values())
    if isinstance(space, spaces.Tuple):
        return sum(byte_count(part, count) for part in space.spaces)
    assert space.shape is not None and space.dtype is not None
    exact = count * int(np.prod(space.shape)) * space.dtype.itemsize
    return -(-exact // _ALIGNMENT) * _ALIGNMENT


def rows_in(space: Space[Any], memory: memoryview, count: int) -> Rows:
    """View `memory` as `count` rows of `space`."""
    return _rows_from(space, memory, 0, count)[0]


def _rows_from(space: Space[Any], memory: memoryview, offset: int, count: int) -> tuple[Rows, int]:
    if isinstance(space, spaces.Dict):
        named = {}
        for key, part in space.spaces.items():
            named[key], offset = _rows_from(part, memory, offset, count)
        return named, offset
    if isinstance(space, spaces.Tuple):
        parts = []
        for part in space.spaces:
            rows, offset = _rows_from(part, memory, offset, count)
            parts.append(rows)
        return tuple(parts), offset
    assert space.shape is not None and space.dtype is not None
    numbers = count * int(np.prod(space.shape))
    flat = np.frombuffer(memory, dtype=space.dtype, count=numbers, offset=offset)
    return flat.reshape((count, *space.shape)), offset + byte_count(space, count)


def row_writer(rows: Rows) -> Callable[[int, Any], None]:
    """A function that puts one sample into row i; a sample of another size is a ValueError."""
    if isinstance(rows, dict):
        named = {key: row_writer(part) for key, part in rows.items()}

        def write_named(index: int, sample: Any) -> None:
            for key, write in named.items():
                write(index, sample[key])

        return write_named
    if isinstance(rows, tuple):
        parts = tuple(row_writer(part) for part in rows)

        def write_parts(index: int, sample: Any) -> None:
            for write, value in zip(parts, sample, strict=True):
                write(index, value)

        return write_parts
    return _leaf_writer(rows)


def _leaf_writer(rows: Any) -> Callable[[int, Any], None]:
    shape, targets = rows.shape[1:], [rows[i : i + 1].reshape(rows.shape[1:]) for i in range(len(rows))]

    def write(index: int, sample: Any) -> None:
        value = sample if isinstance(sample, np.ndarray) else np.asarray(sample)
        # Without this a single number would be spread over the whole row, and the game's mistake never be seen.
        if value.shape != shape:
            value = value.reshape(shape)
        targets[index][...] = value  # casts as copyto's "unsafe" does, in half the time

    return write


def row_reader(rows: Rows) -> Callable[[int], Any]:
    """A function that returns a copy of row i as a sample; games may keep it."""
    if isinstance(rows, dict):
        named = {key: row_reader(part) for key, part in rows.items()}
        return lambda index: {key: read(index) for key, read in named.items()}
    if isinstance(rows, tuple):
        parts = tuple(row_reader(part) for part in rows)
        return lambda index: tuple(read(index) for read in parts)
    if rows.ndim == 1:
        return rows.__getitem__  # type: ignore[no-any-return]  # a NumPy scalar is a copy by itself
    return lambda index: rows[index].copy()


def write_batch(rows: Rows, batch: Any) -> bool:
    """Put a batch of actions into the rows; False if a number might change on the way, as the rows are of another type.

    Raises:
        ValueError: the batch has not one action per row, or actions of another shape.
        TypeError: it is one number, or its numbers are of another kind, e.g. floats where whole numbers are needed.
    """
    if isinstance(rows, np.ndarray):
        values = batch if isinstance(batch, np.ndarray) else np.asarray(batch)
        if values.ndim == 0:
            raise TypeError(f"actions are {batch!r:.40}; {rows.shape}, one action per env, is needed")
        if values.shape != rows.shape:
            raise ValueError(f"actions have shape {values.shape}; {rows.shape}, one action per env, is needed")
        np.copyto(rows, values)  # casts within the same kind only
        return values.dtype == rows.dtype or np.can_cast(values.dtype, rows.dtype, "safe") or not isinstance(batch, np.ndarray)
    if isinstance(rows, dict):
        fits = [write_batch(part, batch[key]) for key, part in rows.items()]
    else:
        fits = [write_batch(part, values) for part, values in zip(rows, batch, strict=True)]
    return all(fits)


def copy_batch(rows: Rows) -> Rows:
    """A copy that no worker writes to."""
    if isinstance(rows, np.ndarray):
        return rows.copy()
    if isinstance(rows, dict):
        return {key: copy_batch(part) for key, part in rows.items()}
    return tuple(copy_batch(part) for part in rows)


def copy_row(target: Rows, source: Rows, index: int) -> None:
    """Copy row `index` from one batch to another."""
    if isinstance(target, dict):
        for key, part in target.items():
            copy_row(part, source[key], index)
    elif isinstance(target, tuple):
        for part, other in zip(target, source, strict=True):
            copy_row(part, other, index)
    else:
        target[index] = source[index]
