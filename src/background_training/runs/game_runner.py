"""Games of given numbers, one after the other in this process, or several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from background_training.agent import RLAgent
from background_training.runs.gymnasium_game import GAME_ERRORS, GameFacts, GameFault, GameResult, GymnasiumGame
from background_training.runs.parallel_games import SeveralGames
from background_training.runs.run_spec import LostGame, PlayOrder


class Player(Protocol):
    """A game that has been made and can be played."""

    facts: GameFacts

    def play(self, order: PlayOrder, numbers: Iterator[int], may_go_on: Callable[[], bool]) -> Iterator[GameResult | LostGame]:
        """Play games of these numbers, and yield what became of each when it is over.

        Args:
            may_go_on: asked before each game; while it says no, the next one waits.

        Raises:
            WorkerError: games failed again and again, in every process.
        """
        ...

    def close(self) -> None:
        """End the game and its processes; safe to repeat."""
        ...


def opened(game: str, instances: int, render_mode: str | None = None, start_method: str = "spawn") -> Player:
    """Make a game, before anything else is begun for it.

    Args:
        instances: games at a time; more than one are played in processes of their own.
        start_method: of those processes, as in VectorSettings.

    Raises:
        SettingsError: there is no such game, or it can't be made.
        WorkerError: no process could be started.
    """
    return OneGame(game, render_mode) if instances == 1 else SeveralGames(game, instances, start_method)


class OneGame:
    """A game in this process. One that raises is lost, as one whose process dies is, and the game is made again."""

    def __init__(self, game: str, render_mode: str | None = None) -> None:
        """Make it, as GymnasiumGame does."""
        self._name = game
        self._render_mode = render_mode
        self._game: GymnasiumGame | None = GymnasiumGame(game, render_mode)
        self.facts = self._game.facts

    def play(self, order: PlayOrder, numbers: Iterator[int], may_go_on: Callable[[], bool]) -> Iterator[GameResult | LostGame]:
        """As Player says."""
        agent = RLAgent(root=order.root, action_space=self.facts.actions, state_width=self.facts.state_width)
        for number in numbers:
            while not may_go_on():
                time.sleep(0.001)
            agent.reseed([order.game_seed(number), number])
            yield self._play(agent, order, number)

    def _play(self, agent: RLAgent, order: PlayOrder, number: int) -> GameResult | LostGame:
        try:
            game = self._game = self._game or GymnasiumGame(self._name, self._render_mode)
            return game.play(agent, number, order.game_seed(number), order.training, order.episode_id(number))
        except GAME_ERRORS as error:
            if self._render_mode is not None and isinstance(error, SystemExit):
                raise KeyboardInterrupt from None  # its window was closed: who watches wants no other one
            lost = LostGame.by_fault(number, self._game.steps if self._game is not None else 0, GameFault.of(error))
        agent.abandon_episode(lost.reason)
        self.close()  # whatever state it is in: another one is made for the next game
        return lost

    def close(self) -> None:
        """Close the game. What it raises now concerns no episode any more."""
        game, self._game = self._game, None
        if game is not None:
            with contextlib.suppress(*GAME_ERRORS):
                game.close()
