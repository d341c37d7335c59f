"""The past is kept as long as the user wants it, and never shorter than a recovery needs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from local_training.paths import Paths
from tests.commands import run_tool

FEW = {"replay_episodes": 5}
BOUNDED = {
    "learning": FEW,
    "retention": {"archive_files": 30},
    "learner": {"history_every": 2, "history_size": 3, "batch_size": 5},
}


def _deposit(paths: Paths, count: int, start: int = 0) -> None:
    rng = np.random.default_rng(start)
    paths.buffer.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        states = rng.normal(size=(6, 3)).astype(np.float32)
        arrays = {"states": states, "actions": rng.integers(0, 2, 6), "rewards": np.ones(6, np.float32)}
        np.savez(paths.buffer / f"game_{number:05d}.npz", log_probs=np.full(6, -0.69, np.float32), **arrays)


def _config(folder: Path, content: dict[str, dict[str, int]]) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


def _lines(paths: Paths) -> list[dict[str, object]]:
    return [json.loads(line) for line in paths.ledger.read_text("ascii").splitlines()]


def test_archive_keeps_no_more_than_asked_for_and_records_what_it_deletes(tmp_path: Path) -> None:
    """Deleted files have a line in the ledger; the rest of the archive is untouched."""
    paths = Paths(tmp_path / "root")
    _deposit(paths, 100)
    run_tool("background_parallel_learner.py", paths.root, "--drain", "--config", str(_config(tmp_path, BOUNDED)))

    kept = {path.name for path in paths.archive.glob("*.npz")}
    deleted = {line["name"] for line in _lines(paths) if line["fate"] == "deleted"}

    assert len(kept) >= 30 and deleted
    assert kept | deleted == {f"game_{number:05d}.npz" for number in range(100)}
    assert not kept & deleted
    assert min(kept) > max(deleted)


def test_what_the_oldest_model_of_the_history_needs_is_not_deleted(tmp_path: Path) -> None:
    """A bound of one file still leaves every episode after the oldest kept version: a recovery trains them again."""
    paths = Paths(tmp_path / "root")
    _deposit(paths, 60)
    tight = {**BOUNDED, "retention": {"archive_files": 1}}
    config = _config(tmp_path, tight)
    run_tool("background_parallel_learner.py", paths.root, "--drain", "--config", str(config))
    model = paths.model.read_bytes()

    paths.model.write_bytes(b"not a model")
    run_tool("background_parallel_learner.py", paths.root, "--drain", "--config", str(config))

    assert paths.model.read_bytes() == model


@pytest.mark.parametrize("damage", [False, True])
def test_shortened_ledger_still_rebuilds_and_continues_the_same_model(tmp_path: Path, damage: bool) -> None:
    """Leaving out the oldest lines changes neither the next version nor a rebuild, nor what a lost model becomes."""
    whole, short = Paths(tmp_path / "whole"), Paths(tmp_path / "short")
    settings = {"learning": FEW, "learner": {"history_every": 2, "history_size": 5, "batch_size": 5}}
    for paths, content in ((whole, settings), (short, {**settings, "retention": {"ledger_lines": 40}})):
        config = str(_config(tmp_path, content))
        _deposit(paths, 60)
        run_tool("background_parallel_learner.py", paths.root, "--drain", "--config", config)
        if damage:
            paths.model.unlink()
        _deposit(paths, 20, start=60)
        run_tool("background_parallel_learner.py", paths.root, "--drain", "--config", config)

    assert len(_lines(short)) < len(_lines(whole)) and _lines(short)[0]["fate"] == "summary"
    assert short.model.read_bytes() == whole.model.read_bytes()
    assert "Identical, bit for bit" in run_tool("rebuild_model.py", short.root)
    assert "trained in version 16" in run_tool("explain_episode.py", short.root, "game_00079.npz")


def test_files_set_aside_are_bounded_too(tmp_path: Path) -> None:
    """Old rejected files go together with their reasons; the newest stay."""
    paths = Paths(tmp_path / "root")
    _deposit(paths, 5)
    for number in range(10):
        (paths.buffer / f"bad_{number}.npz").write_bytes(bytes([number]) * 10)
    config = _config(tmp_path, {"retention": {"aside_files": 4}})
    run_tool("background_parallel_learner.py", paths.root, "--drain", "--config", str(config))

    names = sorted(path.name for path in paths.rejected.iterdir())

    assert len([name for name in names if name.endswith(".npz")]) == 4
    assert len([name for name in names if name.endswith(".reason.txt")]) == 4
    assert len([line for line in _lines(paths) if line["fate"] == "deleted"]) == 6
