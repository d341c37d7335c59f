"""Greedy games during a run: the return of its policy without exploration, one game per version, played in a child process."""

from __future__ import annotations

import contextlib
import csv
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from background_training.algo import intervals
from background_training.errors import ModelError, ModelMissingError
from background_training.ipc import child
from background_training.ipc.child import Child
from background_training.ipc.json_lines import Channel, Message
from background_training.paths import Paths
from background_training.runs import evaluation, run_log
from background_training.runs.gymnasium_game import GymnasiumGame
from background_training.storage import model_store

SHARE = 0.05
"""Share of the time that greedy games take, so that they do not slow the run and the learner down."""
LAST_GAMES = 10
LAST_SECONDS = 10.0
"""With the last version up to LAST_GAMES games are played, all started within LAST_SECONDS."""
_LOOK_SECONDS = 0.2
_GRACE_SECONDS = 2.0


class GreedyGame(NamedTuple):
    """A line of logs/greedy_games.csv."""

    version: int
    seed: int
    episode_return: float


def read(paths: Paths) -> list[GreedyGame]:
    """All greedy games so far; a torn line is left out."""
    if not paths.greedy_log.exists():
        return []
    found = []
    with open(paths.greedy_log, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            with contextlib.suppress(TypeError, ValueError, KeyError):
                found.append(GreedyGame(int(row["version"]), int(row["seed"]), float(row["episode_return"])))
    return found


def words(paths: Paths) -> str:
    """The mean return of the newest version with its 95 % interval, or that there were too few games; "" if there are none."""
    games = read(paths)
    returns = [game.episode_return for game in games if game.version == games[-1].version]
    if not returns:
        return ""
    played = "1 game" if len(returns) == 1 else f"{len(returns)} games"
    mean = intervals.mean_of(np.asarray(returns, np.float64))
    if len(returns) < LAST_GAMES:
        return f"{mean.value:.1f} (mean return of {played} of version {games[-1].version}; too few for an interval)"
    half = (mean.high - mean.low) / 2
    return f"{mean.value:.1f} +- {half:.1f} (mean return of {played} of version {games[-1].version}, 95 % interval)"


class GreedyProcess:
    """The child process that plays them during a run. If it fails, the run continues without greedy games."""

    def __init__(self, process: Child) -> None:
        """Take charge of a process that calls `follow`."""
        self._process = process

    def finish(self) -> None:
        """Have the last games played with the newest version, and wait for them."""
        self._process.send("last")
        self._process.wait(LAST_SECONDS + _GRACE_SECONDS)

    def close(self) -> None:
        """Kill the process."""
        self._process.close()


@contextlib.contextmanager
def process_beside(root: Path, game: str) -> Iterator[GreedyProcess | None]:
    """Start a greedy process, and kill it on leaving; None if the machine can't start one."""
    arguments = ["evaluate", "--follow", "--root", str(root), "--game", game]
    try:
        process = GreedyProcess(Child(child.start("background_training", arguments)))
    except OSError:
        yield None
        return
    try:
        yield process
    finally:
        process.close()


class Orders:
    """The messages from the run: `last` asks for the last games; the end of the channel means none.

    Attributes:
        last: whether the last games are to be played.
        over: set when the run has ended.
    """

    def __init__(self, channel: Channel) -> None:
        self.last = False
        self.over = threading.Event()
        channel.listen(self._handle, self.over.set)

    def _handle(self, message: Message) -> None:
        self.last = message["event"] == "last"
        self.over.set()


def follow(paths: Paths, game: GymnasiumGame, name: str, orders: Orders) -> None:
    """Play a greedy game with each new version, for SHARE of the time at most, until the run ends.

    Raises:
        ModelError: the model does not fit the game.
        GameRaisedError: the game raised.
    """
    seed = evaluation.FIRST_SEED + len(read(paths))
    version = 0
    while not orders.over.is_set():
        started = time.perf_counter()
        if (model := _newest(paths)) is not None and model.version > version:
            version = model.version
            _play(paths, game, name, model, seed)
            seed += 1
            started -= (time.perf_counter() - started) * (1 / SHARE - 1)
        orders.over.wait(max(_LOOK_SECONDS, time.perf_counter() - started))
    started = time.perf_counter()
    if orders.last and (model := _newest(paths)) is not None:
        for number in range(LAST_GAMES):
            if time.perf_counter() - started < LAST_SECONDS:
                _play(paths, game, name, model, seed + number)


def _newest(paths: Paths) -> model_store.Model | None:
    try:
        return model_store.read(paths.model, model_store.POLICY_KEYS)
    except (ModelMissingError, ModelError, OSError):
        return None


def _play(paths: Paths, game: GymnasiumGame, name: str, model: model_store.Model, seed: int) -> None:
    evaluation.check_fits(model, str(paths.model), game, name)
    [total] = evaluation.returns_of(game, model, [seed], greedy=True)
    paths.logs.mkdir(parents=True, exist_ok=True)
    run_log.append_row(paths.greedy_log, GreedyGame._fields, GreedyGame(model.version, seed, total))
