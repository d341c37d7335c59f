"""The one piece of shared memory of a vector env: who serves which row, and the numbers of every row."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from gymnasium import Space

from background_training.envs import shared_observations

LINE_WORDS = 16
"""int64 words of one worker: a cache line that the parent writes, and one that the worker writes."""
ASKED, ANSWERED = 0, 8
"""In a line: the step that is asked for (its number times 16, plus the observation batch), and the one that is done."""

NOBODY = 0
"""In `owner`: no worker steps this row."""

_LINE = 64


class SharedBlock:
    """Views into the shared memory of N envs.

    owner: [N] int32, the generation of the worker that steps the row; written by the parent only.
    progress: [N] uint32, odd while the env's own code runs; written by the worker.
    lines: [2 N, 16] int64, which step every worker is asked for and has done; each slot has two, for worker and standby.
    hold: [N] bool, asks a worker in SAME_STEP mode to leave a finished episode's last observation in the row.
    rewards, terminations, truncations: [N], results of the last step.
    observations: three batches or more, or None: two that steps go to in turns (observation_batches.py), one for first
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
            self.actions = shared_observations.rows_in(action_space, view[offset:], count)
            offset += shared_observations.byte_count(action_space, count)
        self.observations: tuple[Any, ...] | None = None
        if observation_space is not None:
            size = shared_observations.byte_count(observation_space, count)
            starts = range(offset, offset + (3 + spare) * size, size) if size else [offset] * 3
            self.observations = tuple(shared_observations.rows_in(observation_space, view[start:], count) for start in starts)

    def any_ended(self) -> bool:
        """Whether an episode has ended: a search through both arrays' bytes, a tenth of what NumPy takes for few envs."""
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
        size += shared_observations.byte_count(action_space, count)
    if observation_space is not None:
        size += (3 + spare) * shared_observations.byte_count(observation_space, count)
    return size
