"""Gymnasium's action spaces as this project's: the agent sees numbers from 0, or flat rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import Space, spaces

from background_training.spaces import ActionSpace, Box, Discrete, MultiBinary, MultiDiscrete
from background_training.spaces.registry import LARGEST_BOUND

Array = npt.NDArray[Any]

NEEDED = "Discrete, MultiDiscrete, MultiBinary or a Box of floats with finite bounds"


class GameActions:
    """One action space of a game, and the conversion of actions between the game and the agent."""

    def __init__(self, game: Space[Any]) -> None:
        """Take the action space of a game.

        Raises:
            ValueError: it can't be learnt; the message names it.
        """
        self.space: ActionSpace
        self._shape = game.shape or ()
        self._dtype = game.dtype
        self._start: Any = 0
        if isinstance(game, spaces.Discrete):
            self.space, self._start = Discrete(int(game.n)), int(game.start)
        elif isinstance(game, spaces.MultiDiscrete):
            self.space = MultiDiscrete(tuple(int(size) for size in game.nvec.reshape(-1)))
            self._start = game.start.reshape(-1)
        elif isinstance(game, spaces.MultiBinary):
            self.space = MultiBinary(int(np.prod(self._shape)))
        elif isinstance(game, spaces.Box) and _is_learnable(game):
            self.space = Box(tuple(game.low.reshape(-1).tolist()), tuple(game.high.reshape(-1).tolist()))
        else:
            raise ValueError(f"the action space is {game}; {_remedy(game) or f'{NEEDED} is needed'}")

    @property
    def flat(self) -> Space[Any]:
        """The Gymnasium space of the agent's actions."""
        if isinstance(self.space, Discrete):
            return spaces.Discrete(self.space.count)
        if isinstance(self.space, MultiDiscrete):
            several: Space[Any] = spaces.MultiDiscrete(list(self.space.sizes))
            return several
        if isinstance(self.space, MultiBinary):
            return spaces.MultiBinary(self.space.size)
        assert isinstance(self.space, Box)
        return spaces.Box(np.array(self.space.low, np.float32), np.array(self.space.high, np.float32))

    def to_game(self, action: Any) -> Any:
        """The agent's action as the game takes it."""
        if isinstance(self.space, Discrete):
            return int(action) + self._start
        return (np.asarray(action) + self._start).astype(self._dtype).reshape(self._shape)

    def from_game(self, action: Any) -> Any:
        """The game's action as the agent would have chosen it."""
        if isinstance(self.space, Discrete):
            return int(action) - self._start
        return (np.asarray(action).reshape(-1) - self._start).astype(self.space.none(0).dtype)  # a copy: callers keep it


def _remedy(game: Space[Any]) -> str:
    """What to change in a game whose Box can't be learnt; "" for other spaces."""
    if not isinstance(game, spaces.Box):
        return ""
    if game.dtype.kind != "f":
        return f"it holds {game.dtype} numbers. Let the game take MultiDiscrete instead: the number of values of each"
    if (game.low >= game.high).any():
        return "it has numbers whose lower bound is not below the upper one; give each the bounds that the game uses"
    return "it has no finite bounds. Give them in the game, or wrap it in one whose action_space has the range that the game uses"


def _is_learnable(game: spaces.Box) -> bool:
    largest = np.maximum(np.abs(game.low), np.abs(game.high))
    return game.dtype.kind == "f" and bool((largest <= LARGEST_BOUND).all() and (game.low < game.high).all())
