"""Memory that two processes see: where one lays what the other works on, and the other what it made of it.

It bears no name that could outlive its users: Linux' memory files, and an already removed file elsewhere, are reached by a
descriptor that the child inherits; Windows' sections go with their last handle. So nothing is left, however they end.
"""

from __future__ import annotations

import math
import mmap
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CACHE_LINE = 64
BEAT, HOLD, ENOUGH = range(3)
"""Places of `Desk.flags`."""


class Shape(NamedTuple):
    """T steps of S + 1 numbers, E epochs, P weights."""

    steps: int
    columns: int
    epochs: int
    weights: int


class Desk(NamedTuple):
    """The arrays of one task, as views of the memory."""

    flags: Array
    """int64: BEAT counts the worker's parts of a gradient; while HOLD is not 0 it stands still; it stops after ENOUGH epochs."""
    states: Array
    """[T, S + 1] float32"""
    targets: Array
    """[T] float32"""
    orders: Array
    """[E, T] int64"""
    begun: Array
    """[3, P] float32: weights, first and second moments."""
    results: Array
    """[E, 3, P] float32: likewise after each epoch."""


def _layout(shape: Shape) -> list[tuple[tuple[int, ...], type]]:
    steps, columns, epochs, weights = shape
    return [
        ((8,), np.int64),
        ((steps, columns), np.float32),
        ((steps,), np.float32),
        ((epochs, steps), np.int64),
        ((3, weights), np.float32),
        ((epochs, 3, weights), np.float32),
    ]


def _padded_bytes(shape: Sequence[int], dtype: type) -> int:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return -(-size // _CACHE_LINE) * _CACHE_LINE


class SharedMemory:
    """A piece of memory that can grow; made by one process, opened by its child with what `handle` says."""

    def __init__(self) -> None:
        self.handle: int | str = "" if sys.platform == "win32" else _unnamed_file()
        self.size = 0
        self._map: mmap.mmap | None = None

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that the child has to inherit."""
        return (self.handle,) if isinstance(self.handle, int) else ()

    def desk(self, shape: Shape) -> Desk:
        """Room for a task; earlier desks are invalid from now on if it had to grow.

        Raises:
            OSError: there is not so much memory.
        """
        needed = sum(_padded_bytes(*part) for part in _layout(shape))
        if needed > self.size:
            self._grow(needed + needed // 2)
        return _views(self._map, shape)

    def close(self) -> None:
        if isinstance(self.handle, int) and self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
        self._map = None

    def _grow(self, size: int) -> None:
        if isinstance(self.handle, int):
            os.ftruncate(self.handle, size)
            self._map = mmap.mmap(self.handle, size)
        else:
            self.handle = f"background-training-{secrets.token_hex(8)}"
            self._map = opened(self.handle, size)
        self.size = size


def opened(handle: int | str, size: int) -> mmap.mmap:
    """The memory that another process made; map it anew whenever its size or handle has changed."""
    if isinstance(handle, int):
        return mmap.mmap(handle, size)
    return mmap.mmap(-1, size, tagname=handle)  # type: ignore[call-arg, unused-ignore]  # Windows alone knows names


def desk_in(memory: mmap.mmap, shape: Shape) -> Desk:
    """The arrays of a task in memory that another process laid out."""
    return _views(memory, shape)


def _views(memory: mmap.mmap | None, shape: Shape) -> Desk:
    assert memory is not None
    views: list[Array] = []
    start = 0
    for extent, dtype in _layout(shape):
        views.append(np.frombuffer(memory, dtype, math.prod(extent), start).reshape(extent))
        start += _padded_bytes(extent, dtype)
    return Desk(*views)


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("background-training")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
