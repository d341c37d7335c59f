"""What the metrics history costs: to open it after a million games, to look for news, and to add a batch.

`python benchmarks/metrics_history.py [--quick]`
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import harness
import numpy as np
from harness import Row

from background_training.learner.metrics_writer import MetricsHistory
from background_training.paths import Paths
from background_training.records import metrics
from background_training.records.ledger import Ledger
from background_training.records.metrics import BATCHES, GAMES, MetricsReader

BATCH = 10
LOOKS = 1_000


def rows(quick: bool) -> list[Row]:
    """Milliseconds and microseconds; the peer of the opening is the ledger's own lines of as many games."""
    games, rounds = (20_000, 2) if quick else (1_000_000, 5)
    with tempfile.TemporaryDirectory(prefix="metrics history ") as text:
        paths = Paths(Path(text))
        paths.logs.mkdir()
        paths.data.mkdir()
        adding = harness.seconds_of(lambda: _play(paths, games)) / (games // BATCH)
        _remember(paths, games)
        opened = [
            lambda: 1e3 * harness.seconds_of(lambda: metrics.read(paths)),
            lambda: 1e3 * harness.seconds_of(lambda: _parsed(paths)),
        ]
        ours, peer = harness.take_turns(rounds, *opened)
        reader = MetricsReader(paths)
        reader.look()
        looks = [1e6 * harness.seconds_of(lambda: [reader.look() for _ in range(LOOKS)]) / LOOKS for _ in range(rounds)]
        held = paths.metrics.stat().st_size / 1e6
    return [
        Row(f"metrics history of {games:,} games ({held:.1f} MB): open and read it all", "ms", ours, peer, "parse the ledger"),
        Row(f"metrics history of {games:,} games: look for news", "us", looks, [], "none"),
        Row(f"metrics history: write a batch of {BATCH} games, down-sampling included", "ms", [1e3 * adding], [], "none"),
    ]


def _play(paths: Paths, games: int) -> None:
    history = MetricsHistory(paths, Ledger(paths.ledger, durable=False))
    history.begin(None)
    rng = np.random.default_rng(0)
    for version in range(1, games // BATCH + 1):
        batch, made = np.zeros(1, BATCHES), np.zeros(BATCH, GAMES)
        for records in (batch, made):
            records["version"], records["weight"] = version, 1
        made["episode_return"] = rng.normal(size=BATCH)
        history.append([(batch, made)])


def _remember(paths: Paths, games: int) -> None:
    with open(paths.ledger, "w", encoding="ascii") as file:
        for number in range(games):
            line = {"seq": number // BATCH, "sha256": f"{number:064x}", "name": f"game_{number:09d}.npz", "fate": "trained"}
            file.write(json.dumps({**line, "steps": 100, "return": 0.0}) + "\n")


def _parsed(paths: Paths) -> int:
    with open(paths.ledger, "rb") as file:
        return sum(1 for line in file if json.loads(line)["fate"] == "trained")


if __name__ == "__main__":
    harness.main(rows, "Measure what the metrics history costs.")
