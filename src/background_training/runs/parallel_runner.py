"""Plays several games at a time, each in a process that is replaced when it fails."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from background_training import settings_file
from background_training.agent_model import PolicyHolder
from background_training.algo import policy
from background_training.algo.policy import Network
from background_training.envs.episode_stream import EpisodeStream
from background_training.envs.vector_env import ResilientAsyncVectorEnv
from background_training.episodes.outbox import Outbox
from background_training.errors import SettingsError
from background_training.paths import Paths
from background_training.runs.gymnasium_game import (
    GAME_ERRORS,
    RESULT,
    GameFacts,
    GameFault,
    GameResult,
    GymnasiumGame,
    LostGame,
    Outcome,
)
from background_training.runs.run_state import RunSpec

Array = npt.NDArray[Any]

SLICE_SECONDS = 0.005
"""How long a slot plays before it reports: long compared with a message, short compared with a game."""


@dataclass(frozen=True)
class GameStart:
    """The option of a reset that starts a game; a reset without it leaves the slot empty.

    numbers: of the games that start, by their seeds.
    network, version: the policy that plays them to their ends.
    explores: whether actions are drawn and the game is recorded; otherwise the likeliest actions are taken.
    """

    numbers: dict[int, int]
    network: Network
    version: int
    explores: bool

    def as_options(self) -> dict[str, Any]:
        """The options of that reset."""
        return {"start": self}


@dataclass(frozen=True)
class PlayedGame:
    """A finished game; `arrays` are those of its episode file, without name and id, or None if it was not recorded."""

    episode_return: float
    steps: int
    terminated: bool
    arrays: dict[str, Any] | None


class GameSlot(gymnasium.Env[Any, Any]):
    """The child's side of one instance: at each `step` it plays its game for SLICE_SECONDS, or to its end.

    It is an Env only for ResilientAsyncVectorEnv, which runs it in a process, watches that and replaces it: one message is
    exchanged for each slice, not for each step of the game. A step returns how many steps of the game were taken so far, and at
    the end a PlayedGame under "over"; its action is ignored, and between two games it does nothing. What is played depends on
    the game's seed, number and network only, not on the slices.

    A game that raises, in `reset` or `step`, has ended: the step returns a GameFault instead, and the next game gets a new
    environment in the same process. A game that can't be made at first is refused: `refusal` holds the SettingsError's arguments.
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
        self._start: GameStart | None = None
        self._fault: GameFault | None = None
        self._stream = EpisodeStream()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._start = start = options.get("start") if options else None
        self._steps, self._return, self._fault = 0, 0.0, None
        if start is not None:
            assert seed is not None
            self._rng = np.random.default_rng([seed, start.numbers[seed]])
            self._stream.begin()
            try:
                game = self._game = self._game or GymnasiumGame(self._name)
                self._state = game.reset(seed)
            except GAME_ERRORS as error:
                self._fail(error)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self._start is None:
            return self._observation(), 0.0, False, False, {}
        until = time.perf_counter() + SLICE_SECONDS
        before, terminated, truncated = self._return, False, False
        over: PlayedGame | GameFault | None = None
        try:
            while self._game is not None and not (terminated or truncated):
                terminated, truncated = self._play_step(self._game, self._start)
                if time.perf_counter() >= until:
                    break
            if terminated or truncated:
                over = self._played(terminated)
        except GAME_ERRORS as error:
            self._fail(error)
        if self._fault is not None:
            over, self._start, terminated, truncated = self._fault, None, False, True
        return self._observation(), self._return - before, terminated, truncated, {} if over is None else {"over": over}

    def _fail(self, error: BaseException) -> None:
        """End the game that has raised; the next step reports it. The next game gets a new environment."""
        self._fault = GameFault.of(error)
        self.close()

    def _play_step(self, game: GymnasiumGame, start: GameStart) -> tuple[bool, bool]:
        state = self._state
        choice = policy.choose(start.network, state, None, self._rng, not start.explores, game.actions)
        self._state, reward, terminated, truncated = game.step(choice.action)
        self._steps += 1
        self._return += reward
        if start.explores:
            self._stream.add(state, choice.action, reward, choice.log_prob, None, start.version)
        return terminated, truncated

    def _played(self, terminated: bool) -> PlayedGame:
        start, self._start = self._start, None
        arrays = None
        if start is not None and start.explores:
            ending = {"ending": "terminated" if terminated else "truncated"}
            assert self._game is not None
            arrays = self._stream.take(terminated=terminated, final_state=self._state, space=self._game.actions, meta=ending)
        return PlayedGame(self._return, self._steps, terminated, arrays)

    def _observation(self) -> Array:
        return np.array([self._steps], np.int64)

    def close(self) -> None:
        game, self._game = self._game, None
        if game is not None:
            with contextlib.suppress(*GAME_ERRORS):
                game.close()


_ASK_SECONDS = 0.005
_IDLE_SECONDS = 0.001


@dataclass
class _RunningGame:
    """A game that is being played."""

    number: int
    seed: int
    version: int
    steps: int = 0


class ParallelGameRunner:
    """Plays several games at a time, each in a slot with a process. A game that fails costs its own episode only.

    The first game of a slot waits for its process; a slot whose process is being replaced gets no game meanwhile. A slot whose
    process fails too often is given up, and the others continue; when the last one is given up, that is an error. The environment
    of a game that raises is made again in the same process.
    """

    def __init__(self, game: str, instances: int, start_method: str) -> None:
        """Start the processes, and make the games in them.

        Raises:
            SettingsError: the game is unknown or can't be made.
            WorkerError: no process could be started.
        """
        # Autoreset is off since each slot is reset for a game of a given number. No spinning: answers take milliseconds, and the
        # learner can use that core.
        self._envs = ResilientAsyncVectorEnv(
            [partial(GameSlot, game)] * instances,
            autoreset_mode=AutoresetMode.DISABLED,
            on_exhausted="shrink",
            spin_microseconds=0,
            start_method=start_method,
        )
        try:
            refusal = next((found for found in self._envs.call("refusal") if found is not None), None)
            if refusal is not None:
                raise SettingsError(*refusal)
            self.facts: GameFacts = next(facts for facts in self._envs.call("facts") if facts is not None)
        except BaseException:
            self._envs.close()
            raise
        self._games: list[_RunningGame | None] = [None] * instances
        self._no_actions = np.zeros(instances, np.int64)
        self._none_over = np.full(instances, None)

    def _prepare(self, spec: RunSpec, paths: Paths) -> None:
        self._spec = spec
        learning = settings_file.load(environment=os.environ).learning
        self._holder = PolicyHolder(paths, paths.model, learning, (), self.facts.state_width, self.facts.actions)
        self._holder.refresh()
        self._outbox = Outbox(paths)
        self._envs.reset()

    def play(self, spec: RunSpec, paths: Paths, numbers: Iterator[int], may_start: Callable[[], bool]) -> Iterator[Outcome]:
        """See GameRunner.

        Raises:
            RestartBudgetError: the last slot was given up.
        """
        self._prepare(spec, paths)
        upcoming, ask_at = next(numbers, None), 0.0
        while upcoming is not None or any(self._games):
            states = self._envs.row_states
            free = [index for index, game in enumerate(self._games) if game is None and states[index] not in ("down", "lost")]
            started: dict[int, int] = {}
            if upcoming is not None and free and time.monotonic() >= ask_at:
                while upcoming is not None and len(started) < len(free) and may_start():
                    started[free[len(started)]] = upcoming
                    upcoming = next(numbers, None)
                ask_at = 0.0 if started else time.monotonic() + _ASK_SECONDS
            if started:
                yield from self._start(started)
            if any(self._games) or "down" in states:
                yield from self._step()
            if not any(self._games):
                time.sleep(max(0.0, ask_at - time.monotonic()) or _IDLE_SECONDS)

    def _start(self, numbers: dict[int, int]) -> Iterator[LostGame]:
        if self._spec.training:
            self._holder.refresh()
        seeds: list[int | None] = [None] * len(self._games)
        mask = np.zeros(len(self._games), bool)
        by_seed = {}
        for index, number in numbers.items():
            seed = self._spec.game_seed(number)
            seeds[index], mask[index], by_seed[seed] = seed, True, number
            self._games[index] = _RunningGame(number, seed, self._holder.version)
        start = GameStart(by_seed, self._holder.network(self.facts.state_width), self._holder.version, self._spec.training)
        _, infos = self._envs.reset(seed=seeds, options={**start.as_options(), "reset_mask": mask})
        # A slot that failed in this reset has been reset once more, in a new process: only one that was given up has no game.
        yield from self._losses(infos, ("lost",))

    def _step(self) -> Iterator[Outcome]:
        """Play all running games for one slice."""
        steps, _, _, _, infos = self._envs.step(self._no_actions)
        yield from self._losses(infos, ("fault", "waiting", "lost"))
        over = infos.get("over", self._none_over)
        for index, game in enumerate(self._games):
            if game is None:
                continue
            game.steps = int(steps[index, 0])
            if over[index] is not None:
                self._games[index] = None
                if isinstance(over[index], GameFault):
                    yield LostGame.by_fault(game.number, game.steps, over[index])
                else:
                    yield self._result(index, game, over[index])

    def _result(self, index: int, game: _RunningGame, played: PlayedGame) -> GameResult:
        saved = False
        if played.arrays is not None:
            arrays = dict(played.arrays)
            facts = {"game": self._spec.game, "seed": game.seed, "number": game.number, "result": RESULT, "env": index}
            arrays["meta"] = {**_names_of(self._holder), **arrays["meta"], **facts}
            if episode_id := self._spec.episode_id(game.number):
                arrays["episode_id"] = np.array(episode_id)
            saved = self._outbox.deposit(arrays, RESULT) is not None
        return GameResult(game.number, game.seed, played.episode_return, played.steps, played.terminated, game.version, saved)

    def _losses(self, infos: dict[str, Any], phases: tuple[str, ...]) -> Iterator[LostGame]:
        for index, restarted in enumerate(infos.get("worker_restarted", ())):
            game = self._games[index]
            if restarted and game is not None and infos["restart_phase"][index] in phases:
                self._games[index] = None
                reason = str(infos["restart_reason"][index])
                yield LostGame(game.number, game.steps, reason, kind=reason)

    def close(self) -> None:
        """End all processes; unfinished games are dropped."""
        if not self._envs.closed:
            self._envs.close()


def _names_of(holder: PolicyHolder) -> dict[str, Any]:
    return {"action_names": holder.model_labels} if holder.action_labels else {}
