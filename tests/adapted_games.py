"""Games of every kind of observation, with masks, and one of two players, for tests of what `run --game` takes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

OBSERVATION = spaces.Dict(
    {
        "place": spaces.Box(-1.0, 1.0, (2,), np.float32),
        "door": spaces.Discrete(3, start=5),
        "words": spaces.Text(10),
        "pair": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2))),
    }
)


class Rooms(gymnasium.Env[Any, Any]):
    """Three moves; each earns 1 if it is the one that `info["action_mask"]` allows, which `moves` widens."""

    observation_space = OBSERVATION
    action_space = spaces.Discrete(3, start=1)

    def __init__(self, mask_by: str = "info", length: int = 3) -> None:
        self._mask_by, self._length, self._steps = mask_by, length, 0
        if mask_by == "method":
            self.action_masks = lambda: self._mask()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        return self._observation(), self._info()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self._mask()[action - 1], f"action {action} is not legal"
        self._steps += 1
        return self._observation(), 1.0, self._steps == self._length, False, self._info()

    def _mask(self) -> Any:
        return np.arange(3) == self._steps % 3

    def _info(self) -> dict[str, Any]:
        return {"action_mask": self._mask().astype(np.int8)} if self._mask_by == "info" else {}

    def _observation(self) -> Any:
        pair = (np.array([1, self._steps % 3]), np.array([0, 1], np.int8))
        return {"place": np.array([0.5, -0.5], np.float32), "door": 6, "words": "hi", "pair": pair}


class Nim:
    """PettingZoo's interface of games in turns: five matches, who takes the last one wins. A move takes one or two."""

    possible_agents = ["one", "two"]
    metadata: dict[str, Any] = {"name": "nim"}
    _space = spaces.Dict({"observation": spaces.Box(0, 5, (1,), np.int8), "action_mask": spaces.Box(0, 1, (2,), np.int8)})

    def __init__(self, matches: int = 5) -> None:
        self._matches = matches

    def agent_iter(self) -> None:
        raise NotImplementedError

    def observation_space(self, agent: str) -> Any:
        return self._space

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None) -> None:
        self.agents, self.agent_selection, self._left = list(self.possible_agents), "one", self._matches
        self._rewards = {"one": 0.0, "two": 0.0}

    def last(self) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        mask = np.array([1, self._left > 1], np.int8)
        observation = {"observation": np.array([self._left], np.int8), "action_mask": mask}
        return observation, self._rewards[self.agent_selection], self._left == 0, False, {}

    def step(self, action: int | None) -> None:
        mover, other = self.agent_selection, "two" if self.agent_selection == "one" else "one"
        if self._left == 0:
            assert action is None
            self.agents.remove(mover)
        else:
            assert action in (0, 1) and action < self._left
            self._left -= action + 1
            if self._left == 0:
                self._rewards = {mover: 1.0, other: -1.0}
        self.agent_selection = other

    def close(self) -> None:
        pass


class Flawed(gymnasium.Env[Any, Any]):
    """A sound game of some steps, with the flaw that is named."""

    def __init__(self, flaw: str = "") -> None:
        self._flaw = flaw
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self._unseeded = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps, self._place = 0, 0.0
        return self._observation(), self._info()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._flaw == "from 1" and action == 0:
            raise KeyError(action)
        rng = self._unseeded if self._flaw == "unseeded" else self.np_random
        self._steps += 1
        self._place = float(np.clip(self._place + (action - 1) * 0.2 + rng.normal() * 0.1, -1, 1))
        reward = 0.0 if self._flaw == "no rewards" else self._place + action
        over = self._flaw != "endless" and bool(rng.random() < 0.05)
        return self._observation(), reward, over, self._steps == 50 and self._flaw != "endless", self._info()

    def _observation(self) -> Any:
        scale = {"unscaled": 500.0, "constant": 0.0}.get(self._flaw, 1.0)
        return np.array([self._place * scale, self._place * scale / 2], np.float32)

    def _info(self) -> dict[str, Any]:
        masks = {"short mask": [1, 1], "no move": [0, 0, 0], "never 0": [0, 1, 1], "all legal": [1, 1, 1]}
        return {"action_mask": np.array(masks[self._flaw], np.int8)} if self._flaw in masks else {}


def register() -> None:
    """What `--game-module adapted_games:register` calls."""
    gymnasium.register("Rooms-v0", entry_point=Rooms)
