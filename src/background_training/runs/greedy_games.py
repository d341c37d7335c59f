"""Greedy games beside a run: how good its policy would be without exploring, one game for a version, in a process of its own."""

from __future__ import annotations

import contextlib
import csv
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, NamedTuple, Protocol

from background_training.errors import ModelError, ModelMissingError
from background_training.paths import Paths
from background_training.runs import evaluation, run_log
from background_training.runs.gymnasium_game import GymnasiumGame
from background_training.storage import model_store

SHARE = 0.05
"""How much of the time is played, so that the games of the run and their learner notice nothing."""
LAST_GAMES = 5
LAST_SECONDS = 3.0
"""With the last version so many games are played, begun within so long."""
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
    """How the newest version did; "" if nothing is known."""
    games = read(paths)
    returns = [game.episode_return for game in games if game.version == games[-1].version]
    if not returns:
        return ""
    played = "1 game" if len(returns) == 1 else f"{len(returns)} games"
    return f"{sum(returns) / len(returns):.1f} (mean return of {played} of version {games[-1].version})"


class PlayingProcess(Protocol):
    """What is asked of it: the same as of subprocess.Popen."""

    stdin: IO[bytes] | None

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


class Beside:
    """The process that plays them, for the run that started it. If it fails, the run has no greedy games; that is all."""

    def __init__(self, process: PlayingProcess) -> None:
        """`process` calls `follow`, with `orders` from its stdin."""
        self._process = process

    def finish(self) -> None:
        """Have some games played with the last version, and wait for them."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.write(b"last\n")
            self._process.stdin.flush()
            self._process.wait(LAST_SECONDS + _GRACE_SECONDS)

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


@contextlib.contextmanager
def beside(start: Callable[[], PlayingProcess]) -> Iterator[Beside | None]:
    """Such a process, ended on the way out; None where the machine starts none."""
    try:
        process = Beside(start())
    except OSError:
        yield None
        return
    try:
        yield process
    finally:
        process.stop()


class Orders:
    """What the run says: "last" for the last games; the end of the stream for none at all."""

    def __init__(self, stream: BinaryIO) -> None:
        self.last = False
        self.over = threading.Event()
        threading.Thread(target=self._listen, args=(stream,), daemon=True).start()

    def _listen(self, stream: BinaryIO) -> None:
        self.last = stream.readline().strip() == b"last"
        self.over.set()


def follow(paths: Paths, game: GymnasiumGame, name: str, orders: Orders) -> None:
    """Play a greedy game with each new version, SHARE of the time at most, until there are no more orders.

    Raises:
        ModelError: the model is of another game.
    """
    seed = evaluation.FIRST_SEED + len(read(paths))
    version = 0
    while not orders.over.is_set():
        begun = time.perf_counter()
        if (model := _newest(paths)) is not None and model.version > version:
            version = model.version
            _play(paths, game, name, model, seed)
            seed += 1
            begun -= (time.perf_counter() - begun) * (1 / SHARE - 1)
        orders.over.wait(max(_LOOK_SECONDS, time.perf_counter() - begun))
    begun = time.perf_counter()
    if orders.last and (model := _newest(paths)) is not None:
        for number in range(LAST_GAMES):
            if time.perf_counter() - begun < LAST_SECONDS:
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
