"""The metrics history: one record per batch and game, in step with the ledger, bounded, and no trouble to the training."""

from __future__ import annotations

import logging
import shutil

import episodes
import learner_runs
import numpy as np
import pytest
from commands import run_tool

from local_training import metrics, model_store
from local_training.guard_settings import GuardSettings
from local_training.metrics import Metrics, MetricsReader
from local_training.paths import Paths
from tools.learner import drain as drains
from tools.learner import metrics_history, publishing
from tools.learner.ledger import BY_ANOTHER_PROGRAM, Ledger
from tools.learner.metrics_series import Series

TIMES = ("load_seconds", "train_seconds", "commit_seconds", "archive_seconds", "total_seconds")


def _play(paths: Paths, numbers: range, **more: object) -> None:
    paths.buffer.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        episodes.write(paths.buffer, f"game_{number:05d}.npz", seed=number, **more)


def _versions(paths: Paths) -> list[int]:
    return [int(version) for version in metrics.read(paths).batches["version"]]


def _assert_in_step_with_the_ledger(paths: Paths) -> Metrics:
    trained = learner_runs.trained(paths)
    found = metrics.read(paths)
    assert found.batches["version"].tolist() == sorted({version for _, version in trained})
    assert found.games["version"].tolist() == [version for _, version in trained]
    return found


def test_each_batch_and_game_is_recorded_as_it_was(paths: Paths) -> None:
    """What the model's report, the episodes and the clock say, in one record each."""
    meta = np.array('{"result": "Victory", "opponent": "Zerg ☃", "map": "Süd"}')
    _play(paths, range(2), meta=meta, log_probs=np.full(12, -1.0, np.float32), policy_version=np.int64(0))
    _play(paths, range(2, 4), steps=5, meta=np.array('{"result": "Defeat", "opponent": ["<b>"]}'), terminated=np.array(False))
    learner_runs.drain(paths.root, batch_size=4)

    found = _assert_in_step_with_the_ledger(paths)
    (batch,), report = found.batches, model_store.read(paths.model).manifest["last_batch"]

    for name in ("games", "steps", "mean_return", "mean_length", "loss", "value_loss", "entropy", "kl", "learning_rate"):
        assert batch[name] == pytest.approx(report[name], rel=1e-6), name
    assert (batch["won"], batch["lost"], batch["weight"], batch["recovered"], batch["waiting"]) == (2, 2, 1, 0, 0)
    assert all(batch[name] > 0 for name in TIMES) and 10 < batch["memory_mb"] < 10_000 and batch["cpu_percent"] > 0
    assert metrics.GOVERNOR_STATES[batch["governor"]] == "off"
    assert found.games["number"].tolist() == [0, 1, 2, 3] and found.games["steps"].tolist() == [12, 12, 5, 5]
    assert found.games["episode_return"][0] == pytest.approx(episodes.arrays(0)["rewards"].sum(), rel=1e-5)
    assert found.games["result"].tolist() == [metrics.WON] * 2 + [metrics.LOST] * 2
    assert [metrics.text_of(name) for name in found.games["opponent"]] == ["Zerg ☃", "Zerg ☃", "", ""]
    assert [metrics.text_of(name) for name in found.games["map"]] == ["Süd", "Süd", "", ""]
    assert found.games["lag"].tolist() == [0, 0, -1, -1] and found.games["recorded"].tolist() == [1, 1, 0, 0]
    assert found.games["terminated"].tolist() == [1, 1, 0, 0] and (found.games["age_seconds"] < 600).all()


@pytest.mark.parametrize(
    ("value", "name"),
    [("x" * 100, "x" * 32), ("ß" * 40, "ß" * 16), ("a\0b", "a\0b"), ("\0\0", ""), (None, ""), ({}, ""), (True, ""), (7, "7")],
)
def test_a_name_fits_its_field_and_stays_readable(value: object, name: str) -> None:
    """Cut between two letters, never within one; what is no name is none."""
    assert metrics.text_of(metrics.name_of(value)) == name


def test_a_reader_that_follows_sees_what_one_who_comes_later_sees(paths: Paths) -> None:
    """Look by look, over restarts of the learner."""
    reader = MetricsReader(paths)
    assert not reader.look()
    for first in (0, 6, 12):
        _play(paths, range(first, first + 6))
        learner_runs.drain(paths.root)
        assert reader.look() and not reader.look()

    found = metrics.read(paths)
    assert reader.batches.tobytes() == found.batches.tobytes() and len(found.batches) == 6
    assert reader.games.tobytes() == found.games.tobytes() and len(found.games) == 18


def test_a_history_that_is_gone_is_made_again_from_the_ledger(paths: Paths) -> None:
    """Returns, lengths and versions are known from there; times are not, and the losses only of the present model."""
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    before = metrics.read(paths)
    shutil.rmtree(paths.logs)
    _play(paths, range(9, 12))
    learner_runs.drain(paths.root)

    after = _assert_in_step_with_the_ledger(paths)

    assert after.games["episode_return"][:9] == pytest.approx(before.games["episode_return"], rel=1e-5, abs=1e-5)
    assert after.batches["mean_return"][:3] == pytest.approx(before.batches["mean_return"], rel=1e-5, abs=1e-5)
    assert after.batches["recovered"].tolist() == [1, 1, 1, 0]
    assert np.isnan(after.batches["loss"]).tolist() == [True, True, False, False]
    assert np.isnan(after.batches["train_seconds"]).tolist() == [True, True, True, False]


@pytest.mark.parametrize("torn", ["batch", "game", "both", "games of a batch"])
def test_what_a_crash_tore_off_is_made_good(paths: Paths, torn: str) -> None:
    """Whichever of the two files ends too early, or in the middle of a record: nothing is missing, nothing is there twice."""
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    for path, cut in ((paths.batch_metrics, torn != "game"), (paths.game_metrics, torn in ("game", "both"))):
        if cut:
            path.write_bytes(path.read_bytes()[:-10])
    if torn == "games of a batch":
        games = Series(paths.game_metrics, metrics.GAMES, 100)
        games.add(metrics.read(paths).games[-1:].copy())  # of a version twice: its batch was not recorded
    _play(paths, range(9, 12))
    learner_runs.drain(paths.root)

    if torn == "game":
        # Games come before their batch, and are never fewer when that is there: nobody looks for them.
        assert _versions(paths) == [1, 2, 3, 4] and len(metrics.read(paths).games) == 11
    else:
        _assert_in_step_with_the_ledger(paths)


@pytest.mark.parametrize("kind", ["text", "folder", "pipe", "another schema", "empty"])
def test_a_strange_file_in_its_place_is_kept_beside(paths: Paths, kind: str) -> None:
    """It is not ours to delete; and the history begins anew from the ledger."""
    _play(paths, range(3))
    learner_runs.drain(paths.root)
    data = paths.batch_metrics.read_bytes()
    paths.batch_metrics.unlink()
    if kind == "folder":
        paths.batch_metrics.mkdir()
        (paths.batch_metrics / "diary.txt").write_text("dear diary")
    elif kind == "pipe":
        pytest.importorskip("fcntl")
        import os

        os.mkfifo(paths.batch_metrics)
    else:
        contents = {"text": b"loss,return\n" * 20, "another schema": data[:8] + b"\2" + data[9:], "empty": b""}
        paths.batch_metrics.write_bytes(contents[kind])
    _play(paths, range(3, 6))
    learner_runs.drain(paths.root)

    _assert_in_step_with_the_ledger(paths)
    assert paths.batch_metrics.with_name("metrics_batches.bin.former").exists()


def test_a_history_that_cannot_be_written_stops_no_training(paths: Paths, monkeypatch, caplog) -> None:
    """It is said once, not for every batch; and what is missing is added once it can be written again."""
    blocked = paths.game_metrics.with_name("metrics_games.bin.former")
    for folder in (paths.game_metrics, blocked):
        (folder / "not empty").mkdir(parents=True)
    _play(paths, range(9))
    with caplog.at_level(logging.WARNING, "tools.learner.metrics_history"):
        learner_runs.drain(paths.root)
    assert len(learner_runs.trained(paths)) == 9 and _versions(paths) == []
    assert [record.message[:28] for record in caplog.records] == ["metrics history not written:"]

    monkeypatch.setattr(metrics_history, "RETRY_SECONDS", 0.0)
    _play(paths, range(9, 15))
    mended = []

    def mend(event: str, **facts: object) -> None:
        if event == "batch" and not mended:
            shutil.rmtree(paths.game_metrics)
            mended.append(event)

    drains.drain(learner_runs.settings(paths.root), mend)
    found = _assert_in_step_with_the_ledger(paths)
    assert mended and found.batches["recovered"].tolist() == [1] * 5


def test_another_life_in_the_same_root_keeps_the_former_history(paths: Paths) -> None:
    """Whoever deletes model and episodes begins anew; what was recorded of the former life lies beside."""
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    shutil.rmtree(paths.models)
    shutil.rmtree(paths.data)
    _play(paths, range(3))
    learner_runs.drain(paths.root)

    assert _versions(paths) == [1]
    paths.batch_metrics.with_name("metrics_batches.bin.former").replace(paths.batch_metrics)
    assert _versions(paths) == [1, 2, 3]


def test_it_stays_bounded_and_its_newest_end_is_whole(paths: Paths, monkeypatch) -> None:
    """With room for sixteen batches and forty games, after forty batches and over two starts."""
    monkeypatch.setattr(metrics_history.MetricsHistory.__init__, "__kwdefaults__", _bounds(16, 40))
    for numbers in (range(100), range(100, 120)):
        _play(paths, numbers, steps=2)
        learner_runs.drain(paths.root, learning={"action_count": episodes.ACTIONS})

    found = metrics.read(paths)

    assert len(found.batches) <= 16 and len(found.games) <= 40
    assert found.batches["version"].tolist() == sorted(set(found.batches["version"].tolist()))
    assert found.batches["version"][-4:].tolist() == [38, 39, 40, 41]
    assert found.games["version"][-8:].tolist() == [version for _, version in learner_runs.trained(paths)][-8:]
    assert 30 <= found.batches["weight"].sum() <= 50 and 100 <= found.games["weight"].sum() <= 140


def _bounds(batches: int, games: int) -> dict[str, object]:
    defaults = metrics_history.MetricsHistory.__init__.__kwdefaults__ or {}
    return {**defaults, "most_batches": batches, "most_games": games}


def test_rollback_and_rebuild_leave_it_in_step(paths: Paths) -> None:
    """A published version has no batch and so no record."""
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    run_tool("rollback_model.py", paths.root, "2")
    _play(paths, range(9, 12))
    learner_runs.drain(paths.root)
    _assert_in_step_with_the_ledger(paths)
    assert _versions(paths) == [1, 2, 3, 5]
    run_tool("rebuild_model.py", paths.root)
    assert _versions(paths) == [1, 2, 3, 5]


def test_it_tells_of_batches_that_the_ledger_has_forgotten(paths: Paths) -> None:
    """Retention shortens the archive and the ledger, and not the history."""
    settings = learner_runs.settings(paths.root, history_size=2, history_every=2, learning={"replay_episodes": 2})
    short = settings.with_values("test", retention={"archive_files": 8, "ledger_lines": 20})
    for numbers in (range(40), range(40, 60)):
        _play(paths, numbers)
        drains.drain(short, lambda event, **facts: None)

    assert len(learner_runs.trained(paths)) < 30
    assert _versions(paths) == list(range(1, 22)) and len(metrics.read(paths).games) == 60


@pytest.mark.parametrize("batches", [1, 3])
def test_a_batch_before_a_rollback_of_the_guard_is_recorded_though_the_process_died(
    paths: Paths, monkeypatch, batches: int
) -> None:
    """Between the batch's commit and its record the guard may commit a version of its own, which has no batch."""
    _play(paths, range(3 * batches))
    with monkeypatch.context() as patch:
        patch.setattr(metrics_history.MetricsHistory, "add", lambda self, done, around: None)
        learner_runs.drain(paths.root)
    present = model_store.read(paths.model)
    ledger = Ledger(paths.ledger, durable=False)
    found = publishing.version_of(paths, present.version)
    publishing.commit(paths, ledger, found, present.version + 1, "as the guard does", BY_ANOTHER_PROGRAM, durable=False)
    learner_runs.drain(paths.root)

    _assert_in_step_with_the_ledger(paths)
    assert _versions(paths) == list(range(1, batches + 1))
    assert GuardSettings().enabled is False


def test_a_models_report_of_any_numbers_makes_a_record() -> None:
    """A model may come from another program, and say of its last batch what it likes."""
    from tools.learner import metrics_records
    from tools.learner.generation import Generation

    commit = {"kind": "batch", "seq": 3, "chain": "", "previous_chain": "", "batch": []}
    report = {"loss": 1e300, "steps": -5, "games": 2**80, "mean_return": "much", "kl": None, "replayed_steps": float("nan")}
    present = Generation(None, 3, {"commit": commit, "last_batch": report}, b"")  # type: ignore[arg-type]
    games = np.zeros(2, metrics.GAMES)

    record = metrics_records.batch_of(present, games, 1.0)

    assert record["loss"][0] == np.inf and record["steps"][0] == 0 and record["games"][0] == 2**32 - 1
    assert np.isnan(record["mean_return"][0]) and np.isnan(record["kl"][0]) and record["replayed_steps"][0] == 0
