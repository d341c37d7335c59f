"""Games that fail as real ones do, by what an environment variable says; made by their id: "failing_games:Fails-v0".

FAILS: what to do, of the names in `_FAULTS`. FAILS_IN: "step" or "reset". FAILS_AT: the games that fail, as
numbers of resets ("2", "1-99"). The count of resets is kept in the file FAILS_COUNT, as a game that failed is made again.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import gymnasium
import numpy as np


class _WordlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("it has no words")


def _one_place(kind: str) -> None:
    if kind == "runtime":
        raise RuntimeError("server closed the connection")
    if kind == "chained":
        try:
            raise OSError("socket gone")
        except OSError as error:
            raise ConnectionError("no answer\nin two lines") from error
    if kind == "exit":
        raise SystemExit(3)
    if kind == "hang":
        threading.Event().wait()
    if kind == "die":
        os._exit(7)
    if kind == "memory":
        raise MemoryError
    if kind == "wordless":
        raise _WordlessError
    if kind == "interrupt":
        raise KeyboardInterrupt
    if kind == "hidden interrupt":
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("a callback returned a result with an exception set") from error


class Fails(gymnasium.Env[Any, Any]):
    """Eight steps a game, observation (3,)."""

    metadata = {"render_modes": ["human"]}
    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        if os.environ.get("FAILS_IN") == "constructor":
            _one_place(os.environ["FAILS"])

    def _count(self) -> int:
        """Games begun so far, this one included; each a byte, so that several processes may count."""
        descriptor = os.open(os.environ["FAILS_COUNT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b".")
        count = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.close(descriptor)
        return count

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.fails = 0, False
        if os.environ.get("FAILS"):
            first, _, last = os.environ["FAILS_AT"].partition("-")
            self.number = self._count()
            self.fails = int(first) <= self.number <= int(last or first)
        if self.fails and os.environ["FAILS_IN"] == "reset":
            self._fail()
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.time += 1
        reward: Any = float(action == 1)
        if self.fails and self.time == 3:
            if os.environ["FAILS"] == "array reward":
                reward = np.array([2.5])
            elif os.environ["FAILS"] == "two rewards":
                reward = np.array([1.0, 2.0])
            elif os.environ["FAILS"] == "no number":
                reward = "much"
            else:
                self._fail()
        return np.zeros(3, np.float32), reward, self.time >= 8, False, {}

    def _fail(self) -> None:
        kind = os.environ["FAILS"]
        if kind == "two places" and self.number % 2:
            raise RuntimeError("at another place")
        _one_place("runtime" if kind == "two places" else kind)

    def close(self) -> None:
        if os.environ.get("FAILS"):
            raise RuntimeError("nor can it be closed")


gymnasium.register("Fails-v0", entry_point=Fails)
gymnasium.register("Other-v0", entry_point=Fails)
