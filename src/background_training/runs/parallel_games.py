"""Several games side by side, each in a process that is replaced when it fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from background_training import settings_file
from background_training.agent_model import PolicyHolder
from background_training.envs.vector_env import ResilientAsyncVectorEnv
from background_training.episodes.outbox import Outbox
from background_training.errors import SettingsError
from background_training.paths import Paths
from background_training.runs.game_slot import Begin, Played, Seat
from background_training.runs.gymnasium_game import RESULT, GameFacts, GameFault, GameResult
from background_training.runs.run_spec import LostGame, PlayOrder

_ASK_SECONDS = 0.005
_NOBODY_PLAYS_SECONDS = 0.001


@dataclass
class _Running:
    """A game that is being played."""

    number: int
    seed: int
    version: int
    steps: int = 0


class SeveralGames:
    """Games of given numbers on so many seats. A game that fails costs its own episode, and nobody else's.

    The first game of a seat waits for its process; a seat whose process is being replaced is left out meanwhile. A
    seat whose process fails again and again is given up, and the others play on; the last one's loss is an error. A game
    that raises is made again in the process in which it is.
    """

    def __init__(self, game: str, instances: int, start_method: str) -> None:
        """Start the processes, and make the games in them.

        Raises:
            SettingsError: there is no such game.
            WorkerError: no seat could be started.
        """
        # Seats are reset one by one, each for a game of a given number; and a crash costs one episode, no more, no less.
        # Nobody looks for an answer that takes milliseconds: the learner has a use for that core.
        self._envs = ResilientAsyncVectorEnv(
            [partial(Seat, game)] * instances,
            autoreset_mode=AutoresetMode.DISABLED,
            on_exhausted="shrink",
            spin_microseconds=0,
            start_method=start_method,
        )
        try:
            refusal = next((said for said in self._envs.call("refusal") if said is not None), None)
            if refusal is not None:
                raise SettingsError(*refusal)
            self.facts: GameFacts = next(facts for facts in self._envs.call("facts") if facts is not None)
        except BaseException:
            self._envs.close()
            raise
        self._games: list[_Running | None] = [None] * instances
        self._nothing = np.zeros(instances, np.int64)
        self._nobody = np.full(instances, None)

    def _prepare(self, order: PlayOrder) -> None:
        self._order = order
        paths, learning = Paths(order.root), settings_file.load(environment=os.environ).learning
        self._holder = PolicyHolder(paths, paths.model, learning, (), self.facts.state_width, self.facts.actions)
        self._holder.refresh()
        self._outbox = Outbox(paths)
        self._envs.reset()

    def play(self, order: PlayOrder, numbers: Iterator[int], may_go_on: Callable[[], bool]) -> Iterator[GameResult | LostGame]:
        """Play games of these numbers; yields what became of each.

        Args:
            may_go_on: asked before each game; while it says no, no further one begins.

        Raises:
            RestartBudgetError: no seat is left.
        """
        self._prepare(order)
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
                time.sleep(max(0.0, ask_at - time.monotonic()) or _NOBODY_PLAYS_SECONDS)

    def _begin(self, numbers: dict[int, int]) -> Iterator[LostGame]:
        if self._order.training:
            self._holder.refresh()
        seeds: list[int | None] = [None] * len(self._games)
        mask = np.zeros(len(self._games), bool)
        by_seed = {}
        for index, number in numbers.items():
            seed = self._order.game_seed(number)
            seeds[index], mask[index], by_seed[seed] = seed, True, number
            self._games[index] = _Running(number, seed, self._holder.version)
        begin = Begin(by_seed, self._holder.network(self.facts.state_width), self._holder.version, self._order.training)
        _, infos = self._envs.reset(seed=seeds, options={**begin.as_options(), "reset_mask": mask})
        # A seat that failed over this reset has been reset once more, in a new process: only one given up has no game.
        yield from self._losses(infos, ("lost",))

    def _step(self) -> Iterator[GameResult | LostGame]:
        """Let all that play go on for a stretch."""
        steps, _, _, _, infos = self._envs.step(self._nothing)
        yield from self._losses(infos, ("fault", "waiting", "lost"))
        over = infos.get("over", self._nobody)
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

    def _result(self, index: int, game: _Running, played: Played) -> GameResult:
        saved = False
        if played.arrays is not None:
            arrays = dict(played.arrays)
            facts = {"game": self._order.game, "seed": game.seed, "number": game.number, "result": RESULT, "env": index}
            arrays["meta"] = {**_names_of(self._holder), **arrays["meta"], **facts}
            if episode_id := self._order.episode_id(game.number):
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
        """End all processes; games under way are forgotten."""
        if not self._envs.closed:
            self._envs.close()


def _names_of(holder: PolicyHolder) -> dict[str, Any]:
    return {"action_names": holder.model_labels} if holder.action_labels else {}
