"""Episodes to measure with: the sizes of LunarLander-v3, made up from a seed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from background_training.episodes import episode_file

STATE_WIDTH, ACTION_COUNT = 8, 4
_COMMENT_BYTES = 12


def arrays(rng: np.random.Generator, steps: int, *, log_probs: bool) -> dict[str, Any]:
    """The arrays of one episode file; with log-probabilities it is what our agent writes, without what a stranger does."""
    made: dict[str, Any] = {
        "states": rng.standard_normal((steps, STATE_WIDTH), dtype=np.float32),
        "actions": rng.integers(0, ACTION_COUNT, steps),
        "rewards": rng.standard_normal(steps, dtype=np.float32),
    }
    if log_probs:
        made["log_probs"] = np.full(steps, -np.log(ACTION_COUNT), np.float32)
        made["meta"] = {"action_count": ACTION_COUNT}
    return made


class Copies:
    """Files that hold the same steps and differ in a remark of the archive, so that each counts as an episode of its own.

    Making many of them costs little but the writing.
    """

    def __init__(self, steps: int, *, log_probs: bool = True) -> None:
        packed = episode_file.pack(arrays(np.random.default_rng(steps), steps, log_probs=log_probs))
        # The last two bytes say how long the remark is that follows them.
        self._body = packed[:-2] + struct.pack("<H", _COMMENT_BYTES)

    def of(self, number: int) -> bytes:
        """The bytes of one of them."""
        return self._body + b"%0*d" % (_COMMENT_BYTES, number)

    def write(self, folder: Path, numbers: range) -> None:
        """Write some of them, as if they had been waiting there."""
        for number in numbers:
            (folder / f"game_{number:09d}.npz").write_bytes(self.of(number))

    def drop(self, folder: Path, number: int) -> None:
        """Write one as a game does: under a hidden name, then renamed."""
        partial = folder / f".game_{number:09d}.npz.part"
        partial.write_bytes(self.of(number))
        partial.replace(folder / f"game_{number:09d}.npz")
