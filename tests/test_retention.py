"""The past is kept as long as the user wants it, and never shorter than a recovery needs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import learner_runs
import numpy as np
import pytest
from fakes import PowerCut

from background_training import settings_file
from background_training.learner import console, retention
from background_training.learner import drain as drains
from background_training.learner import worker as workers
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.records.ledger import Ledger
from background_training.settings import Settings
from background_training.storage import model_store
from tests.commands import run_tool

pytestmark = pytest.mark.slow  # real processes

FEW = {"replay_episodes": 5, "hidden_size": 8, "n_epochs": 1}
BOUNDED = {
    "learning": FEW,
    "retention": {"archive_files": 30},
    "learner": {"history_every": 2, "history_size": 3, "batch_size": 5, "backlog_steps": 0},
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


def _lines(paths: Paths) -> list[dict[str, Any]]:
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
    settings = {"learning": FEW, "learner": {"history_every": 2, "history_size": 5, "batch_size": 5, "backlog_steps": 0}}
    for paths, content in ((whole, settings), (short, {**settings, "retention": {"ledger_lines": 40}})):
        config = str(_config(tmp_path, content))
        _deposit(paths, 60)
        run_tool("background_parallel_learner.py", paths.root, "--drain", "--config", config)
        if damage:
            paths.model.unlink()
        _deposit(paths, 20, start=60)
        run_tool("background_parallel_learner.py", paths.root, "--drain", "--config", config)

    assert len(_lines(short)) < len(_lines(whole)) and _lines(short)[0]["fate"] == "checkpoint"
    assert short.model.read_bytes() == whole.model.read_bytes()
    assert "Identical, bit for bit" in run_tool("rebuild_model.py", short.root)
    assert "trained in version 16" in run_tool("explain_episode.py", short.root, "game_00079.npz")


def _drained(paths: Paths, config: Path) -> str:
    return console.drained(drains.drain(settings_file.load(config, root=paths.root), lambda event, **facts: None))


@pytest.fixture(scope="module")
def forgetful_once(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A root whose ledger was shortened, and from whose archive more was deleted later: what its ledger begins with, too."""
    tmp_path = tmp_path_factory.mktemp("forgetful")
    paths = Paths(tmp_path / "root")
    bounds = {"archive_files": 1, "ledger_lines": 40}
    config = _config(tmp_path, {**BOUNDED, "retention": bounds})
    for start in (0, 60):
        _deposit(paths, 60, start)
        _drained(paths, config)
        assert len(_lines(paths)) <= 40
    _deposit(paths, 60, 120)
    _drained(paths, _config(tmp_path, {**BOUNDED, "retention": {"archive_files": 1}}))
    assert model_store.history_versions(paths) == [32, 34, 36]
    return paths


@pytest.fixture
def forgetful(forgetful_once: Paths, tmp_path: Path) -> Paths:
    """A copy of it."""
    return Paths(Path(shutil.copytree(forgetful_once.root, tmp_path / "root")))


def test_rebuild_begins_where_all_is_still_there_and_says_so(forgetful: Paths) -> None:
    """With the oldest version of the history, when retention has deleted what was trained before; episodes that were only
    replayed since are still there, and the model is the same, bit for bit."""
    printed = run_tool("rebuild_model.py", forgetful.root)

    assert "Retention has deleted episodes of version 32 or before; training again what came after version 32" in printed
    assert "Identical, bit for bit" in printed
    assert len(list(forgetful.archive.glob("*.npz"))) == 20 + FEW["replay_episodes"]


def test_versions_before_that_are_refused_by_name(forgetful: Paths) -> None:
    """The message says why, and what can still be had; a version between two kept ones can be."""
    printed = run_tool("rebuild_model.py", forgetful.root, "--to", "30", exit_code=1)
    assert "retention has deleted episodes of its versions up to 30, and no version between is kept to continue from" in printed

    assert "Rebuilt up to version 35" in run_tool("rebuild_model.py", forgetful.root, "--to", "35")
    assert "published again, as version 37" in run_tool("rollback_model.py", forgetful.root, "35")


def test_bad_day_is_undone_from_there_too(forgetful: Paths) -> None:
    """--without begins with the same version, and leaves out what it is told to."""
    printed = run_tool("rebuild_model.py", forgetful.root, "--without", "game_00179.npz")

    assert "training again what came after version 32" in printed and "Rebuilt up to version 36" in printed
    assert (forgetful.models / "rebuilt_model.npz").read_bytes() != forgetful.model.read_bytes()


def test_lost_episode_is_not_taken_for_a_deleted_one(forgetful: Paths) -> None:
    """What is missing without a record of its deletion is named, not passed over."""
    (forgetful.archive / "game_00170.npz").unlink()

    printed = run_tool("rebuild_model.py", forgetful.root, exit_code=1)

    assert "'game_00170.npz' of version 35 is not in the archive" in printed


def test_oldest_model_of_the_history_leads_to_the_present_one(forgetful: Paths) -> None:
    """All newer ones are lost: what was replayed after it counts as needed, so the recovery ends with the same bytes."""
    model = forgetful.model.read_bytes()
    for version in (34, 36):
        model_store.history_path(forgetful, version).unlink()
    forgetful.model.unlink()

    run_tool("background_parallel_learner.py", forgetful.root, "--drain")

    assert forgetful.model.read_bytes() == model


def test_deletion_that_was_cut_short_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between record and removal: the next start removes the file, and records nothing twice."""
    paths = Paths(tmp_path / "root")
    config = _config(tmp_path, BOUNDED)

    def dies(paths: Paths, ledger: Ledger, lines: list[ledger_lines.Line]) -> None:
        ledger.append(lines)
        if lines:
            raise PowerCut

    _deposit(paths, 60)
    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(retention, "_delete", dies)
        _drained(paths, config)
    deleted = [line["name"] for line in _lines(paths) if line["fate"] == "deleted"]
    assert deleted and all((paths.archive / str(name)).exists() for name in deleted)

    _drained(paths, config)

    assert not any((paths.archive / str(name)).exists() for name in deleted)
    assert [line["name"] for line in _lines(paths) if line["fate"] == "deleted"] == deleted


def test_ledger_stays_within_its_bound_whatever_its_lines_tell_of(tmp_path: Path) -> None:
    """Hundreds of rejected files and of deletions count as well; what they add up to is still known, and all can be rebuilt."""
    paths = Paths(tmp_path / "root")
    bounds = {"ledger_lines": 60, "archive_files": 10, "aside_files": 2}
    config = _config(tmp_path, {**BOUNDED, "retention": bounds})
    for turn in range(3):
        _deposit(paths, 60, 60 * turn)
        for number in range(100):
            (paths.buffer / f"bad_{turn}_{number}.npz").write_bytes(bytes([turn, number]))
        printed = _drained(paths, config)
        lines = _lines(paths)
        assert len(lines) <= 60 and lines[0]["fate"] == "checkpoint"
        assert f"{60 * (turn + 1)} files trained in all, 0 stale, {100 * (turn + 1)} rejected" in printed

    counts = ledger_lines.counts_of(lines)
    assert counts["deleted rejected"] == 298 and counts["trained"] - counts["deleted trained"] == len(
        list(paths.archive.glob("*.npz"))
    )
    assert "Identical, bit for bit" in run_tool("rebuild_model.py", paths.root)


def test_deletion_of_an_episode_that_stays_in_the_ledger_becomes_a_mark(tmp_path: Path) -> None:
    """One line tells of both where the history has no version to cut after; it is told of as before."""
    paths = Paths(tmp_path / "root")
    _deposit(paths, 60)
    learner = {**BOUNDED["learner"], "history_size": 1}
    printed = _drained(
        paths, _config(tmp_path, {**BOUNDED, "learner": learner, "retention": {"archive_files": 1, "ledger_lines": 30}})
    )

    lines = _lines(paths)
    assert [line["fate"] for line in lines] == ["checkpoint", *["trained"] * 60] and "60 files trained in all" in printed
    assert ["deleted" in line for line in lines] == [False, *[True] * 55, *[False] * 5]
    assert ledger_lines.counts_of(lines)["deleted trained"] == 55 and len(list(paths.archive.glob("*.npz"))) == 5
    told = run_tool("explain_episode.py", paths.root, "game_00003.npz")
    assert "trained in version 1 (6 steps, return 6.0), and deleted since: more than retention.archive_files, 1" in told
    assert _drained(paths, _config(tmp_path, BOUNDED)) and _lines(paths) == lines


def test_bound_below_what_is_needed_leaves_exactly_that(tmp_path: Path) -> None:
    """One line for the sum, the episodes after the last but one version of the history, those replayed with them, no more."""
    paths = Paths(tmp_path / "root")
    _deposit(paths, 60)
    for number in range(30):
        (paths.buffer / f"bad_{number}.npz").write_bytes(bytes([number]))
    _drained(paths, _config(tmp_path, {**BOUNDED, "retention": {"ledger_lines": 5}}))

    # Of the versions 8, 10 and 12 of the history, 10 is the newest that others follow.
    first, *others = _lines(paths)
    assert [line["seq"] for line in others] == [*[10] * FEW["replay_episodes"], *[11] * 5, *[12] * 5]
    assert (first["fate"], first["counts"], first["base"]["version"]) == ("checkpoint", {"trained": 45, "rejected": 30}, 10)
    assert not any("start" in line or "base" in line for line in others)
    assert "Identical, bit for bit" in run_tool("rebuild_model.py", paths.root)


def test_compacted_again_without_a_later_version_to_cut_after(tmp_path: Path) -> None:
    """The base model of the first compaction stays the one that the first line names, and all after it can be rebuilt."""
    paths = Paths(tmp_path / "root")
    config = _config(tmp_path, {**BOUNDED, "retention": {"ledger_lines": 20}})
    _deposit(paths, 60)
    _drained(paths, config)
    base = _lines(paths)[0]["base"]
    for file in paths.history.glob("rl_agent_model_v*.npz"):
        file.unlink()
    for number in range(30):
        (paths.buffer / f"bad_{number}.npz").write_bytes(bytes([number]))

    _drained(paths, config)

    first, *others = _lines(paths)
    assert first["base"] == base and first["counts"]["rejected"] + sum(line["fate"] == "rejected" for line in others) == 30
    assert "Identical, bit for bit" in run_tool("rebuild_model.py", paths.root)


def test_ledger_of_rejected_files_alone_is_bounded(tmp_path: Path) -> None:
    """Where nothing has been trained yet, too."""
    paths = Paths(tmp_path / "root")
    paths.buffer.mkdir(parents=True)
    for number in range(30):
        (paths.buffer / f"bad_{number}.npz").write_bytes(bytes([number]))
    config = _config(tmp_path, {"retention": {"ledger_lines": 10}})

    assert all("30 rejected" in _drained(paths, config) for _ in range(2))
    assert len(_lines(paths)) <= 10
    # Its line may have been removed by the very drain that rejected it.
    told = run_tool("explain_episode.py", paths.root, "bad_0.npz")
    assert "in archive/rejected, without a line in the ledger: its line was removed to keep the ledger short" in told


def test_bounds_are_kept_while_files_never_stop_coming(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a cleaning is due, it is done between two batches, whatever still waits; nothing is trained twice for it."""
    monkeypatch.setattr(workers, "_RETENTION_SECONDS", 0.0)
    waiting_at_cleanings: list[int] = []
    real = retention.apply

    def apply(paths: Paths, settings: Settings, ledger: Ledger) -> Ledger:
        waiting_at_cleanings.append(len(list(paths.buffer.glob("*.npz"))))
        return real(paths, settings, ledger)

    monkeypatch.setattr(retention, "apply", apply)
    _deposit(paths, 12)
    settings = learner_runs.settings(paths.root, batch_size=2, history_size=2, learning={"replay_episodes": 2})
    bounded = settings.with_values("test", retention={"archive_files": 3})

    def tell(event: str, **facts: object) -> None:
        if not list(paths.buffer.glob("*.npz")):
            worker.stop()

    worker = workers.Worker(bounded, tell, careful=False, deadly={})
    worker.run()

    assert waiting_at_cleanings[:6] == [12, 10, 8, 6, 4, 2]
    assert [version for _, version in learner_runs.trained(paths)] == [version for version in range(1, 7) for _ in range(2)]
    assert any(line["fate"] == "deleted" for line in _lines(paths))


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
