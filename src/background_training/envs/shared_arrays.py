"""The arrays that a vector env and its workers share: observations, actions, results, and which worker steps which row.

Memory is a file without a name (POSIX), inherited by number, or a named mapping that dies with its last handle (Windows).

A space of Box, Discrete, MultiBinary and MultiDiscrete, also nested in Dict and Tuple, is laid out as one array [N, *shape] per
leaf, in the structure that Gymnasium's `create_empty_array` gives it. Samples of other spaces have no fixed size and travel as
messages.

Two batches of observations alternate, so that the last good observation survives a worker that dies while it writes the next. A
large batch is not copied for the caller but lent: the caller gets the shared memory itself, and it is not written to until all
views of it are gone. A caller that keeps many gets copies from the third on.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium import Space, spaces


class SharedMemory(Protocol):
    """Memory that a vector env and its workers see."""

    def resize(self, byte_count: int) -> None: ...

    def map(self, byte_count: int) -> mmap.mmap: ...

    def close(self) -> None: ...


class NamelessFile:
    """Memory as a file without a name: nothing is left of it, however its processes end."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _make_nameless_file() if descriptor is None else descriptor

    def resize(self, byte_count: int) -> None:
        os.ftruncate(self.descriptor, byte_count)

    def map(self, byte_count: int) -> mmap.mmap:
        return mmap.mmap(self.descriptor, byte_count)

    def close(self) -> None:
        os.close(self.descriptor)


def _make_nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("vector-env")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class NamedMapping:
    """Memory as a named mapping of Windows; it dies with its last handle."""

    def __init__(self, name: str, open_mapping: Callable[..., mmap.mmap] = mmap.mmap) -> None:
        self.name = name
        self._open = open_mapping
        self._memory: mmap.mmap | None = None

    def resize(self, byte_count: int) -> None:
        self._memory = self.map(byte_count)

    def map(self, byte_count: int) -> mmap.mmap:
        return self._open(-1, byte_count, tagname=self.name)

    def close(self) -> None:
        # There may still be views into it; the handle closes with the last of them.
        self._memory = None


def make_shared_memory() -> SharedMemory:
    """Memory for a new vector env; its size is set later."""
    if sys.platform == "win32":
        return NamedMapping(f"vector-env-{os.getpid()}-{os.urandom(8).hex()}")
    return NamelessFile()


Rows = Any
"""An array [N, ...], or a dict or tuple of such."""

_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
_ALIGNMENT = 64  # a cache line: two workers that write to neighbouring leaves never share one


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
        # Without this a single number would be spread over the whole row, and the game's mistake would be hidden.
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


LINE_WORDS = 16
"""int64 words of one worker: a cache line that the parent writes, and one that the worker writes."""
ASKED, ANSWERED = 0, 8
"""In a line: the step that is asked for (its number times 16, plus the observation batch), and the one that is done."""

NO_WORKER = 0
"""In `owner`: no worker steps this row."""

_LINE = 64


class SharedBlock:
    """Views into the shared memory of N envs.

    owner: [N] int32, the incarnation of the worker that steps the row; written by the parent only.
    progress: [N] uint32, odd while the env's own code runs; written by the worker.
    lines: [2 N, 16] int64, which step every worker is asked for and has done; each slot has two, for worker and standby.
    hold: [N] bool, asks a worker in SAME_STEP mode to leave a finished episode's last observation in the row.
    rewards, terminations, truncations: [N], results of the last step.
    observations: three batches or more, or None: two that steps go to in turns (ObservationBatches), one for first
        observations of new workers, and `spare` more for steps.
    actions: a batch, or None if they travel as messages.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        observation_space: Space[Any] | None,
        action_space: Space[Any] | None,
        count: int,
        spare: int = 0,
    ) -> None:
        self.memory = memory
        view = memoryview(memory)
        self.owner = self._array(view, 0, np.int32, count)
        self.progress = self._array(view, 1, np.uint32, count)
        self.rewards = self._array(view, 2, np.float64, count)
        self.terminations = self._array(view, 3, np.bool_, count)
        self.truncations = self._array(view, 4, np.bool_, count)
        self.hold = self._array(view, 5, np.bool_, count)
        self._ends = view[3 * _stride(count) : 5 * _stride(count)]
        offset = 6 * _stride(count)
        self.lines = np.frombuffer(view, np.int64, 2 * count * LINE_WORDS, offset).reshape(2 * count, LINE_WORDS)
        offset += self.lines.nbytes
        self.actions = None
        if action_space is not None:
            self.actions = rows_in(action_space, view[offset:], count)
            offset += byte_count(action_space, count)
        self.observations: tuple[Any, ...] | None = None
        if observation_space is not None:
            size = byte_count(observation_space, count)
            starts = range(offset, offset + (3 + spare) * size, size) if size else [offset] * 3
            self.observations = tuple(rows_in(observation_space, view[start:], count) for start in starts)

    def any_ended(self) -> bool:
        """Whether an episode has ended: a search through both arrays' bytes takes a tenth of NumPy's time for few envs."""
        return b"\1" in self._ends.tobytes()

    @staticmethod
    def _array(view: memoryview, number: int, dtype: Any, count: int) -> Any:
        return np.frombuffer(view, dtype=dtype, count=count, offset=number * _stride(count))


def _stride(count: int) -> int:
    return -(-8 * count // _LINE) * _LINE


def block_bytes(observation_space: Space[Any] | None, action_space: Space[Any] | None, count: int, spare: int = 0) -> int:
    """Size of the memory a SharedBlock needs."""
    size = 6 * _stride(count) + 2 * count * LINE_WORDS * 8
    if action_space is not None:
        size += byte_count(action_space, count)
    if observation_space is not None:
        size += (3 + spare) * byte_count(observation_space, count)
    return size


FIRST_OBSERVATIONS = 2
"""The observation batch that a new worker's first observations go to."""


@dataclass
class Layout:
    """What the shared memory looks like; a space is None if its samples travel as messages. `spare`: see SharedBlock."""

    observation_space: Space[Any] | None
    action_space: Space[Any] | None
    count: int
    spare: int
    byte_count: int

    def view(self, memory: mmap.mmap) -> SharedBlock:
        return SharedBlock(memory, self.observation_space, self.action_space, self.count, self.spare)


WORTH_LENDING_BYTES = 1 << 18
"""A batch from this size on is lent; below, a copy is as cheap."""

SPARE_BATCHES = 3


def spare_batches(byte_count: int, *, copy: bool) -> int:
    """How many batches are needed beside the usual ones to lend batches of this size."""
    return SPARE_BATCHES if copy and byte_count >= WORTH_LENDING_BYTES else 0


class ObservationBatches:
    """The batches of one vector env.

    present: the one that the last step or reset went to. previous: the one before it, never the same.
    """

    def __init__(self, observations: tuple[Any, ...], *, copy: bool) -> None:
        self._observations = observations
        self._copy = copy
        self._order = [number for number in range(len(observations)) if number != FIRST_OBSERVATIONS] or [0, 1]
        self._lends = len(self._order) > 2
        self._lent: dict[int, list[weakref.ref[Any]]] = {}
        self.present, self.previous = 0, 1

    def advance(self) -> int:
        """Go on to the next batch: another than the present one, and none that the caller still holds."""
        taken, self.previous = self.present, self.present
        if not self._lends:
            self.present = 1 - taken
            return self.present
        # Always the first that is free: the fewer batches are in use, the more of them stay in the caches.
        self.present = next(number for number in self._order if number != taken and self._free(number))
        return self.present

    def _free(self, number: int) -> bool:
        if any(kept() is not None for kept in self._lent.get(number, ())):
            return False
        self._lent.pop(number, None)
        return True

    def hand_out(self) -> Any:
        """The present batch for the caller, who may keep it, unless copies are switched off."""
        rows = self._observations[self.present]
        if not self._copy:
            return rows
        # With two others left there is always a free one: the next step needs one, which may have to be copied, and the one
        # after it another.
        if self._lends and sum(self._free(number) for number in self._order if number != self.present) >= 2:
            roots: list[weakref.ref[Any]] = []
            lent = _view(rows, roots)
            self._lent[self.present] = roots
            return lent
        return copy_batch(rows)


def _view(rows: Any, roots: list[weakref.ref[Any]]) -> Any:
    """The same memory as new arrays. What is derived from one of them keeps its root alive, so the root shows its use."""
    if isinstance(rows, dict):
        return {key: _view(part, roots) for key, part in rows.items()}
    if isinstance(rows, tuple):
        return tuple(_view(part, roots) for part in rows)
    # Over a memoryview, as NumPy would look through an array and make the batch itself the root of all.
    root = np.frombuffer(memoryview(rows), rows.dtype)
    roots.append(weakref.ref(root))
    return root.reshape(rows.shape)
