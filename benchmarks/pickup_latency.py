"""Pick-up latency: from the rename into the buffer to the commit of the model, with an idle worker.

The peer makes the same update, flush and rename by a plain call: what is above it is what watching, checking and the
other process cost. `python benchmarks/pickup_latency.py [--quick]`
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import harness
from harness import Row

import numpy as np  # isort: skip  # harness sets the number of its threads first

from episodes import ACTION_COUNT, STATE_WIDTH, arrays

from local_training import episode, episode_file, learning, model_store
from local_training.paths import Paths
from local_training.settings import LearnerSettings, LearningSettings, Settings
from tools.background_parallel_learner import BackgroundParallelLearner

STEPS = 300
WARM_UP = 15
"""Episodes before the first measured one: by then the worker has as many recent steps to replay as it may take."""


def rows(quick: bool) -> list[Row]:
    """One row, in milliseconds."""
    rounds = 5 if quick else 40
    with tempfile.TemporaryDirectory(prefix="pick up ") as folder:
        paths = Paths(Path(folder) / "root")
        settings = Settings(root=paths.root, learner=LearnerSettings(verbose=False))
        rng = np.random.default_rng(1)
        peer = _Peer(Paths(Path(folder) / "peer"), rng)
        with BackgroundParallelLearner(settings=settings):
            for number in range(WARM_UP):
                _dropped(paths, rng, -1 - number)
            numbers = iter(range(rounds))
            ours, theirs = harness.take_turns(rounds, lambda: _dropped(paths, rng, next(numbers)), peer.update)
    what = f"pick-up latency, one episode of {STEPS} steps, rename to commit"
    return [Row(what, "ms", ours, theirs, "same update, flush and rename by a plain call")]


def _dropped(paths: Paths, rng: np.random.Generator, number: int) -> float:
    """Milliseconds until one dropped episode is part of the model."""
    data = episode_file.pack(arrays(rng, STEPS, log_probs=True))
    harness.wait_until(paths.buffer.is_dir, 30.0, "the buffer")
    harness.wait_until(lambda: not any(paths.buffer.iterdir()), 30.0, "an empty buffer")
    time.sleep(0.1)  # the worker is idle again: what it does after its commit is not to be measured
    partial = paths.buffer / f".drop_{number}.npz.part"
    partial.write_bytes(data)
    before = model_store.signature(paths.model)
    started = time.perf_counter()
    os.replace(partial, paths.buffer / f"drop_{number}.npz")
    harness.wait_until(lambda: model_store.signature(paths.model) != before, 30.0, "a new model")
    return 1000 * (time.perf_counter() - started)


class _Peer:
    """Updates and commits a model without any of the rest."""

    def __init__(self, paths: Paths, rng: np.random.Generator) -> None:
        self._paths, self._rng = paths, rng
        paths.models.mkdir(parents=True)
        self._settings = LearningSettings()
        self._state = learning.new_state(STATE_WIDTH, ACTION_COUNT, self._settings)
        self._recent: list[episode.Episode] = []
        for _ in range(WARM_UP):
            self.update()

    def update(self) -> float:
        """Milliseconds of one update and its commit."""
        new = episode.from_arrays(_read_back(arrays(self._rng, STEPS, log_probs=True)))
        version = self._state.updates + 1
        started = time.perf_counter()
        self._state, _ = learning.learn(self._state, [new], self._settings, version, self._recent)
        data = model_store.pack(learning.to_arrays(self._state), version, {"format": model_store.FORMAT})
        partial = self._paths.models / "partial"
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._paths.model)
        taken = time.perf_counter() - started
        self._recent = [*self._recent, new][-self._settings.replay_episodes :]
        return 1000 * taken


def _read_back(made: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in made.items() if name != "meta"}


if __name__ == "__main__":
    harness.main(rows, "Measure how soon a dropped episode is part of the model.")
