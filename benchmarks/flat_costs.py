"""Whether costs stay flat: a batch with a large archive, a batch with many files waiting, and the start with them.

Each peer is the same thing without the load. `python benchmarks/flat_costs.py [--quick]`
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import harness
from episodes import Copies
from harness import Row

from background_training import BackgroundParallelLearner
from background_training.learner.trainer import Trainer, open_trainer
from background_training.paths import Paths
from background_training.settings import LearnerSettings, Settings

STEPS = 20
BATCHES = 8


def rows(quick: bool) -> list[Row]:
    """Milliseconds of a batch, learning taken off, and of the first batch after a start."""
    many, remembered, rounds = (1_000, 2_000, 1) if quick else (100_000, 1_000_000, 3)
    with tempfile.TemporaryDirectory(prefix="flat costs ") as text:
        folder = Path(text)
        numbers = itertools.count(10_000_000)
        plain, archived = _trainer(folder / "plain", 0, 0), _trainer(folder / "archive", many // 10, remembered)
        measures = [_batch_milliseconds((trainer, root), numbers) for trainer, root in (archived, plain)]
        ours, peer = harness.take_turns(rounds, *measures)
        what = f"batch of 10 without its learning, {remembered:,} episodes in the ledger, {many // 10:,} in the archive"
        found = [Row(what, "ms", ours, peer, "none")]
        found += _opening_rows(folder, remembered, rounds)
        crowded, few = _crowded(folder / "crowded", many), _crowded(folder / "few", 2 * BATCHES * 10 * rounds)
        ours, peer = harness.take_turns(rounds, *(_next_batches_milliseconds(trainer) for trainer in (crowded, few)))
        found.append(Row(f"batch of 10 without its learning, {many:,} files waiting", "ms", ours, peer, "few"))
        starts = [lambda count=count: _first_batch_seconds(folder, count) for count in (many, 10)]
        ours, peer = harness.take_turns(1 if quick else 2, *starts)
        found.append(Row(f"start of the learner to its first model, {many:,} files waiting", "s", ours, peer, "10 files waiting"))
    return found


def _settings(root: Path, **learner: int) -> Settings:
    return Settings(root=root, learner=LearnerSettings(verbose=False, max_file_age=0.0, **learner))


def _trainer(root: Path, files: int, remembered: int) -> tuple[Trainer, Path]:
    """A trainer in a root with so many archived files, and so many lines in the ledger that remember them."""
    settings = _settings(root)
    settings.paths.buffer.mkdir(parents=True)
    settings.paths.archive.mkdir(parents=True)
    Copies(STEPS).write(settings.paths.archive, range(files))
    remember(settings.paths, remembered)
    trainer, _ = open_trainer(settings.paths, settings, _tell, patient=False)
    return trainer, root


def remember(paths: Paths, lines: int) -> None:
    """Write a ledger as a recovery from a long archive would."""
    with open(paths.ledger, "w", encoding="ascii") as file:
        for number in range(lines):
            line = {"seq": 0, "sha256": f"{number:064x}", "name": f"game_{number:09d}.npz", "fate": "trained"}
            file.write(json.dumps({**line, "steps": STEPS, "return": 0.0, "reconstructed": True}) + "\n")


def _tell(event: str, **facts: object) -> None:
    """Hear nothing: that an archive without a model has no history is said in vain."""


def _batch_milliseconds(trainer_and_root: tuple[Trainer, Path], numbers: itertools.count[int]) -> harness.Measure:
    """The median of some batches of fresh files."""
    trainer, root = trainer_and_root

    def measure() -> float:
        for _ in range(BATCHES):
            first = next(numbers)
            Copies(STEPS).write(Paths(root).buffer, range(first * 10, first * 10 + 10))
        return _next_batches_milliseconds(trainer)()

    return measure


def _next_batches_milliseconds(trainer: Trainer) -> harness.Measure:
    def batch() -> float:
        with harness.learning_clock() as learning:
            trainer.take_snapshot()
            taken = harness.seconds_of(trainer.train_next_batch)
        return 1000 * (taken - learning.seconds)

    return lambda: statistics.median(batch() for _ in range(BATCHES))


def _opening_rows(folder: Path, remembered: int, rounds: int) -> list[Row]:
    """How long a start takes to know what the ledger remembers: with its index, and once without."""
    many, none = folder / "archive", folder / "plain"
    measures = [lambda root=root: harness.seconds_of(lambda: _opened(root)) for root in (many, none)]
    ours, peer = harness.take_turns(min(rounds, 2), *measures)
    what = f"start: recovery with {remembered:,} episodes in the ledger"
    Paths(many).ledger_index.unlink(missing_ok=True)
    return [Row(what, "s", ours, peer, "without"), Row(f"{what}, its index lost", "s", [measures[0]()], peer[:1], "without")]


def _opened(root: Path) -> None:
    settings = _settings(root)
    open_trainer(settings.paths, settings, _tell, patient=False)


def _crowded(root: Path, files: int) -> Trainer:
    settings = _settings(root, backlog_steps=0)
    settings.paths.buffer.mkdir(parents=True)
    Copies(STEPS).write(settings.paths.buffer, range(files))
    trainer, _ = open_trainer(settings.paths, settings, _tell, patient=False)
    return trainer


def _first_batch_seconds(folder: Path, files: int) -> float:
    """From start() until the first model is there; the files lie in the buffer already."""
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as root:
        settings = _settings(Path(root))
        settings.paths.buffer.mkdir(parents=True)
        Copies(STEPS).write(settings.paths.buffer, range(files))
        started = time.perf_counter()
        with BackgroundParallelLearner(settings=settings):
            harness.wait_until(settings.paths.model.exists, 120.0, "the first model")
            return time.perf_counter() - started


if __name__ == "__main__":
    harness.main(rows, "Measure whether costs grow with what lies there.")
