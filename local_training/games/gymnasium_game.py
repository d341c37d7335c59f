"""Any Gymnasium game with a Box or Discrete observation, as our agent plays it."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete, Space

from local_training.actions import ActionSpace
from local_training.errors import SettingsError
from local_training.games.game_actions import GameActions
from local_training.plain_values import one_number
from local_training.rl_agent import RLAgent

Array = npt.NDArray[Any]

RESULT = "Finished"
"""The result in an episode's name and meta: these games know no victory."""


def load(game: str) -> None:
    """Load what one of Gymnasium's own games needs, so that forks of this process need not; any other is left to them.

    It says nothing of a game that can't be loaded: who makes it will.
    """
    spec = gymnasium.registry.get(game)
    module = str(spec.entry_point).partition(":")[0] if spec is not None else ""
    if module.startswith("gymnasium.envs."):
        with contextlib.suppress(ImportError, gymnasium.error.Error):
            importlib.import_module(module)


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
            # A game of one's own need not know of render modes.
            asked: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
            self._env = gymnasium.make(game, **asked)
        except (gymnasium.error.Error, ImportError) as error:
            sentence = " ".join(str(error).split())
            raise SettingsError("games.game", game, f"a game that Gymnasium can make is needed ({sentence})", "game") from None
        self._observations = self._env.observation_space
        try:
            if not isinstance(self._observations, (Box, Discrete)):
                raise ValueError(f"the observation space is {self._observations}; Box or Discrete is needed")
            self._actions = GameActions(self._env.action_space)
        except ValueError as error:
            self._env.close()
            raise SettingsError("games.game", game, f"a game that can be learnt is needed: {error}", "game") from None
        self.state_width = len(self._vector(self._observations.sample()))

    @property
    def actions(self) -> ActionSpace:
        """What the agent chooses among."""
        return self._actions.space

    @property
    def action_space(self) -> Space[Any]:
        """Gymnasium's space of the agent's actions."""
        return self._actions.flat

    def reset(self, seed: int) -> Array:
        """Begin a game; its first state."""
        return self._vector(self._env.reset(seed=seed)[0])

    def step(self, action: Any) -> tuple[Array, float, bool, bool]:
        """Take an action; the next state, its reward, whether the game has ended, whether it was cut off."""
        observation, reward, terminated, truncated, _ = self._env.step(self._actions.to_game(action))
        return self._vector(observation), one_number(reward), bool(terminated), bool(truncated)

    def meta(self, number: int, seed: int) -> dict[str, Any]:
        """What an episode file says about the game of this number."""
        return {"game": self._env.spec.id if self._env.spec else "", "seed": seed, "number": number}

    def play(self, agent: RLAgent, number: int, seed: int, training: bool = True, episode_id: str = "") -> GameResult:
        """Play one game to its end, and deposit it as an episode, of this id, when `training`."""
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
            ended = agent.end_episode(
                terminated=terminated, final_state=final_state, result=RESULT, episode_id=episode_id, meta=meta
            )
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
