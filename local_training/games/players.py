"""Several games at a time, each in a process of its own; one in this very process when there is only one."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from local_training.errors import BackgroundTrainingError, WorkerError
from local_training.games.gymnasium_game import GameResult, GymnasiumGame
from local_training.rl_agent import RLAgent

_FINISH_SECONDS = 0.7
_STOP_SECONDS = 0.5
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class PlayOrder:
    """What all players need to know."""

    game: str
    root: Path
    seed: int
    training: bool = True
    render_mode: str | None = None

    def game_seed(self, number: int) -> int:
        """The seed of the game of this number; no two games of a run share one."""
        return (self.seed * 1_000_003 + number) % 2**31


def play(
    order: PlayOrder, numbers: Iterator[int], instances: int, may_go_on: Callable[[], bool], restart_limit: int = 5
) -> Iterator[GameResult]:
    """Play games of these numbers, and yield each result when its game is over.

    Args:
        instances: games at a time; more than one are played in processes of their own.
        may_go_on: asked before each game; while it says no, the next one waits.
        restart_limit: how many dead game processes are replaced before the run gives up.

    Raises:
        SettingsError: there is no such game.
        WorkerError: game processes died too often; each one's game is lost, the others' are not.
    """
    if instances == 1:
        yield from _play_here(order, numbers, may_go_on)
    else:
        with contextlib.closing(_Players(order, instances, restart_limit)) as players:
            yield from players.play(numbers, may_go_on)


def _play_here(order: PlayOrder, numbers: Iterator[int], may_go_on: Callable[[], bool]) -> Iterator[GameResult]:
    game = GymnasiumGame(order.game, order.render_mode)
    try:
        agent = _agent(order, game, 0)
        for number in numbers:
            while not may_go_on():
                time.sleep(0.001)
            yield game.play(agent, number, order.game_seed(number), order.training)
    finally:
        game.close()


def _agent(order: PlayOrder, game: GymnasiumGame, instance: int) -> RLAgent:
    seed = order.game_seed(0) * 1009 + instance
    return RLAgent(root=order.root, action_names=game.action_names, state_width=game.state_width, seed=seed)


class _Players:
    """The processes and what each is playing."""

    def __init__(self, order: PlayOrder, instances: int, restart_limit: int) -> None:
        self._order = order
        self._restarts_left = restart_limit
        self._context = multiprocessing.get_context("spawn")
        self._pipes: dict[Connection[Any, Any], SpawnProcess] = {}
        self._idle: list[Connection[Any, Any]] = []
        for instance in range(instances):
            self._start(instance)

    def play(self, numbers: Iterator[int], may_go_on: Callable[[], bool]) -> Iterator[GameResult]:
        instances = len(self._pipes)
        upcoming = next(numbers, None)
        while upcoming is not None or len(self._idle) < len(self._pipes):
            while upcoming is not None and self._idle and may_go_on():
                pipe = self._idle.pop(0)
                pipe.send(upcoming)
                upcoming = next(numbers, None)
            playing = [pipe for pipe in self._pipes if pipe not in self._idle]
            for ready in wait(playing, timeout=_POLL_SECONDS if playing else 0.0):
                pipe = next(candidate for candidate in playing if candidate is ready)
                result = self._received(pipe)
                if result is None:
                    self._replace(pipe, instance=instances + self._restarts_left)
                    continue
                self._idle.append(pipe)
                yield result
            if not playing:
                time.sleep(0.001)

    def close(self) -> None:
        """End all players: those in the middle of a short game may finish it, the others are cut off."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        self._join(_FINISH_SECONDS)
        for process in self._pipes.values():
            process.terminate()
        self._join(_STOP_SECONDS)
        for pipe, process in self._pipes.items():
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
            pipe.close()
        self._pipes = {}

    def _join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for process in self._pipes.values():
            process.join(max(0.0, deadline - time.monotonic()))

    def _start(self, instance: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_player_main, args=(self._order, instance, theirs), daemon=True)
        process.start()
        theirs.close()
        self._pipes[ours] = process
        self._idle.append(ours)

    def _received(self, pipe: Connection[Any, Any]) -> GameResult | None:
        """The result of a game; None if its process has died.

        Raises:
            BackgroundTrainingError: what the player's process could not do.
        """
        try:
            answer = pipe.recv()
        except (EOFError, OSError):
            return None
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, GameResult)
        return answer

    def _replace(self, pipe: Connection[Any, Any], instance: int) -> None:
        process = self._pipes.pop(pipe)
        pipe.close()
        process.join()
        exit_code = process.exitcode
        process.close()
        if self._restarts_left == 0:
            raise WorkerError(f"a game process died (exit code {exit_code}), and too many have died before it")
        self._restarts_left -= 1
        self._start(instance)


def _player_main(order: PlayOrder, instance: int, orders: Connection[Any, Any]) -> None:
    """The main of a game process: take a number, play that game, send the result."""
    # The terminal's Ctrl+C goes to everybody; it is the parent that ends the run, in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    game: GymnasiumGame | None = None
    try:
        game = GymnasiumGame(order.game)
        agent = _agent(order, game, instance)
        while (number := orders.recv()) is not None:
            orders.send(game.play(agent, number, order.game_seed(number), order.training))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
    except BackgroundTrainingError as error:
        orders.recv()
        orders.send(error)
    finally:
        if game is not None:
            game.close()
