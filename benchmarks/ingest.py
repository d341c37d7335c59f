"""Episode files a second: read, checked, accounted for and archived, against a bare np.load loop over the same files.

The loop only loads three arrays. Ours reads within bounds, hashes, checks, commits a model for each batch, writes ledger,
history and log, and moves every file; the arithmetic of learning is taken off the time, as it has a table line of its own.
`python benchmarks/ingest.py [--quick]`
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

from background_training.episodes import episode_file
from background_training.learner.trainer import open_trainer
from background_training.learner.triage import Accepted, Triage
from background_training.paths import Paths
from background_training.records.ledger import Ledger
from background_training.settings import LearnerSettings, Settings

STEPS = 100
DURABILITIES = ("full", "fast")


def rows(quick: bool) -> list[Row]:
    """Reading and checking alone; all but the learning, and the whole command, with either durability."""
    files, rounds = (60, 2) if quick else (1000, 3)
    with tempfile.TemporaryDirectory(prefix="in gest ") as text:
        folder = Path(text)
        source = folder / "source"
        source.mkdir()
        rng = np.random.default_rng(3)
        for number in range(files):
            (source / f"game_{number:05d}.npz").write_bytes(episode_file.pack(arrays(rng, STEPS, log_probs=False)))

        def per_second(action: Callable[[], float]) -> harness.Measure:
            return lambda: files / action()

        measures = [per_second(lambda: harness.seconds_of(lambda: _loaded(source)))]
        measures.append(per_second(lambda: harness.seconds_of(lambda: _judged(folder / "other", source))))
        for action in (_taken_in, _drained):
            for durability in DURABILITIES:
                measures.append(per_second(lambda act=action, how=durability: act(_filled(folder / "root", source), how)))
        peer, judged, *others = harness.take_turns(rounds, *measures)
    size = f"files of {STEPS} steps"
    name = "bare np.load loop"
    found = [Row(f"read, hash, check, judge {size}", "files/s", judged, peer, name)]
    begins = ("ingest, all but the learning, of", "--drain of")
    whats = [f"{begin} {size}, durability {how}" for begin in begins for how in DURABILITIES]
    return found + [Row(what, "files/s", ours, peer, name) for what, ours in zip(whats, others, strict=True)]


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
    triage = Triage(paths, Settings(root=root), Ledger(paths.ledger, durable=False), patient=False)
    for path in sorted(paths.buffer.glob("*.npz")):
        assert isinstance(triage.verdict_on(path.name, None), Accepted)


def _filled(root: Path, source: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(source, Paths(root).buffer)
    return root


def _taken_in(root: Path, durability: str) -> float:
    """Seconds that the worker's own steps take for all files, without those of the learning itself."""
    # The age check is off: the copies keep the age of their source.
    settings = Settings(root=root, learner=LearnerSettings(durability=durability, max_file_age=0.0))
    with harness.learning_clock() as learning:
        taken = harness.seconds_of(lambda: _work_through(settings))
    _check_all_archived(root)
    return taken - learning.seconds


def _work_through(settings: Settings) -> None:
    trainer, _ = open_trainer(settings.paths, settings, lambda event, **facts: None, patient=False)
    trainer.take_snapshot()
    while trainer.waiting():
        trainer.train_next_batch()


def _drained(root: Path, durability: str) -> float:
    command = [sys.executable, str(CHECKOUT / "tools" / "background_parallel_learner.py"), "--drain", "--quiet"]
    flags = ["--root", str(root), "--durability", durability, "--max-file-age", "0"]
    taken = harness.seconds_of(lambda: subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL))
    _check_all_archived(root)
    return taken


def _check_all_archived(root: Path) -> None:
    left = len(list(Paths(root).buffer.iterdir()))
    assert not left and any(Paths(root).archive.glob("*.npz")), f"{left} files were not trained on"


if __name__ == "__main__":
    harness.main(rows, "Measure how fast episode files are taken in.")
