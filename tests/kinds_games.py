"""Tiny games, one for each kind of action that is not one of many: what is shown is to be done, at once."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

STEPS = 16


class Shown(gymnasium.Env):
    """What is to be done is shown; the reward says how much of it was done, 1 for all."""

    def __init__(self, actions, width):
        self.action_space = actions
        self.observation_space = spaces.Box(-1.0, 1.0, (width,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        return self._show(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        reward = self._share(action)
        self._step += 1
        return self._show(), reward, self._step == STEPS, False, {}


class Locks(Shown):
    """Three wheels, the first of which counts from 1."""

    def __init__(self):
        super().__init__(spaces.MultiDiscrete([3, 2, 2], start=[1, 0, 0]), 5)

    def _show(self):
        self._wanted = self.np_random.integers(0, [3, 2, 2])
        return np.array([*(self._wanted[0] == np.arange(3)), *self._wanted[1:]], np.float32)

    def _share(self, action):
        return float(np.mean(action - [1, 0, 0] == self._wanted))


class Switches(Shown):
    """Four switches in two rows."""

    def __init__(self):
        super().__init__(spaces.MultiBinary((2, 2)), 4)

    def _show(self):
        self._wanted = self.np_random.integers(0, 2, 4)
        return (2.0 * self._wanted - 1.0).astype(np.float32)

    def _share(self, action):
        return float(np.mean(action.reshape(-1) == self._wanted))


class Levers(Shown):
    """Two levers of different reach."""

    def __init__(self):
        super().__init__(spaces.Box(np.array([[0.0, -5.0]], np.float32), np.array([[1.0, 5.0]], np.float32)), 2)

    def _show(self):
        self._wanted = self.np_random.uniform(-0.8, 0.8, 2)
        return self._wanted.astype(np.float32)

    def _share(self, action):
        found = action.reshape(-1) * [2.0, 0.2] - [1.0, 0.0]
        return float(1.0 - np.abs(found - self._wanted).mean())


class Words(Shown):
    """A game whose actions nobody can learn."""

    def __init__(self):
        super().__init__(spaces.Text(5), 2)


for _game in (Locks, Switches, Levers, Words):
    gymnasium.register(f"{_game.__name__}-v0", entry_point=_game, disable_env_checker=True)
