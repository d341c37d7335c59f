"""How soon a game at 60 FPS plays with a model after it was published: `python benchmarks/model_latency.py [--quick]`.

From the time that the model file bears, which is that of its writing, before flush and rename. A real learner publishes;
the game sees nothing but the file. The peer looks at the file's time once a frame, and loads the six arrays with np.load.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import harness
from harness import Row

import numpy as np  # isort: skip  # harness sets the number of its threads first

from episodes import STATE_WIDTH, Copies

from background_training import BackgroundParallelLearner, RLAgent
from background_training.paths import Paths
from background_training.settings import GovernorSettings, LearnerSettings, Settings

FRAME_SECONDS = 1 / 60
GAME_FRAMES = 12
NAMES = ("W1", "b1", "W2", "b2", "W3", "b3")


def rows(quick: bool) -> list[Row]:
    """For a game that asks every frame, and one that leaves it to the agent: median and 99 % quantile, in milliseconds."""
    seconds, rounds = (2.0, 1) if quick else (6.0, 3)
    found = []
    with tempfile.TemporaryDirectory(prefix="model latency ") as folder:
        paths = Paths(Path(folder) / "root")
        settings = Settings(root=paths.root, learner=LearnerSettings(verbose=False), governor=GovernorSettings(enabled=False))
        with BackgroundParallelLearner(settings=settings):
            harness.wait_until(paths.buffer.is_dir, 30.0, "the buffer")
            feed = _Feed(paths.buffer)
            for what, asks in (("asks at every frame", True), (f"leaves it to the agent, games of {GAME_FRAMES} frames", False)):
                ours, peers = zip(*[_round(paths, feed, seconds, asks=asks) for _ in range(rounds)], strict=True)
                for percent, name in ((50, "p50"), (99, "p99")):
                    figures, theirs = ([float(np.percentile(part, percent)) for part in side] for side in (ours, peers))
                    what_row = f"model published to used {name}, a game at 60 FPS that {what}"
                    found.append(Row(what_row, "ms", figures, theirs, "np.load when the file's time has changed"))
    return found


class _Feed:
    """Drops an episode every now and then, as other games would."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._copies, self._number, self._due = folder, Copies(60), 0, 0.0

    def tick(self) -> None:
        if time.perf_counter() >= self._due:
            self._due = time.perf_counter() + 0.15
            self._copies.drop(self._folder, self._number)
            self._number += 1


class _BareReader:
    """Loads the arrays when the file's time has changed."""

    def __init__(self, path: Path) -> None:
        self._path, self._time = path, 0

    def refresh(self) -> bool:
        moment = self._path.stat().st_mtime_ns
        if moment == self._time:
            return False
        with np.load(self._path) as file:
            for name in NAMES:
                file[name]
        self._time = moment
        return True


def _round(paths: Paths, feed: _Feed, seconds: float, *, asks: bool) -> tuple[list[float], list[float]]:
    """Milliseconds from each model's writing until the agent, and the bare reader, had it."""
    while not paths.model.exists():
        feed.tick()
        time.sleep(FRAME_SECONDS)
    agent, bare = RLAgent(root=paths.root), _BareReader(paths.model)
    bare.refresh()
    ours: list[float] = []
    theirs: list[float] = []
    state = np.zeros(STATE_WIDTH, np.float32)
    frames = int(seconds / FRAME_SECONDS)
    due, frame = time.perf_counter(), 0
    # Some more frames, if the models come slowly: a quantile needs figures.
    while frame < frames or (len(ours) < 10 and frame < 10 * frames):
        feed.tick()
        _noted(theirs, paths.model, bare.refresh)
        _noted(ours, paths.model, lambda: _played(agent, state, asks=asks))
        frame += 1
        if not asks and frame % GAME_FRAMES == 0:
            agent.end_episode(save_experience=False)
        due += FRAME_SECONDS
        time.sleep(max(0.0, due - time.perf_counter()))
    return ours, theirs


def _played(agent: RLAgent, state: np.ndarray, *, asks: bool) -> bool:
    """One frame; whether it was the first one with a newer model."""
    version = agent.model_version
    if asks:
        agent.refresh()
    agent.get_action(state)
    return agent.model_version != version


def _noted(found: list[float], model: Path, refresh: Callable[[], bool]) -> None:
    if refresh():
        found.append(1000 * (time.time() - model.stat().st_mtime))


if __name__ == "__main__":
    harness.main(rows, "Measure how soon a published model is played with.")
