"""How soon an episode is picked up, and part of the model: `python benchmarks/pickup_latency.py [--quick]`.

Picked up: read, checked, and about to be trained on, as the worker announces it. Trained: the model with it is committed.
Both from the rename into the buffer, with the governor off. The peer makes the same update, flush and rename by a plain call.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
from harness import Row

from background_training.spaces import Discrete

import numpy as np  # isort: skip  # harness sets the number of its threads first

from episodes import ACTION_COUNT, STATE_WIDTH, Copies, arrays

from background_training.algo import train_step
from background_training.episodes import episode
from background_training.ipc.json_lines import Message
from background_training.learner.supervisor import Supervisor
from background_training.paths import Paths
from background_training.settings import GovernorSettings, LearningSettings, Settings
from background_training.storage import model_store

WARM_UP = 15
"""Episodes before the first measured one: by then the worker has as many recent steps to replay as it may take."""
LOADS = ((1, 300, 20), (10, 300, 10), (10, 20, 10), (100, 20, 6))
"""(files a second, their steps, seconds of a round)"""


def rows(quick: bool) -> list[Row]:
    """For each load the median and the 99 % quantile of both latencies, in milliseconds."""
    found = []
    for rate, steps, seconds in LOADS[1:2] if quick else LOADS:
        # At one file a second a quantile needs all the time there is: one round.
        rounds = 1 if quick or rate == 1 else 3
        picked, trained, peer = _latencies(rate, steps, 1.0 if quick else seconds, rounds)
        load = f"at {rate} files/s of {steps} steps"
        peer_name = "same update, flush and rename by a plain call, one at a time"
        for percent, name in ((50, "p50"), (99, "p99")):
            found.append(Row(f"pick-up latency {name} {load}", "ms", _quantiles(picked, percent), [], "rename to read"))
            theirs = _quantiles(peer, percent)
            found.append(Row(f"rename to commit {name} {load}", "ms", _quantiles(trained, percent), theirs, peer_name))
    return found


def _quantiles(rounds: list[list[float]], percent: float) -> list[float]:
    return [float(np.percentile(figures, percent)) for figures in rounds]


class _Listening(Supervisor):
    """Notes when the worker says that it trains on a file, and that it has."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, print)
        self.read_at: dict[str, float] = {}
        self.trained_at: dict[str, float] = {}
        self.trained = threading.Condition()
        self._in_hand: list[str] = []

    def _handle(self, event: Message) -> None:
        moment = time.perf_counter()
        super()._handle(event)
        if event["event"] != "training":
            return
        self.read_at.update(dict.fromkeys(event["names"], moment))
        if not event["names"]:
            with self.trained:
                self.trained_at.update(dict.fromkeys(self._in_hand, moment))
                self.trained.notify_all()
        self._in_hand = event["names"]

    def wait_trained(self, count: int) -> None:
        with self.trained:
            if not self.trained.wait_for(lambda: len(self.trained_at) >= count, 120.0):
                raise TimeoutError(f"{len(self.trained_at)} of {count} files were trained on")


@contextmanager
def _worker(root: Path) -> Iterator[_Listening]:
    # Otherwise a busy machine would measure how long the learner gives way to it.
    settings = Settings(root=root, governor=GovernorSettings(enabled=False))
    settings.paths.buffer.mkdir(parents=True)
    supervisor = _Listening(settings)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


Figures = list[list[float]]


def _latencies(rate: int, steps: int, seconds: float, rounds: int) -> tuple[Figures, Figures, Figures]:
    """Of each round, in milliseconds: until the file was read, until the model with it was there, and the peer's updates."""
    picked, trained, peers = [], [], []
    copies = Copies(steps)
    with tempfile.TemporaryDirectory(prefix="pick up ") as folder, _worker(Path(folder) / "root") as worker:
        paths = Paths(Path(folder) / "root")
        peer = _Peer(Paths(Path(folder) / "peer"), steps)
        copies.write(paths.buffer, range(WARM_UP))
        worker.wait_trained(WARM_UP)
        first = WARM_UP
        for _ in range(rounds):
            count = int(rate * seconds)
            dropped = _drop(copies, paths.buffer, range(first, first + count), rate)
            first += count
            worker.wait_trained(first)
            picked.append([1000 * (worker.read_at[name] - moment) for name, moment in dropped.items()])
            trained.append([1000 * (worker.trained_at[name] - moment) for name, moment in dropped.items()])
            peers.append([peer.update() for _ in range(min(count, 40))])
    return picked, trained, peers


def _drop(copies: Copies, folder: Path, numbers: range, rate: int) -> dict[str, float]:
    """Drop one file after the other at a steady pace; when each was renamed."""
    dropped = {}
    begun = time.perf_counter()
    for place, number in enumerate(numbers):
        time.sleep(max(0.0, begun + place / rate - time.perf_counter()))
        copies.drop(folder, number)
        dropped[f"game_{number:09d}.npz"] = time.perf_counter()
    return dropped


class _Peer:
    """Updates and commits a model without any of the rest."""

    def __init__(self, paths: Paths, steps: int) -> None:
        self._paths, self._rng, self._steps = paths, np.random.default_rng(1), steps
        paths.models.mkdir(parents=True)
        self._settings = LearningSettings()
        self._state = train_step.new_state(STATE_WIDTH, Discrete(ACTION_COUNT), self._settings)
        self._recent: list[episode.Episode] = []
        for _ in range(WARM_UP):
            self.update()

    def update(self) -> float:
        """Milliseconds of one update and its commit."""
        new = episode.from_arrays(arrays(self._rng, self._steps, log_probs=True))
        version = self._state.updates + 1
        started = time.perf_counter()
        self._state, _ = train_step.learn(self._state, [new], self._settings, version, self._recent)
        data = model_store.pack(train_step.to_arrays(self._state), version, {"format": model_store.FORMAT})
        partial = self._paths.models / "partial"
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._paths.model)
        taken = time.perf_counter() - started
        self._recent = [*self._recent, new][-self._settings.replay_episodes :]
        return 1000 * taken


if __name__ == "__main__":
    harness.main(rows, "Measure how soon a dropped episode is part of the model.")
