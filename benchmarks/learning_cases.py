"""How one learner fared with one game and one seed: env steps, processor and wall seconds until its greedy games reach a target.

Every learner is judged by the same rule (`Judge`), and what judging costs is on nobody's account.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
import psutil

from background_training.algo import policy
from background_training.paths import Paths
from background_training.storage import model_store

CHECKOUT = Path(__file__).resolve().parent.parent
SAMPLE_SECONDS = 0.1


class Target(NamedTuple):
    """What counts as learnt, and when to look."""

    mean_return: float
    every: int
    """Env steps between two judgements."""
    most: int
    """Env steps of ours, at most."""
    most_of_peers: int


TARGETS = {
    "CartPole-v1": Target(475, 500, 12_000, 60_000),
    "Acrobot-v1": Target(-100, 1_000, 40_000, 60_000),
    "LunarLander-v3": Target(200, 5_000, 160_000, 800_000),
}


@dataclass
class Account:
    """What a learner had spent when it was judged, and the verdicts: the curve and, if it got there, the target."""

    curve: list[tuple[int, float, float, float]] = field(default_factory=list)
    """(env steps, CPU seconds, wall seconds, greedy mean return), one row a judgement."""
    reached: bool = False


class Judge:
    """Plays greedy games: 10, and 20 more if those reach the target; the mean of all must reach it."""

    def __init__(self, game: str) -> None:
        self.target = TARGETS[game]
        self._game = gymnasium.make(game, disable_env_checker=True)

    def mean_return(self, act: Callable[[np.ndarray], int]) -> float:
        """`act` gives the greedy action for a raw observation [S]."""
        first = [self._play(act, 10_000_000 + number) for number in range(10)]
        if np.mean(first) < self.target.mean_return:
            return float(np.mean(first))
        return float(np.mean(first + [self._play(act, 20_000_000 + number) for number in range(20)]))

    def judge(self, account: Account, spent: tuple[int, float, float], act: Callable[[np.ndarray], int]) -> bool:
        """Add a verdict to the account; whether the target is reached."""
        mean = self.mean_return(act)
        account.curve.append((*spent, mean))
        account.reached = mean >= self.target.mean_return
        return account.reached

    def _play(self, act: Callable[[np.ndarray], int], seed: int) -> float:
        state, total, over = self._game.reset(seed=seed)[0], 0.0, False
        while not over:
            state, reward, terminated, truncated, _ = self._game.step(act(state))
            total += float(reward)
            over = terminated or truncated
        return total


def ours(game: str, seed: int) -> Account:
    """The whole file loop, as its user runs it: two instances, the learner in a process of its own, real files.

    Every version is kept, and judged when all is over. A version's env steps are those of all games that had ended when
    it was published; its CPU seconds are those of games, learner and command together until then.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder) / "root")
        begun, spent_until = _played(game, seed, paths, TARGETS[game].most)
        judge, account, due = Judge(game), Account(), 0
        for version, published, steps in _versions(paths):
            if steps < due:
                continue
            due = steps + judge.target.every
            network = policy.Network(*(_model(paths, version)[name] for name in policy.Network._fields))
            cpu_seconds = float(np.interp(published, *spent_until))
            if judge.judge(account, (steps, cpu_seconds, published - begun), _greedy(network)):
                break
        return account


def _played(game: str, seed: int, paths: Paths, most_steps: int) -> tuple[float, tuple[list[float], list[float]]]:
    """Run the command until enough steps are played; when it began, and (moments, CPU seconds spent until then)."""
    keep_all = {"LOCAL_TRAINING_LEARNER_HISTORY_EVERY": "1", "LOCAL_TRAINING_LEARNER_HISTORY_SIZE": "10000"}
    flags = ["--game", game, "--instances", "2", "--seed", str(seed), "--root", str(paths.root), "--quiet"]
    environment = _environment_of_a_user() | keep_all
    begun = time.time()
    command = [sys.executable, str(CHECKOUT / "run_with_training.py"), *flags]
    # Who is started in the background of a shell inherits that Ctrl+C is ignored, and so would the command.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A group of its own, so that Ctrl+C reaches all of it and none of us.
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    watched, seconds_of = psutil.Process(running.pid), dict[int, float]()
    moments, spent = [begun], [0.0]
    try:
        while running.poll() is None and _steps_played(paths) < most_steps:
            for process in _family(watched):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    seconds_of[process.pid] = times.user + times.system
            moments.append(time.time())
            spent.append(sum(seconds_of.values()))
            time.sleep(SAMPLE_SECONDS)
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
        running.wait(60)
    return begun, (moments, spent)


def _environment_of_a_user() -> dict[str, str]:
    """Ours, with byte code: where Python must keep none, we would be compiled anew in every run, and installed peers not."""
    for folder in ("local_training", "tools"):
        compileall.compile_dir(CHECKOUT / folder, quiet=1)
    compileall.compile_file(CHECKOUT / "run_with_training.py", quiet=1)
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:  # one of them has just ended
        return [process]


def _steps_played(paths: Paths) -> int:
    """From the newest model alone: what it was trained on is less than what was played, by a few games."""
    try:
        with np.load(paths.model) as model:
            return int(model["training_counters"][2])
    except (OSError, ValueError, KeyError):
        return 0


def _versions(paths: Paths) -> list[tuple[int, float, int]]:
    """(version, when it was published, env steps of the games that had ended by then), oldest first."""
    ended = sorted((file.stat().st_mtime, _steps(file)) for file in [*paths.archive.glob("*.npz"), *paths.buffer.glob("*.npz")])
    moments, steps = np.array([moment for moment, _ in ended]), np.cumsum([count for _, count in ended])
    found = []
    for version in model_store.history_versions(paths):
        published = model_store.history_path(paths, version).stat().st_mtime
        place = int(np.searchsorted(moments, published, side="right"))
        found.append((version, published, int(steps[place - 1]) if place else 0))
    return found


def _steps(file: Path) -> int:
    with np.load(file) as episode:
        return len(episode["actions"])


def _model(paths: Paths, version: int) -> dict[str, np.ndarray]:
    with np.load(model_store.history_path(paths, version)) as model:
        return dict(model)


def _greedy(network: policy.Network) -> Callable[[np.ndarray], int]:
    return lambda state: policy.choose(network, np.asarray(state, np.float32), None, None, greedy=True).action
