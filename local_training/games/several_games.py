"""Several games side by side, each in a process that is replaced when it fails; one choice of actions for all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode

from local_training import settings_file
from local_training.errors import SettingsError
from local_training.games.batched_policy import PolicyPerEnv
from local_training.games.gymnasium_game import RESULT, GameResult
from local_training.games.play_order import LostGame, PlayOrder
from local_training.games.recorder import EpisodeRecorder
from local_training.games.seat import PLAY, Seat
from local_training.games.vector_env import ResilientAsyncVectorEnv
from local_training.paths import Paths
from local_training.policy_holder import PolicyHolder

Array = npt.NDArray[Any]

_ASK_SECONDS = 0.005
_NOBODY_PLAYS_SECONDS = 0.001


@dataclass
class _Running:
    """A game that is being played."""

    number: int
    seed: int
    version: int
    episode_return: float = 0.0
    steps: int = 0


class SeveralGames:
    """Games of given numbers on so many seats. A game that fails costs its own episode, and nobody else's.

    The first game of a seat waits for its process; a seat whose process is being replaced is left out meanwhile. A
    seat that fails again and again is given up, and the others play on; the last one's loss is an error.
    """

    def __init__(self, order: PlayOrder, instances: int) -> None:
        """Start the processes.

        Raises:
            SettingsError: there is no such game.
            WorkerError: no seat could be started.
        """
        self._order = order
        # Seats are reset one by one, each for a game of a given number; and a crash costs one episode, no more, no less.
        self._envs = ResilientAsyncVectorEnv(
            [partial(Seat, order.game)] * instances, autoreset_mode=AutoresetMode.DISABLED, on_exhausted="shrink"
        )
        try:
            refusal = next((said for said in self._envs.call("refusal") if said is not None), None)
            if refusal is not None:
                raise SettingsError(*refusal)
            self._prepare(Paths(order.root), instances)
        except BaseException:
            self._envs.close()
            raise

    def _prepare(self, paths: Paths, instances: int) -> None:
        actions = next(actions for actions in self._envs.call("actions") if actions is not None)
        learning = settings_file.load(environment=os.environ).learning
        self._width = int(np.prod(self._envs.single_observation_space.shape or ()))
        self._holder = PolicyHolder(paths, paths.model, learning, (), self._width, actions)
        self._holder.refresh()
        self._policy = PolicyPerEnv(instances, actions)
        self._games: list[_Running | None] = [None] * instances
        self._recorder = None
        if self._order.training:
            self._recorder = EpisodeRecorder(
                self._envs, paths, cut_episodes="drop", meta=_names_of(self._holder), result_of=lambda ending, total: RESULT
            )
        self._player = self._recorder or self._envs
        self._states: Array = self._player.reset()[0]

    def play(self, numbers: Iterator[int], may_go_on: Callable[[], bool]) -> Iterator[GameResult | LostGame]:
        """Play games of these numbers; yields what became of each.

        Args:
            may_go_on: asked before each game; while it says no, no further one begins.

        Raises:
            RestartBudgetError: no seat is left.
        """
        upcoming, ask_at = next(numbers, None), 0.0
        while upcoming is not None or any(self._games):
            states = self._envs.row_states
            free = [index for index, game in enumerate(self._games) if game is None and states[index] not in ("down", "lost")]
            begun: dict[int, int] = {}
            if upcoming is not None and free and time.monotonic() >= ask_at:
                while upcoming is not None and len(begun) < len(free) and may_go_on():
                    begun[free[len(begun)]] = upcoming
                    upcoming = next(numbers, None)
                ask_at = 0.0 if begun else time.monotonic() + _ASK_SECONDS
            if begun:
                yield from self._begin(begun)
            if any(self._games) or "down" in states:
                yield from self._step()
            if not any(self._games):
                time.sleep(_NOBODY_PLAYS_SECONDS)

    def _begin(self, numbers: dict[int, int]) -> Iterator[LostGame]:
        if self._order.training:
            self._holder.refresh()
        seeds: list[int | None] = [None] * len(self._games)
        mask = np.zeros(len(self._games), bool)
        for index, number in numbers.items():
            seed = self._order.game_seed(number)
            self._games[index] = _Running(number, seed, self._holder.version)
            self._policy.begin(index, self._holder.network(self._width), self._holder.version, [seed, number])
            if self._recorder is not None:
                self._recorder.describe(index, game=self._order.game, seed=seed, number=number)
                self._recorder.identify(index, self._order.episode_id(number))
            seeds[index], mask[index] = seed, True
        self._states, infos = self._player.reset(seed=seeds, options={**PLAY, "reset_mask": mask})
        # A seat that failed over this reset has been reset once more, in a new process: only one given up has no game.
        yield from self._losses(infos, ("lost",))

    def _step(self) -> Iterator[GameResult | LostGame]:
        choice = self._policy.choose(self._states, greedy=not self._order.training)
        if self._recorder is not None:
            self._recorder.remember(choice)
        self._states, rewards, terminations, truncations, infos = self._player.step(choice.actions)
        yield from self._losses(infos, ("fault", "waiting", "lost"))
        for index, game in enumerate(self._games):
            if game is None:
                continue
            game.steps += 1
            game.episode_return += float(rewards[index])
            if terminations[index] or truncations[index]:
                self._games[index] = None
                self._policy.end(index)
                saved = self._recorder is not None and bool(self._recorder.saved[index])
                yield GameResult(
                    game.number, game.seed, game.episode_return, game.steps, bool(terminations[index]), game.version, saved
                )

    def _losses(self, infos: dict[str, Any], phases: tuple[str, ...]) -> Iterator[LostGame]:
        for index, restarted in enumerate(infos.get("worker_restarted", ())):
            game = self._games[index]
            if restarted and game is not None and infos["restart_phase"][index] in phases:
                self._games[index] = None
                self._policy.end(index)
                yield LostGame(game.number, game.steps, str(infos["restart_reason"][index]))

    def close(self) -> None:
        """End all processes; games under way are forgotten."""
        self._player.close()


def _names_of(holder: PolicyHolder) -> dict[str, Any]:
    return {"action_names": holder.action_labels} if holder.action_labels else {}
