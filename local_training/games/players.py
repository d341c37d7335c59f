"""Games of given numbers, one after the other in this process, or several at a time in processes of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from local_training.games.gymnasium_game import GameResult, GymnasiumGame
from local_training.games.play_order import LostGame, PlayOrder
from local_training.games.several_games import SeveralGames
from local_training.rl_agent import RLAgent


def play(
    order: PlayOrder, numbers: Iterator[int], instances: int, may_go_on: Callable[[], bool]
) -> Iterator[GameResult | LostGame]:
    """Play games of these numbers, and yield what became of each when it is over.

    Args:
        instances: games at a time; more than one are played in processes of their own.
        may_go_on: asked before each game; while it says no, the next one waits.

    Raises:
        SettingsError: there is no such game.
        WorkerError: games failed again and again, on every seat.
    """
    if instances == 1:
        yield from _play_here(order, numbers, may_go_on)
    else:
        with contextlib.closing(SeveralGames(order, instances)) as games:
            yield from games.play(numbers, may_go_on)


def _play_here(order: PlayOrder, numbers: Iterator[int], may_go_on: Callable[[], bool]) -> Iterator[GameResult]:
    game = GymnasiumGame(order.game, order.render_mode)
    try:
        agent = RLAgent(root=order.root, action_space=game.actions, state_width=game.state_width)
        for number in numbers:
            while not may_go_on():
                time.sleep(0.001)
            seed = order.game_seed(number)
            agent.reseed([seed, number])
            yield game.play(agent, number, seed, order.training, order.episode_id(number))
    finally:
        game.close()
