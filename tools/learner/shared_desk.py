"""Memory that several processes see: where one lays what another works on, and the other what it made of it.

It bears no name that could outlive its users: Linux' memory files, and an already removed file elsewhere, are reached by a
descriptor that children inherit; Windows' sections go with their last handle. So nothing is left, however they end.
"""

from __future__ import annotations

import math
import mmap
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CACHE_LINE = 64

Layout = Sequence[tuple[Sequence[int], str]]
"""Shape and type of each array, in their order; it fits into JSON."""


def layout_of(arrays: Sequence[Array]) -> list[tuple[Sequence[int], str]]:
    """Room for such arrays."""
    return [(array.shape, array.dtype.str) for array in arrays]


class SharedMemory:
    """A piece of memory that can grow; known to other processes by what `whereabouts` says."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Memory of our own, or that behind a descriptor which was inherited."""
        if descriptor is None:
            descriptor = -1 if sys.platform == "win32" else _unnamed_file()
        self._descriptor = descriptor
        self._name = ""
        self._size = 0
        self._map: mmap.mmap | None = None

    @property
    def descriptor(self) -> int:
        """What children have to inherit; -1 on Windows, where a name is enough."""
        return self._descriptor

    @property
    def whereabouts(self) -> tuple[str, int]:
        """For `Opened.at`: the present name, and the size; valid until it grows."""
        return self._name, self._size

    def arrays(self, layout: Layout) -> list[Array]:
        """Room for such arrays; earlier ones are invalid from now on if it had to grow.

        Raises:
            OSError: there is not so much memory.
        """
        needed = sum(_padded_bytes(*part) for part in layout)
        if needed > self._size:
            self._grow(needed + needed // 2)
        return views(self._map, layout)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._map = None

    def _grow(self, size: int) -> None:
        if self._descriptor >= 0:
            # Another process that uses it by turns may have made it larger.
            size = max(size, os.fstat(self._descriptor).st_size)
            os.ftruncate(self._descriptor, size)
        else:
            self._name = f"background-training-{secrets.token_hex(8)}"
        self._map = _mapped(self._descriptor, self._name, size)
        self._size = size


class Opened:
    """Memory that other processes lay things into; mapped anew whenever it has grown."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._whereabouts: tuple[str, int] = ("", 0)
        self._map: mmap.mmap | None = None

    def at(self, whereabouts: Sequence[Any], layout: Layout) -> list[Array]:
        """The arrays that lie there."""
        name, size = whereabouts
        if self._whereabouts != (name, size):
            self._map, self._whereabouts = _mapped(self._descriptor, name, size), (name, size)
        return views(self._map, layout)


def views(memory: mmap.mmap | None, layout: Layout) -> list[Array]:
    """The arrays of a layout in some memory."""
    assert memory is not None
    found: list[Array] = []
    start = 0
    for extent, dtype in layout:
        found.append(np.frombuffer(memory, dtype, math.prod(extent), start).reshape(extent))
        start += _padded_bytes(extent, dtype)
    return found


def _padded_bytes(shape: Sequence[int], dtype: str) -> int:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return -(-size // _CACHE_LINE) * _CACHE_LINE


def _mapped(descriptor: int, name: str, size: int) -> mmap.mmap:
    if descriptor >= 0:
        return mmap.mmap(descriptor, size)
    return mmap.mmap(-1, size, tagname=name)  # type: ignore[call-arg, unused-ignore]  # Windows alone knows names


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("background-training")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
