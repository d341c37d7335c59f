"""Any Gymnasium game with a Box or Discrete observation and Discrete actions, as our agent plays it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

from local_training.errors import SettingsError
from local_training.rl_agent import RLAgent

Array = npt.NDArray[Any]

RESULT = "Finished"
"""The result in an episode's name and meta: these games know no victory."""


@dataclass(frozen=True)
class GameResult:
    """How one game went. `episode_return` is the undiscounted sum of its rewards."""

    number: int
    seed: int
    episode_return: float
    steps: int
    terminated: bool
    policy_version: int
    saved: bool


class GymnasiumGame:
    """One Gymnasium environment; states are flat float32 vectors, a Discrete observation is one-hot."""

    def __init__(self, game: str, render_mode: str | None = None) -> None:
        """Make the environment.

        Args:
            game: its Gymnasium id, e.g. "CartPole-v1".
            render_mode: "human" shows it in a window.

        Raises:
            SettingsError: there is no such game, its packages are missing, or its spaces are of another kind.
        """
        try:
            self._env = gymnasium.make(game, render_mode=render_mode)
        except (gymnasium.error.Error, ImportError) as error:
            sentence = " ".join(str(error).split())
            raise SettingsError("games.game", game, f"a game that Gymnasium can make is needed ({sentence})", "game") from None
        self._observations = self._env.observation_space
        if not isinstance(self._observations, (Box, Discrete)) or not isinstance(self._env.action_space, Discrete):
            found = f"observations {self._observations}, actions {self._env.action_space}"
            self._env.close()
            needed = f"Box or Discrete observations and Discrete actions are needed, and it has {found}"
            raise SettingsError("games.game", game, needed, "game")
        self._first_action = int(self._env.action_space.start)
        self.action_count = int(self._env.action_space.n)
        self.state_width = len(self._vector(self._observations.sample()))

    @property
    def action_names(self) -> list[str]:
        return [f"action_{number}" for number in range(self.action_count)]

    def reset(self, seed: int) -> Array:
        """Begin a game; its first state."""
        return self._vector(self._env.reset(seed=seed)[0])

    def step(self, action: int) -> tuple[Array, float, bool, bool]:
        """Take an action; the next state, its reward, whether the game has ended, whether it was cut off."""
        observation, reward, terminated, truncated, _ = self._env.step(self._first_action + action)
        return self._vector(observation), float(reward), bool(terminated), bool(truncated)

    def meta(self, number: int, seed: int) -> dict[str, Any]:
        """What an episode file says about the game of this number."""
        return {"game": self._env.spec.id if self._env.spec else "", "seed": seed, "number": number}

    def play(self, agent: RLAgent, number: int, seed: int, training: bool = True) -> GameResult:
        """Play one game to its end, and deposit it as an episode when `training`."""
        state = self.reset(seed)
        episode_return, steps, over = 0.0, 0, False
        terminated = False
        version = agent.model_version
        while not over:
            action, _, _ = agent.get_action(state, training=training)
            version = agent.model_version if steps == 0 else version
            state, reward, terminated, truncated = self.step(action)
            steps += 1
            episode_return += reward
            over = terminated or truncated
            if training:
                agent.update_reward(reward)
        saved = False
        if training:
            final_state = None if terminated else state
            meta = self.meta(number, seed)
            ended = agent.end_episode(terminated=terminated, final_state=final_state, result=RESULT, meta=meta)
            saved = bool(ended["saved"])
        return GameResult(number, seed, episode_return, steps, terminated, version, saved)

    def close(self) -> None:
        self._env.close()

    def _vector(self, observation: Any) -> Array:
        if isinstance(self._observations, Discrete):
            one_hot = np.zeros(int(self._observations.n), np.float32)
            one_hot[int(observation) - int(self._observations.start)] = 1.0
            return one_hot
        raw = np.asarray(observation)
        flat = raw.reshape(-1)
        return flat.astype(np.float32) / np.float32(255) if raw.dtype == np.uint8 else flat.astype(np.float32)
