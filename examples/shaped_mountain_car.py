"""MountainCar-v0 with a reward for gaining energy, so that it can be learnt from whole games.

    python run_with_training.py --game examples.shaped_mountain_car:ShapedMountainCar-v0 --root mountain --games 400
    python tools/evaluate.py --game MountainCar-v0 --root mountain

The game itself gives -1 for each of at most 200 steps: until the flag is reached by chance, all games have the same return,
and nothing can be learnt. The shaping pays the growth of a potential on top. A reward of the form gamma * after -
before, with the learner's own gamma, leaves the best policy as it is (Ng, Harada and Russell, "Policy invariance under
reward transformations", 1999), so the model is good at the game without it too.
"""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import gymnasium

GAMMA = 0.995
"""That of the learner (`learning.gamma`)."""
FULL_POTENTIAL = 50.0
"""What the energy that the flag needs is worth, in steps saved."""


class ShapedMountainCar(gymnasium.Wrapper):
    """Adds gamma * potential after - potential before to each reward."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(gymnasium.make("MountainCar-v0", render_mode=render_mode))
        self._potential = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a game at rest near the bottom of the valley."""
        state, info = self.env.reset(seed=seed, options=options)
        self._potential = _potential(*map(float, state))
        return state, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Pay for energy gained."""
        state, reward, terminated, truncated, info = self.env.step(action)
        before, self._potential = self._potential, 0.0 if terminated else _potential(*map(float, state))
        return state, float(reward) + GAMMA * self._potential - before, terminated, truncated, info


def _potential(position: float, velocity: float) -> float:
    """Kinetic and potential energy of the car: 0 at rest at the bottom, FULL_POTENTIAL at rest beside the flag."""
    height = (math.sin(3 * position) + 1) / 2
    motion = velocity**2 / 2 / (2 * 0.0025 / 3)
    return FULL_POTENTIAL * (height + motion)


gymnasium.register("ShapedMountainCar-v0", entry_point=ShapedMountainCar, max_episode_steps=200)
