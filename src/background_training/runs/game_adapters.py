"""Games as they are, as the agent can play them: observations as flat states with names, masks of actions, and turns.

Makes the environment of a GameSpec. A PettingZoo game in turns becomes a Gymnasium environment for one of its players;
the others are the game's opponent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from background_training.algo import policy
from background_training.errors import ModelError, ModelMissingError
from background_training.runs.game_spec import GameSpec
from background_training.spaces import ActionSpace
from background_training.storage import model_store

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

MASK = "action_mask"
_MOST_NAMES = 1000
_LONGEST_NAMES = 20_000
"""More names than this would make each episode's meta larger than its states: then features are numbers only."""


def make(spec: GameSpec, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    """Make the environment of a game: a factory's if the id names one, otherwise gymnasium.make's.

    Raises:
        ImportError, gymnasium.error.Error: it is unknown, or a package is missing.
        Exception: whatever the game raises.
    """
    arguments = spec.keywords
    if render_mode is not None:  # a user's game need not have this argument
        arguments["render_mode"] = render_mode
    if spec.module:
        module, _, function = spec.module.partition(":")
        imported = import_module(module)
        if function and not _is_registered(spec.id):  # else a game that is made again would warn that it is registered twice
            getattr(imported, function)()
    factory = _factory(spec.id)
    if factory is None:
        return gymnasium.make(spec.id, **arguments)
    game = factory(**arguments)
    if hasattr(game, "agent_iter"):
        return TurnBasedGame(game)
    if not (hasattr(game, "observation_space") and hasattr(game, "action_space") and hasattr(game, "step")):
        raise TypeError(
            f"{spec.id} makes {type(game).__name__}, which is neither a Gymnasium environment nor a PettingZoo game in turns"
        )
    if not isinstance(game, gymnasium.Env):
        raise TypeError(f"{spec.id} makes {type(game).__name__}, and its class is not derived from gymnasium.Env")
    return game


def _is_registered(name: str) -> bool:
    try:
        gymnasium.spec(name)
    except gymnasium.error.Error:
        return False
    return True


def _factory(name: str) -> Callable[..., Any] | None:
    """The function or class that `module:name` names, or the `env` function of a PettingZoo module; None for an id."""
    head, colon, tail = name.partition(":")
    if not colon:
        return None
    found = getattr(import_module(head), tail, None)
    if found is None and tail.isidentifier():
        try:
            found = import_module(f"{head}.{tail}")
        except ModuleNotFoundError as error:
            if error.name != f"{head}.{tail}":
                raise
    if isinstance(found, ModuleType):
        found = getattr(found, "env", None)
    return found if callable(found) else None


class GameStates:
    """Observations of a game as flat float32 states, in the order of Gymnasium's FlattenObservation.

    A Discrete becomes one-hot, uint8 is scaled by 1/255. Texts, graphs and other parts without a fixed size are left out. An
    `action_mask` beside other parts is the mask of the actions, not a part of the state.

    Attributes:
        width: S, numbers in a state.
        names: of the features, if the observation is a Dict or Tuple of not too many parts; otherwise empty.
        left_out: the parts that are left out.
        has_mask: whether observations hold the mask.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        """Take the observation space of a game.

        Raises:
            ValueError: no part of it can be flattened.
        """
        self.left_out: list[str] = []
        self.has_mask = isinstance(space, spaces.Dict) and MASK in space.spaces and len(space.spaces) > 1
        self._only = ""
        if self.has_mask:
            assert isinstance(space, spaces.Dict)
            rest = {key: part for key, part in space.spaces.items() if key != MASK}
            if len(rest) == 1:
                self._only = next(iter(rest))
            space = rest[self._only] if self._only else spaces.Dict(rest)
        self._read, names = self._reader(space, "")
        if not names:
            raise ValueError(
                f"the observation space is {space}; "
                "Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of them is needed"
            )
        self.width = len(names)
        is_named = isinstance(space, (spaces.Dict, spaces.Tuple)) and len(names) <= _MOST_NAMES
        is_named = is_named and len(set(names)) == len(names) and max(map(len, names)) <= 100
        self.names = tuple(names) if is_named and len(json.dumps(names)) <= _LONGEST_NAMES else ()

    def vector(self, observation: Any) -> Array:
        """The state [S] float32 of an observation."""
        return self._read(observation[self._only] if self._only else observation)

    def _reader(self, space: gymnasium.Space[Any], name: str) -> tuple[Callable[[Any], Array], list[str]]:
        """A function that flattens observations of this space, and the names of what it returns; no names: left out."""
        if isinstance(space, spaces.Box):
            return _numbers, _numbered(name, int(np.prod(space.shape)))
        if isinstance(space, spaces.MultiBinary):
            return _numbers, _numbered(name, int(np.prod(space.shape)))
        if isinstance(space, spaces.Discrete):
            count, start = int(space.n), int(space.start)
            return lambda value: _one_hot(count, int(value) - start), [f"{name}={start + index}" for index in range(count)]
        if isinstance(space, spaces.MultiDiscrete):
            sizes, starts = space.nvec.reshape(-1).astype(int), space.start.reshape(-1).astype(int)
            offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            total = int(sizes.sum())

            def several(value: Any) -> Array:
                hot = np.zeros(total, np.float32)
                hot[offsets + np.asarray(value).reshape(-1) - starts] = 1.0
                return hot

            bare = _numbered(name, len(sizes))
            pairs = zip(bare, sizes, starts, strict=True)
            return several, [f"{one}={start + index}" for one, size, start in pairs for index in range(size)]
        if isinstance(space, (spaces.Dict, spaces.Tuple)):
            return self._reader_of_parts(space, name)
        self.left_out.append(f"{name or 'observation'} ({type(space).__name__})")
        return _nothing, []

    def _reader_of_parts(self, space: spaces.Dict | spaces.Tuple[Any], name: str) -> tuple[Callable[[Any], Array], list[str]]:
        parts = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        readers, names = [], []
        for key, part in parts:
            read, found = self._reader(part, f"{name}.{key}" if name else str(key))
            if found:
                readers.append((key, read))
                names += found
        return lambda value: np.concatenate([read(value[key]) for key, read in readers]), names


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 and name else [f"{name}[{index}]" for index in range(count)]


def _one_hot(count: int, index: int) -> Array:
    hot = np.zeros(count, np.float32)
    hot[index] = 1.0
    return hot


def _numbers(value: Any) -> Array:
    raw = np.asarray(value)
    flat = raw.reshape(-1)
    return flat.astype(np.float32) / np.float32(255) if raw.dtype == np.uint8 else flat.astype(np.float32)


def _nothing(value: Any) -> Array:
    return np.zeros(0, np.float32)


class GameMasks:
    """The legal actions of a game at each moment: of the observation, of `info["action_mask"]` or of `env.action_masks()`."""

    def __init__(self, env: gymnasium.Env[Any, Any], space: ActionSpace, in_observation: bool) -> None:
        self._space = space
        self._in_observation = in_observation
        self._ask: Callable[[], Any] | None = None
        if space.has_masks and env.has_wrapper_attr("action_masks"):
            found = env.get_wrapper_attr("action_masks")
            self._ask = found if callable(found) else None

    def of(self, observation: Any, info: Mapping[str, Any]) -> Array | None:
        """The mask [A] bool of the moment; None if the game gives none.

        Raises:
            EpisodeError: it does not fit the actions, or leaves none.
        """
        if not self._space.has_masks:
            return None
        if self._in_observation:
            raw = observation[MASK]
        elif MASK in info:
            raw = info[MASK]
        elif self._ask is not None:
            raw = self._ask()
        else:
            return None
        if raw is None:
            return None
        mask = np.concatenate([np.asarray(part).reshape(-1) for part in raw]) if isinstance(raw, tuple) else np.asarray(raw)
        mask = mask.reshape(-1).astype(bool)
        self._space.check_mask(mask)
        return mask


Opponent = Callable[[Any, Any], Any]
"""Chooses an action of the game for an observation and a mask (or None)."""


class TurnBasedGame(gymnasium.Env[Any, Any]):
    """A PettingZoo game in turns (an AECEnv) for one of its players. The seed decides which: of two players, each in turn.

    A step is the player's move and those of the others until it is the player's turn again; its reward is what the player
    earned in between.

    Attributes:
        opponent: plays for the others; None: moves at random among the legal ones.
    """

    def __init__(self, game: Any) -> None:
        """Take a PettingZoo game.

        Raises:
            ValueError: it has no players, or they have different spaces.
        """
        self._game = game
        self._players = list(game.possible_agents)
        self.observation_space = game.observation_space(self._players[0])
        self.action_space = game.action_space(self._players[0])
        for player in self._players:
            if (game.observation_space(player), game.action_space(player)) != (self.observation_space, self.action_space):
                raise ValueError(f"{player} has other observations or actions than {self._players[0]}; players must be alike")
        self.metadata = dict(getattr(game, "metadata", {}))
        self.render_mode = getattr(game, "render_mode", None)
        self.opponent: Opponent | None = None
        self._player = self._players[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a game and let the others move until it is the player's turn; a game that ends before that is started again."""
        super().reset(seed=seed)
        self._player = self._players[(seed or 0) % len(self._players)]
        for attempt in range(100):
            self._game.reset(seed=None if seed is None else (seed + attempt * 1_000_003) % 2**31)
            observation, _, is_over, _, info = self._until_the_players_turn()
            if not is_over:
                return observation, info
        raise RuntimeError(f"the others ended 100 games before the first turn of {self._player}")

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play the player's move, and the others' until it is the player's turn again."""
        self._game.step(action)
        return self._until_the_players_turn()

    def render(self) -> Any:
        """What the game draws."""
        return self._game.render()

    def close(self) -> None:
        """Close the game."""
        self._game.close()

    def _until_the_players_turn(self) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        while self._game.agents:
            observation, reward, terminated, truncated, info = self._game.last()
            if self._game.agent_selection == self._player:
                return observation, float(reward), bool(terminated), bool(truncated), info
            self._game.step(None if terminated or truncated else self._others_move(observation, info))
        raise RuntimeError(f"the game ended without a last turn of {self._player}")

    def _others_move(self, observation: Any, info: Mapping[str, Any]) -> Any:
        mask = observation.get(MASK) if isinstance(observation, Mapping) else None
        mask = info.get(MASK) if mask is None else mask
        if self.opponent is not None:
            return self.opponent(observation, mask)
        if mask is None or not isinstance(self.action_space, spaces.Discrete):
            return self._sample()
        return int(self.np_random.choice(np.flatnonzero(mask))) + int(self.action_space.start)

    def _sample(self) -> Any:
        self.action_space.seed(int(self.np_random.integers(2**31)))
        return self.action_space.sample()


class ModelOpponent:
    """Plays the others' moves with the newest model of a file, as a bot that learns does; at random while there is none."""

    def __init__(self, path: Path, states: GameStates, space: ActionSpace, to_game: Callable[[Any], Any]) -> None:
        self._path, self._states, self._space, self._to_game = path, states, space, to_game
        self._version = -1
        self._network: policy.Network | None = None
        self._rng = np.random.default_rng()

    def start_game(self, seed: int) -> None:
        """Take the newest model, and the seed of this game."""
        self._rng = np.random.default_rng([seed, 2])
        try:
            model = model_store.read(self._path, model_store.POLICY_KEYS)
        except (ModelMissingError, ModelError, OSError):
            return  # none yet, or it is being repaired: the former one plays on
        if model.version != self._version and (model.state_width, model.actions) == (self._states.width, self._space):
            self._version = model.version
            self._network = policy.Network(*(model.arrays[key] for key in model_store.POLICY_KEYS))

    def __call__(self, observation: Any, mask: Any) -> Any:
        """An action of the game."""
        legal = None if mask is None or not self._space.has_masks else np.asarray(mask).reshape(-1).astype(bool)
        if self._network is None:
            choice = self._space.choose(np.zeros(self._space.outputs, np.float32), legal, self._rng, False)
        else:
            choice = policy.choose(self._network, self._states.vector(observation), legal, self._rng, False, self._space)
        return self._to_game(choice.action)


def needs_module(error: BaseException) -> str:
    """A hint for a game that could not be made: the package that is missing, or that registers it; "" for any other error."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"install the package that {error.name.partition('.')[0]} comes from into this Python"
    unknown = isinstance(error, (gymnasium.error.NamespaceNotFound, gymnasium.error.NameNotFound))
    if unknown and "Did you mean" not in str(error):
        return "if another package registers it, name that: --game-module PACKAGE, or --game-module PACKAGE:FUNCTION"
    return ""
