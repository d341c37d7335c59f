"""Toy games for the vector env tests: they count, they log what really happened, and they fail on command."""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

NORMAL, KILL, SEGFAULT, STOP, EXIT, RAISE, LOOP, LEAK, GARBAGE, CLOSE_PIPE, END, WAIT = range(12)
"""What an action of FaultyGame does; NORMAL and END (of the episode) are harmless, WAIT takes 20 ms."""

FAULTS = {
    "kill": KILL,
    "segfault": SEGFAULT,
    "stop": STOP,
    "exit": EXIT,
    "raise": RAISE,
    "loop": LOOP,
    "leak": LEAK,
    "garbage": GARBAGE,
    "closed pipe": CLOSE_PIPE,
}

_LEAKS = 20  # of 32 MB each; so that a test takes a bounded part of the machine's memory


class FaultyGame(gymnasium.Env[Any, Any]):
    """Observation: [number, process id, episode, step]; reward: the step. It ends after `length` steps.

    log: a file to which every step that really happened is appended: number, pid, episode, step before, action, reward.
    reset_fault: what the reset that finds this file does, once; the file is removed first.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, number: int = 0, length: int = 10, log: str = "", reset_fault: str = "", fault: int = NORMAL) -> None:
        self.observation_space = spaces.Box(-1.0, 1e9, (4,), np.float64)
        self.action_space = spaces.Discrete(12)
        self.render_mode = "rgb_array"
        self.number, self.length, self.log = number, length, log
        self.reset_fault, self.fault = reset_fault, fault
        self.episode, self.steps, self.kept = 0, 0, []
        self.colour = "none"

    def _observation(self) -> Any:
        return np.array([self.number, os.getpid(), self.episode, self.steps], np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if self.reset_fault and os.path.exists(self.reset_fault):
            os.remove(self.reset_fault)
            self._misbehave(self.fault)
        self.episode, self.steps = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._misbehave(int(action))
        before = self.steps
        self.steps += 1
        if self.log:
            line = f"{self.number} {os.getpid()} {self.episode} {before} {int(action)} {float(self.steps)}\n"
            with open(self.log, "ab", buffering=0) as file:
                file.write(line.encode())
        ended = self.steps >= self.length or int(action) == END
        return self._observation(), float(self.steps), ended, False, {}

    def render(self) -> Any:
        return np.full((2, 2, 3), self.number, np.uint8)

    def double(self, value: int) -> int:
        return 2 * value

    def _misbehave(self, action: int) -> None:
        if action == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == SEGFAULT:
            os.kill(os.getpid(), signal.SIGSEGV)
        elif action == STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == EXIT:
            os._exit(7)
        elif action == RAISE:
            raise RuntimeError(f"game {self.number} has had enough")
        elif action == LOOP:
            while True:
                time.perf_counter()
        elif action == LEAK:
            while True:
                if len(self.kept) < _LEAKS:
                    self.kept.append(np.ones(4_000_000))
                time.sleep(0.01)
        elif action in (GARBAGE, CLOSE_PIPE):
            _spoil_sockets(close=action == CLOSE_PIPE)
        elif action == WAIT:
            time.sleep(0.02)


def _spoil_sockets(*, close: bool) -> None:
    """Write nonsense into, or close, every socket of this process: the link to the vector env is among them."""
    for descriptor in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                os.close(descriptor) if close else os.write(descriptor, b"\x07nonsense from a mad game")
        except OSError:
            continue


class BuildFault(FaultyGame):
    """Fails while it is built, as long as the file is there; the file is removed first unless `always`."""

    def __init__(self, number: int, marker: str, fault: int, *, always: bool = False, length: int = 10) -> None:
        super().__init__(number, length)
        if os.path.exists(marker):
            if not always:
                os.remove(marker)
            print("building goes wrong", file=sys.stderr, flush=True)
            self._misbehave(fault)


class SpaceGame(gymnasium.Env[Any, Any]):
    """Samples its observation space and remembers the action; for any pair of spaces."""

    def __init__(self, observation_space: Any, action_space: Any, length: int = 5) -> None:
        self.observation_space, self.action_space = copy.deepcopy(observation_space), action_space
        self.length, self.steps = length, 0
        self.observation_space.seed(1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {"fresh": True, "options": str(options)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} ({type(action)}) is not in {self.action_space}")
        self.steps += 1
        info = {"steps": self.steps, "nested": {"half": self.steps / 2, "name": f"s{self.steps}"}, "array": np.arange(3)}
        return self.observation_space.sample(), 0.5, False, self.steps >= self.length, info
