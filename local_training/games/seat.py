"""A game as one place of a vector env: it plays when it is told to, and sits still between its games."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from local_training.actions import ActionSpace, Discrete
from local_training.errors import SettingsError
from local_training.games.gymnasium_game import GymnasiumGame

PLAY = {"play": True}
"""The options of a reset that begins a game; any other reset leaves the seat empty."""


class Seat(gymnasium.Env[Any, Any]):
    """States and actions are as our agent sees them; steps between two games do nothing.

    A game that can't be made is no crash that a restart could mend: `refusal` says what is wrong, and the seat
    stays empty.
    """

    def __init__(self, game: str) -> None:
        self.refusal: tuple[Any, ...] | None = None
        self.actions: ActionSpace = Discrete(1)
        self.action_space: spaces.Space[Any] = spaces.Discrete(1)
        self._game: GymnasiumGame | None = None
        try:
            self._game = GymnasiumGame(game)
            self.actions, self.action_space = self._game.actions, self._game.action_space
        except SettingsError as error:
            self.refusal = error.args
        width = 1 if self._game is None else self._game.state_width
        self.observation_space = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self._nothing = np.zeros(width, np.float32)
        self._playing = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._playing = self._game is not None and bool(options and options.get("play"))
        if not self._playing or self._game is None:
            return self._nothing, {}
        assert seed is not None
        return self._game.reset(seed), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self._playing or self._game is None:
            return self._nothing, 0.0, False, False, {}
        state, reward, terminated, truncated = self._game.step(action)
        self._playing = not (terminated or truncated)
        return state, reward, terminated, truncated, {}

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
