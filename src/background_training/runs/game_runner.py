"""Plays games of given numbers: one after the other in this process, or several at a time in child processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Protocol

from background_training.agent import RLAgent
from background_training.paths import Paths
from background_training.runs.gymnasium_game import (
    GAME_ERRORS,
    GameFacts,
    GameFault,
    GymnasiumGame,
    LostGame,
    Outcome,
)
from background_training.runs.parallel_runner import ParallelGameRunner
from background_training.runs.run_state import RunSpec


class GameRunner(Protocol):
    """Plays a game that has been made.

    Attributes:
        facts: the game's id, states and actions.
    """

    facts: GameFacts

    def play(self, spec: RunSpec, paths: Paths, numbers: Iterator[int], may_start: Callable[[], bool]) -> Iterator[Outcome]:
        """Play games of these numbers, and yield the outcome of each when it has ended.

        Args:
            spec: the run that they belong to.
            paths: where the model is, and the episodes go.
            may_start: asked before each game; the next one waits while it returns False.

        Raises:
            WorkerError: the processes of all instances have failed too often.
        """
        ...

    def close(self) -> None:
        """Close the game and end its processes; safe to repeat."""
        ...


def open_runner(game: str, instances: int, render_mode: str | None = None) -> GameRunner:
    """Make the game, before a run creates anything else.

    Args:
        instances: games at a time; if more than one, each has a process.

    Raises:
        SettingsError: the game is unknown or can't be made.
        WorkerError: no process could be started.
    """
    return SingleGameRunner(game, render_mode) if instances == 1 else ParallelGameRunner(game, instances)


class SingleGameRunner:
    """Plays in this process. A game that raises is lost, and the environment is made again for the next one."""

    def __init__(self, game: str, render_mode: str | None = None, on_step: Callable[[int], None] | None = None) -> None:
        """Make the environment, as GymnasiumGame does.

        Args:
            on_step: called with the number of steps so far, before the reset and after each step.
        """
        self._name = game
        self._render_mode = render_mode
        self._on_step = on_step
        self._game: GymnasiumGame | None = GymnasiumGame(game, render_mode)
        self.facts = self._game.facts

    def play(self, spec: RunSpec, paths: Paths, numbers: Iterator[int], may_start: Callable[[], bool]) -> Iterator[Outcome]:
        """See GameRunner."""
        agent = RLAgent(
            root=paths.root,
            action_space=self.facts.actions,
            state_width=self.facts.state_width,
            state_names=self.facts.state_names,
            max_wait_seconds=0,  # the run itself delays the next game, for as long as the learner runs
        )
        for number in numbers:
            while not may_start():
                time.sleep(0.001)
            agent.reseed([spec.game_seed(number), number])
            yield self._play(agent, spec, number)

    def _play(self, agent: RLAgent, spec: RunSpec, number: int) -> Outcome:
        try:
            game = self._game = self._game or GymnasiumGame(self._name, self._render_mode)
            return game.play(agent, number, spec.game_seed(number), spec.training, spec.episode_id(number), self._on_step)
        except GAME_ERRORS as error:
            if self._render_mode is not None and isinstance(error, SystemExit):
                raise KeyboardInterrupt from None  # the user has closed the game's window, which ends the run
            lost = LostGame.by_fault(number, self._game.steps if self._game is not None else 0, GameFault.of(error))
        agent.abandon_episode(lost.reason)
        self.close()  # its state is unknown: the next game gets a new environment
        return lost

    def close(self) -> None:
        """Close the environment."""
        game, self._game = self._game, None
        if game is not None:
            game.close()
