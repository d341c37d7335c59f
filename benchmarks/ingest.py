"""Episode files a second: a whole `--drain`, everything included, against a bare np.load loop over the same files.

The drain starts a process, reads within bounds, hashes, checks, trains, commits, writes the ledger and moves every
file; the loop only loads three arrays. `python benchmarks/ingest.py [--quick]`
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import harness
from harness import CHECKOUT, Row

import numpy as np  # isort: skip  # harness sets the number of its threads first

from episodes import arrays

from local_training import episode_file
from local_training.paths import Paths
from local_training.settings import Settings
from tools.learner.intake import Accepted, Intake
from tools.learner.ledger import Ledger

STEPS = 100


def rows(quick: bool) -> list[Row]:
    """Three rows: reading and checking alone, and the whole drain with either durability."""
    files, rounds = (60, 2) if quick else (1000, 3)
    with tempfile.TemporaryDirectory(prefix="in gest ") as text:
        folder = Path(text)
        source = folder / "source"
        source.mkdir()
        rng = np.random.default_rng(3)
        for number in range(files):
            (source / f"game_{number:05d}.npz").write_bytes(episode_file.pack(arrays(rng, STEPS, log_probs=False)))

        def per_second(action: Callable[[], object]) -> float:
            return files / harness.seconds_of(action)

        def drained(durability: str) -> float:
            root = folder / "root"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(source, Paths(root).buffer)
            rate = per_second(lambda: _drain(root, durability))
            found = len(list(Paths(root).archive.glob("*.npz")))
            assert found == files, f"{found} of {files} files were trained on"
            return rate

        measures = (
            lambda: per_second(lambda: _loaded(source)),
            lambda: per_second(lambda: _judged(folder / "other", source)),
            lambda: drained("full"),
            lambda: drained("fast"),
        )
        peer, judged, full, fast = harness.take_turns(rounds, *measures)
    size = f"files of {STEPS} steps"
    name = "bare np.load loop"
    return [
        Row(f"read, hash, check, judge {size}", "files/s", judged, peer, name),
        Row(f"--drain of {files} {size}, durability full", "files/s", full, peer, name),
        Row(f"--drain of {files} {size}, durability fast", "files/s", fast, peer, name),
    ]


def _loaded(folder: Path) -> None:
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            for name in ("states", "actions", "rewards"):
                file[name]


def _judged(root: Path, source: Path) -> None:
    """What the worker does with each file before it trains."""
    paths = Paths(root)
    paths.data.mkdir(parents=True, exist_ok=True)
    if not paths.buffer.exists():
        shutil.copytree(source, paths.buffer)
    intake = Intake(paths, Settings(root=root), Ledger(paths.ledger, durable=False), patient=False)
    for path in sorted(paths.buffer.glob("*.npz")):
        assert isinstance(intake.judge(path.name, None), Accepted)


def _drain(root: Path, durability: str) -> None:
    command = [sys.executable, str(CHECKOUT / "tools" / "background_parallel_learner.py"), "--drain", "--quiet"]
    # The age check is off: the copies keep the age of their source.
    flags = ["--root", str(root), "--durability", durability, "--max-file-age", "0"]
    subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    harness.main(rows, "Measure how fast episode files are taken in.")
