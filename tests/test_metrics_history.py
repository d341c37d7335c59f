"""The metrics history: one record per batch and game, in step with the ledger, bounded, and no trouble to the training."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import episodes
import learner_runs
import numpy as np
import pytest
from commands import run_tool

from background_training.learner import drain as drains
from background_training.learner import metrics_writer, publish
from background_training.learner.metrics_writer import downsampled
from background_training.paths import Paths
from background_training.records import metrics
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import BY_ANOTHER_PROGRAM
from background_training.records.metrics import Metrics, MetricsReader
from background_training.settings import GuardSettings
from background_training.storage import model_store

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


def _drained_until_statement(paths: Paths, number: int) -> int:
    """Drain in a child process that kills itself before its `number`-th SQL statement; how many it has begun at most."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: NumPy's sleep, and this child needs none
        child = os.fork()
    if child:
        os.close(writing)
        with open(reading, "rb") as pipe:
            begun = len(pipe.read())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == (-signal.SIGKILL if begun > number else 0)
        return begun
    code = 1
    try:
        connect, begun = metrics.connect, 0

        def count(statement: str) -> None:
            nonlocal begun
            begun += 1
            os.write(writing, b".")
            if begun > number:
                os.kill(os.getpid(), signal.SIGKILL)

        def watched(path: Path, mode: str) -> sqlite3.Connection:
            db = connect(path, mode)
            db.set_trace_callback(count)
            return db

        metrics.connect = watched
        learner_runs.drain(paths.root)
        code = 0
    finally:
        os._exit(code)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_statement_no_record_is_missing_or_there_twice(root: Path, paths: Paths) -> None:
    """A process that drains is killed before each of its SQL statements, from the making of the file to the last commit."""
    _play(paths, range(6))
    statements = _drained_until_statement(Paths(shutil.copytree(root, root.with_name("whole"))), 10_000)
    assert statements > 20
    for number in sorted({*range(0, statements, 3), statements - 1}):
        killed = Paths(shutil.copytree(root, root.with_name(f"killed at {number}")))
        assert _drained_until_statement(killed, number) == number + 1
        learner_runs.drain(killed.root)
        assert len(_assert_in_step_with_the_ledger(killed).games) == 6, number


DIE_IN_COMMIT = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size=1")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE batches SET loss = 123.0, version = version + 10")
db.executemany("INSERT INTO batches (version, stands_for) VALUES (?, 1)", [(number,) for number in range(100, 5000)])
db.execute("DELETE FROM games")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_while_pages_are_half_written_the_journal_takes_them_back(paths: Paths) -> None:
    """A reader keeps what it had until the learner starts again; then all is as it was before the killed transaction."""
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    reader = MetricsReader(paths)
    assert reader.look()
    before = reader.batches.tobytes(), reader.games.tobytes()
    size = paths.metrics.stat().st_size
    subprocess.run([sys.executable, "-c", DIE_IN_COMMIT, str(paths.metrics)], check=False, timeout=60)
    assert paths.metrics.stat().st_size > size and paths.metrics.with_name("metrics.sqlite3-journal").stat().st_size > 512

    assert not reader.look()
    assert (reader.batches.tobytes(), reader.games.tobytes()) == before
    learner_runs.drain(paths.root)
    found = _assert_in_step_with_the_ledger(paths)
    assert (found.batches.tobytes(), found.games.tobytes()) == before
    assert not paths.metrics.with_name("metrics.sqlite3.broken").exists()


@pytest.mark.parametrize(
    "kind", ["text", "folder", "pipe", "another format", "another schema", "trigger", "torn", "zeros in the middle"]
)
def test_a_strange_file_in_its_place_is_kept_beside(paths: Paths, kind: str) -> None:
    """It is not ours to delete; and the history is made again from the ledger."""
    _play(paths, range(3))
    learner_runs.drain(paths.root)
    data = paths.metrics.read_bytes()
    changes = {
        "another format": "PRAGMA user_version = 9",
        "another schema": "ALTER TABLE games ADD COLUMN mood TEXT",
        "trigger": "CREATE TRIGGER t AFTER INSERT ON games BEGIN DELETE FROM games; END",
    }
    if kind in changes:
        with contextlib.closing(sqlite3.connect(paths.metrics)) as db:
            db.execute(changes[kind])
    else:
        paths.metrics.unlink()
    if kind == "folder":
        paths.metrics.mkdir()
        (paths.metrics / "diary.txt").write_text("dear diary")
    elif kind == "pipe":
        pytest.importorskip("fcntl")
        os.mkfifo(paths.metrics)
    elif kind not in changes:
        contents = {
            "text": b"loss,return\n" * 200,
            "torn": data[: len(data) // 2],
            "zeros in the middle": data[:4096] + bytes(4096) + data[8192:],
        }
        paths.metrics.write_bytes(contents[kind])
    if kind in ("text", "folder", "pipe", "another format"):
        assert len(metrics.read(paths).games) == 0
    _play(paths, range(3, 6))
    learner_runs.drain(paths.root)

    _assert_in_step_with_the_ledger(paths)
    assert paths.metrics.with_name("metrics.sqlite3.broken").exists()


@pytest.mark.parametrize("kind", ["endless view", "wrong types", "no edition"])
def test_a_hostile_file_has_no_records_and_takes_no_time(paths: Paths, kind: str) -> None:
    """It has our format number and our table names, and is not what it seems."""
    _play(paths, range(3))
    learner_runs.drain(paths.root)
    with contextlib.closing(sqlite3.connect(paths.metrics, isolation_level=None)) as db:
        if kind == "endless view":
            columns = ", ".join(f"n AS {column}" for column in metrics.BATCH_TABLE.columns)
            db.execute("DROP TABLE batches")
            db.execute(
                f"CREATE VIEW batches AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT {columns} FROM c"
            )
        elif kind == "wrong types":
            db.execute("UPDATE batches SET steps = 'many', loss = x'00'")
        else:
            db.execute("DELETE FROM editions")
    assert len(metrics.read(paths).batches) == 0
    _play(paths, range(3, 6))
    learner_runs.drain(paths.root)
    if kind != "wrong types":
        _assert_in_step_with_the_ledger(paths)
        assert paths.metrics.with_name("metrics.sqlite3.broken").exists()


def test_a_history_that_cannot_be_written_stops_no_training(paths: Paths, monkeypatch, caplog) -> None:
    """One warning, not one per batch; what is missing is added once it can be written again, with its losses and times."""
    for folder in (paths.metrics, paths.metrics.with_name("metrics.sqlite3.broken")):
        (folder / "not empty").mkdir(parents=True)
    _play(paths, range(9))
    with caplog.at_level(logging.WARNING, "background_training.learner.metrics_writer"):
        learner_runs.drain(paths.root)
    assert len(learner_runs.trained(paths)) == 9 and _versions(paths) == []
    assert len([record for record in caplog.records if "training continues" in record.message]) == 1

    monkeypatch.setattr(metrics_writer, "RETRY_SECONDS", 0.0)
    _play(paths, range(9, 15))
    mended = []

    def mend(event: str, **facts: object) -> None:
        if event == "batch" and not mended:
            shutil.rmtree(paths.metrics)
            mended.append(event)

    drains.drain(learner_runs.settings(paths.root), mend)
    found = _assert_in_step_with_the_ledger(paths)
    assert mended and found.batches["recovered"].tolist() == [1, 1, 1, 0, 0]
    assert (found.batches["train_seconds"][3:] > 0).all()


@pytest.mark.parametrize("harm", ["deleted", "another program's lock", "full disk"])
def test_harm_to_the_file_while_the_learner_trains_costs_no_record(paths: Paths, monkeypatch, caplog, harm: str) -> None:
    """Deleted, locked by a program that keeps a transaction open, or no room: made good when it has passed."""
    monkeypatch.setattr(metrics, "BUSY_SECONDS", 0.01)
    monkeypatch.setattr(metrics_writer, "RETRY_SECONDS", 0.0)
    _play(paths, range(160), steps=6)
    connect, batches, held = metrics.connect, [], []

    def connect_to_a_full_disk(path: Path, mode: str) -> sqlite3.Connection:
        db = connect(path, mode)
        if len(batches) in (1, 2):
            db.execute("PRAGMA max_page_count = 1")  # as many pages as there are
        return db

    def happen(event: str, **facts: object) -> None:
        if event != "batch":
            return
        batches.append(event)
        if harm == "deleted" and len(batches) == 2:
            paths.metrics.unlink()
        elif harm == "another program's lock" and len(batches) == 1:
            held.append(sqlite3.connect(paths.metrics, isolation_level=None))
            held[0].execute("BEGIN EXCLUSIVE")
        elif held and len(batches) == 3:
            held.pop().close()

    with monkeypatch.context() as patch:
        if harm == "full disk":
            patch.setattr(metrics, "connect", connect_to_a_full_disk)
        drains.drain(learner_runs.settings(paths.root, batch_size=40), happen)

    found = _assert_in_step_with_the_ledger(paths)
    assert len(found.batches) == 4 and len(found.games) == 160
    expected = {"deleted": "", "another program's lock": "locked", "full disk": "full"}[harm]
    assert (expected in caplog.text) and bool(caplog.records) is (harm != "deleted")
    assert found.batches["recovered"].tolist() == ([1, 1, 0, 0] if harm == "deleted" else [0, 0, 0, 0])


def test_a_reader_does_not_lock_out_the_writer_for_longer_than_a_chunk(paths: Paths, monkeypatch) -> None:
    """Between any two chunks of its first look another connection gets the file for itself without waiting."""
    monkeypatch.setattr(metrics, "_ROWS_AT_A_TIME", 2)
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    extend, chunks = metrics._Series._extend, []

    def write_meanwhile(self: metrics._Series, new: metrics.Records) -> None:
        extend(self, new)
        chunks.append(len(new))
        with contextlib.closing(sqlite3.connect(paths.metrics, timeout=0.0, isolation_level=None)) as db:
            db.execute("BEGIN EXCLUSIVE")
            db.execute("COMMIT")

    monkeypatch.setattr(metrics._Series, "_extend", write_meanwhile)
    reader = MetricsReader(paths)
    assert reader.look() and len(chunks) >= 6 and len(reader.games) == 9


def test_a_reader_sees_two_commits_of_the_same_moment(paths: Paths) -> None:
    """A file system's clock has ticks; the second of two commits within one may leave the file's signature as it was."""
    _play(paths, range(3))
    learner_runs.drain(paths.root)
    reader = MetricsReader(paths)
    reader.look()
    status = os.stat(paths.metrics)
    _play(paths, range(3, 6))
    learner_runs.drain(paths.root)
    os.utime(paths.metrics, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert reader.look() and len(reader.games) == 6


def test_a_look_without_news_costs_one_stat(paths: Paths, monkeypatch) -> None:
    """Once the file has settled it is not opened."""
    monkeypatch.setattr(metrics, "_SETTLE_SECONDS", 0.0)
    _play(paths, range(3))
    learner_runs.drain(paths.root)
    reader = MetricsReader(paths)
    assert reader.look()
    monkeypatch.setattr(metrics, "connect", lambda *_: pytest.fail("opened"))
    assert not reader.look()


def test_a_long_history_is_read_in_chunks_and_a_changed_edition_from_the_start(paths: Paths, monkeypatch) -> None:
    """Down-sampled between two looks, or between two chunks: no record is there twice."""
    monkeypatch.setattr(metrics, "_ROWS_AT_A_TIME", 7)
    reader = MetricsReader(paths)
    for first in range(1, 200, 5):
        learner_runs.add_to_history(paths, [_made(version) for version in range(first, first + 5)], most_games=80)
        assert reader.look()
        assert (np.diff(reader.games["id"]) > 0).all() and len(reader.games) <= 80
    assert reader.batches["version"].tolist() == list(range(1, 201))
    assert reader.games.tobytes() == metrics.read(paths).games.tobytes()
    assert reader.games["version"][-20:].tolist() == [version for version in range(191, 201) for _ in range(2)]


def _made(version: int) -> tuple[metrics.Records, metrics.Records]:
    batch, games = np.zeros(1, metrics.BATCHES), np.zeros(2, metrics.GAMES)
    for records in (batch, games):
        records["version"], records["weight"] = version, 1
    return batch, games


def test_the_file_opens_with_any_sqlite_tool(paths: Paths) -> None:
    """Plain names with units, text as text, NULL for what is not known."""
    _play(paths, range(3), meta=np.array('{"result": "win", "opponent": "Süd"}'))
    learner_runs.drain(paths.root)
    with contextlib.closing(sqlite3.connect(paths.metrics)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT version, games, won, others_cpu_percent FROM batches").fetchall() == [(1, 3, 3, None)]
        assert db.execute("SELECT opponent, sum(stands_for), min(lag_versions) FROM games").fetchall() == [("Süd", 3, -1)]
        assert db.execute("SELECT count(*) FROM games WHERE unix_seconds > 1.7e9").fetchone() == (3,)


def _write_old(paths: Paths, batches: metrics.Records, games: metrics.Records) -> None:
    """As versions before SQLite wrote the history: a header, and records of fixed size with a checksum each."""
    for path, records in ((paths.old_batch_metrics, batches), (paths.old_game_metrics, games)):
        fields = [field for field in records.dtype.descr if field[0] != "id"]
        place = [name for name, *_ in fields].index("opponent") if records.dtype == metrics.GAMES else len(fields)
        old = np.zeros(len(records), [*fields[:place], ("spare", "u1"), *fields[place:], ("check", "<u4")])
        for name, *_ in fields:
            old[name] = records[name]
        for number in range(len(old)):
            words = np.frombuffer(old[number].tobytes(), "<u4")[:-1]
            total = sum(int(word) * ((2654435761 * k) % 2**32 | 1) for k, word in enumerate(words, 1))
            old["check"][number] = (total + 0x5EA1ED) % 2**32
        header = b"BTrecord" + np.array([1, old.dtype.itemsize], "<u4").tobytes() + bytes(16)
        path.write_bytes(header + old.tobytes())


def test_the_history_of_earlier_versions_is_taken_over_once(paths: Paths) -> None:
    """Losses and times that the ledger does not have come from the old files, which stay; the rest comes from the ledger."""
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    before = metrics.read(paths)
    _write_old(paths, before.batches[:2], before.games[:7])
    assert (paths.old_batch_metrics.stat().st_size, paths.old_game_metrics.stat().st_size) == (32 + 2 * 152, 32 + 7 * 108)
    old = paths.old_batch_metrics.read_bytes(), paths.old_game_metrics.read_bytes()
    paths.metrics.unlink()
    for numbers in (range(9, 12), range(12, 15)):
        _play(paths, numbers)
        learner_runs.drain(paths.root)

    found = _assert_in_step_with_the_ledger(paths)
    assert found.batches[:2].tobytes() == before.batches[:2].tobytes() and found.games[:6].tobytes() == before.games[:6].tobytes()
    assert found.batches["recovered"].tolist() == [0, 0, 1, 0, 0]
    assert (paths.old_batch_metrics.read_bytes(), paths.old_game_metrics.read_bytes()) == old


@pytest.mark.parametrize("harm", ["torn", "another life", "garbage", "pipe"])
def test_an_old_history_that_is_harmed_costs_only_itself(paths: Paths, harm: str) -> None:
    """Records with a wrong checksum, of versions that the model has not reached, of another program."""
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    before = metrics.read(paths)
    batches = before.batches.copy()
    batches["version"] += 100 if harm == "another life" else 0
    _write_old(paths, batches, before.games)
    data = bytearray(paths.old_batch_metrics.read_bytes())
    if harm == "torn":
        data[32 + 152 + 20] ^= 1
        paths.old_batch_metrics.write_bytes(data[:-5])
    elif harm == "garbage":
        paths.old_batch_metrics.write_bytes(b"BTrecord" * 100)
    elif harm == "pipe":
        pytest.importorskip("fcntl")
        paths.old_game_metrics.unlink()
        os.mkfifo(paths.old_game_metrics)
    paths.metrics.unlink()
    learner_runs.drain(paths.root)
    if harm == "pipe":
        assert _versions(paths) == [1, 2, 3]
    else:
        recovered = _assert_in_step_with_the_ledger(paths).batches["recovered"].tolist()
        assert recovered == ([0, 1, 1] if harm == "torn" else [1, 1, 1])


def test_another_life_in_the_same_root_keeps_the_former_history(paths: Paths) -> None:
    """With model and episodes deleted the history starts again; the former one is kept beside."""
    _play(paths, range(9))
    learner_runs.drain(paths.root)
    shutil.rmtree(paths.models)
    shutil.rmtree(paths.data)
    _play(paths, range(3))
    learner_runs.drain(paths.root)

    assert _versions(paths) == [1]
    paths.metrics.with_name("metrics.sqlite3.former").replace(paths.metrics)
    assert _versions(paths) == [1, 2, 3]


def test_it_stays_bounded_and_its_newest_end_is_whole(paths: Paths, monkeypatch) -> None:
    """With room for sixteen batches and forty games, after forty batches and over two starts."""
    monkeypatch.setattr(metrics_writer.MetricsHistory.__init__, "__kwdefaults__", _bounds(16, 40))
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
    defaults = metrics_writer.MetricsHistory.__init__.__kwdefaults__ or {}
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
        patch.setattr(metrics_writer.MetricsHistory, "add", lambda self, done, around: None)
        learner_runs.drain(paths.root)
    present = model_store.read(paths.model)
    ledger = Ledger(paths.ledger, durable=False)
    found = publish.version_of(paths, present.version)
    publish.commit(paths, ledger, found, present.version + 1, "as the guard does", BY_ANOTHER_PROGRAM, durable=False)
    learner_runs.drain(paths.root)

    _assert_in_step_with_the_ledger(paths)
    assert _versions(paths) == list(range(1, batches + 1))
    assert GuardSettings().enabled is False


def test_a_models_report_of_any_numbers_makes_a_record() -> None:
    """A model may come from another program, and say of its last batch what it likes."""
    from background_training.learner.checkpoint import Checkpoint

    commit = {"kind": "batch", "seq": 3, "chain": "", "previous_chain": "", "batch": []}
    report = {"loss": 1e300, "steps": -5, "games": 2**80, "mean_return": "much", "kl": None, "replayed_steps": float("nan")}
    present = Checkpoint(None, 3, {"commit": commit, "last_batch": report}, b"")  # type: ignore[arg-type]
    games = np.zeros(2, metrics.GAMES)

    record = metrics_writer.batch_of(present, games, 1.0)

    assert record["loss"][0] == np.inf and record["steps"][0] == 0 and record["games"][0] == 2**32 - 1
    assert np.isnan(record["mean_return"][0]) and np.isnan(record["kl"][0]) and record["replayed_steps"][0] == 0


def test_down_sampling_keeps_the_newest_and_what_all_of_them_stand_for() -> None:
    """However often it is done: bounded, in order, the newest unchanged, and means by weight stay near the truth."""
    most, kept = 1_000, _rows(1, 0)
    for first in range(1, 200_001, 100):
        kept = np.concatenate([kept, _rows(first, 100)])
        if len(kept) > most:
            kept = downsampled(kept, most)
            assert len(kept) <= 0.75 * most
            assert kept["key"][-250:].tolist() == list(range(first + 100 - 250, first + 100))
            assert (kept["weight"][-250:] == 1).all()

    assert (np.diff(kept["key"]) > 0).all()
    assert float(kept["weight"].sum()) == pytest.approx(200_000, rel=0.01)
    assert np.average(kept["key"], weights=kept["weight"]) == pytest.approx(100_000, rel=0.05)


def test_down_sampling_is_fair_to_opponents_that_take_turns() -> None:
    """To keep always the first of two neighbours would keep one opponent of two."""
    older = downsampled(_rows(0, 4_000), 2_000)[:-500]
    assert np.average(older["key"] % 2, weights=older["weight"]) == pytest.approx(0.5, abs=0.1)


def _rows(first: int, count: int) -> metrics.Records:
    made = np.zeros(count, [("key", "<i8"), ("weight", "<i8")])
    made["key"], made["weight"] = np.arange(first, first + count), 1
    return made
