"""A soak: tiny episodes without end through one learner's steps, and the memory they leave behind.

    python benchmarks/soak.py [--seconds 120] [--remembered 1000000]

One process makes what the worker makes, learning included, of files of two steps; before them, the ledger remembers so
many others. One line a fifth of the time: episodes so far, memory, milliseconds of a batch of ten.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import harness
import psutil
from episodes import Copies
from flat_costs import remember

from background_training.learner.trainer import open_trainer
from background_training.settings import LearnerSettings, LearningSettings, Settings

STEPS = 2
AT_A_TIME = 1000


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for what grows with the number of episodes.")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--remembered", type=int, default=1_000_000, help="episodes in the ledger before the first one")
    options = parser.parse_args()
    print(harness.machine())
    with tempfile.TemporaryDirectory(prefix="soak ", ignore_cleanup_errors=True) as folder:
        settings = Settings(
            root=Path(folder) / "root",
            learner=LearnerSettings(verbose=False, durability="fast", max_file_age=0.0),
            learning=LearningSettings(hidden_size=8, n_epochs=1, replay_ratio=0.0),
        )
        _soak(settings, options.seconds, options.remembered)
    return 0


def _soak(settings: Settings, seconds: float, remembered: int) -> None:
    paths, copies = settings.paths, Copies(STEPS)
    paths.buffer.mkdir(parents=True)
    paths.archive.mkdir(parents=True)
    remember(paths, remembered)
    process, begun = psutil.Process(), time.perf_counter()
    trainer, _ = open_trainer(paths, settings, lambda event, **facts: None, patient=False)
    print(f"{remembered:,} remembered: opened in {time.perf_counter() - begun:.1f} s, {process.memory_info().rss >> 20} MiB")
    begun, number, marks = time.perf_counter(), 0, 0
    batches: list[float] = []
    while time.perf_counter() - begun < seconds:
        copies.write(paths.buffer, range(number, number + AT_A_TIME))
        number += AT_A_TIME
        trainer.take_snapshot()
        while trainer.waiting():
            batches.append(1000 * harness.seconds_of(trainer.train_next_batch))
        if time.perf_counter() - begun >= seconds * (marks + 1) / 5 or marks == 0:
            marks += 1
            memory, batch = process.memory_info().rss / 2**20, statistics.median(batches)
            print(
                f"{number:9,} episodes  {memory:7.1f} MiB  {batch:5.2f} ms a batch  {trainer.ledger.archived:,} known", flush=True
            )
            batches.clear()


if __name__ == "__main__":
    sys.exit(main())
