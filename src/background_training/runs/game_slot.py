"""A game as one place of a vector env: it plays whole games by itself, some milliseconds of one at each step it is asked for."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from background_training.algo import policy
from background_training.algo.policy import Network
from background_training.envs.episode_stream import EpisodeStream
from background_training.errors import SettingsError
from background_training.runs.gymnasium_game import GAME_ERRORS, GameFacts, GameFault, GymnasiumGame

Array = npt.NDArray[Any]

STRETCH_SECONDS = 0.005
"""How long a seat plays before it answers: long beside what asking and answering costs, short beside what anybody waits for."""


@dataclass(frozen=True)
class Begin:
    """What a reset that begins a game brings along; any other reset leaves the seat empty.

    numbers: of the games that begin, by their seeds.
    network, version: what plays them to their ends.
    explores: whether actions are drawn, and what happens is recorded; otherwise the likeliest are taken.
    """

    numbers: dict[int, int]
    network: Network
    version: int
    explores: bool

    def as_options(self) -> dict[str, Any]:
        """The options of that reset."""
        return {"begin": self}


@dataclass(frozen=True)
class Played:
    """A game that is over; `arrays` are those of its episode file, but for its name and id, if it was recorded."""

    episode_return: float
    steps: int
    terminated: bool
    arrays: dict[str, Any] | None


class Seat(gymnasium.Env[Any, Any]):
    """Plays the game that a reset has begun, until it is over or STRETCH_SECONDS have passed, at each step.

    So a message is exchanged for each stretch, not for each step of the game. What a step brings is how many steps of the
    game were taken so far, and in the end `Played`; its action means nothing, and between two games it does nothing. What is
    played depends on the game's seed, its number and its network only, not on how the stretches fall.

    A game that raises, in `reset` or `step`, is over: the step brings a GameFault instead of a `Played`, and for the next
    game it is made again in this process. A game that can't be made at first is refused: `refusal` says what is wrong.
    """

    def __init__(self, game: str) -> None:
        self.refusal: tuple[Any, ...] | None = None
        self.facts: GameFacts | None = None
        self._name = game
        self.action_space: spaces.Space[Any] = spaces.Discrete(1)
        self.observation_space = spaces.Box(0, np.iinfo(np.int64).max, (1,), np.int64)
        self._game: GymnasiumGame | None = None
        try:
            self._game = GymnasiumGame(game)
            self.facts = self._game.facts
        except SettingsError as error:
            self.refusal = error.args
        self._begin: Begin | None = None
        self._fault: GameFault | None = None
        self._stream = EpisodeStream()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._begin = begin = options.get("begin") if options else None
        self._steps, self._return, self._fault = 0, 0.0, None
        if begin is not None:
            assert seed is not None
            self._rng = np.random.default_rng([seed, begin.numbers[seed]])
            self._stream.begin()
            try:
                game = self._game = self._game or GymnasiumGame(self._name)
                self._state = game.reset(seed)
            except GAME_ERRORS as error:
                self._fail(error)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._begin is None:
            return self._seen(), 0.0, False, False, {}
        until = time.perf_counter() + STRETCH_SECONDS
        before, terminated, truncated = self._return, False, False
        over: Played | GameFault | None = None
        try:
            while self._game is not None and not (terminated or truncated):
                terminated, truncated = self._play_step(self._game, self._begin)
                if time.perf_counter() >= until:
                    break
            if terminated or truncated:
                over = self._played(terminated)
        except GAME_ERRORS as error:
            self._fail(error)
        if self._fault is not None:
            over, self._begin, terminated, truncated = self._fault, None, False, True
        return self._seen(), self._return - before, terminated, truncated, {} if over is None else {"over": over}

    def _fail(self, error: BaseException) -> None:
        """End the game that has raised: the next step says so. In whatever state it is, another one is made for the next."""
        self._fault = GameFault.of(error)
        self.close()

    def _play_step(self, game: GymnasiumGame, begin: Begin) -> tuple[bool, bool]:
        state = self._state
        choice = policy.choose(begin.network, state, None, self._rng, not begin.explores, game.actions)
        self._state, reward, terminated, truncated = game.step(choice.action)
        self._steps += 1
        self._return += reward
        if begin.explores:
            self._stream.add(state, choice.action, reward, choice.log_prob, None, begin.version)
        return terminated, truncated

    def _played(self, terminated: bool) -> Played:
        begin, self._begin = self._begin, None
        arrays = None
        if begin is not None and begin.explores:
            ending = {"ending": "terminated" if terminated else "truncated"}
            assert self._game is not None
            arrays = self._stream.take(terminated=terminated, final_state=self._state, space=self._game.actions, meta=ending)
        return Played(self._return, self._steps, terminated, arrays)

    def _seen(self) -> Array:
        return np.array([self._steps], np.int64)

    def close(self) -> None:
        game, self._game = self._game, None
        if game is not None:
            with contextlib.suppress(*GAME_ERRORS):
                game.close()
