"""logs/status.json: a whole snapshot at every moment, true to what the learner has done, and never in its way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import episodes
import learner_runs
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.paths import Paths
from background_training.records import status

READER = """
import json, sys, time
from pathlib import Path
path, seen = Path(sys.argv[1]), 0
print("ready", flush=True)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        snapshot = json.loads(path.read_bytes())
    except (FileNotFoundError, PermissionError):  # Windows: replaced at this moment
        continue
    seen += 1
    if snapshot["stats"].get("last") == 300:
        print(seen)
        break
    if sys.platform == "win32":
        time.sleep(0.01)  # a file that is held open all the time can't be replaced there
"""


def test_a_snapshot_is_read_back(paths: Paths) -> None:
    """State, counts, moment and writer come back as they were given."""
    before = time.time()
    status.write(paths, "idle", {**status.EMPTY_STATS, "model_version": 3}, last_batch={"loss": 0.5})

    snapshot = status.read(paths)

    assert snapshot is not None
    assert (snapshot["state"], snapshot["writer_pid"], snapshot["last_batch"]) == ("idle", os.getpid(), {"loss": 0.5})
    assert snapshot["stats"]["model_version"] == 3
    assert before <= snapshot["updated_at"] <= time.time()


BEYOND_FLOATS = f'{{"schema": 1, "stats": {{"files_processed": {"9" * 400}}}}}'


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"schema": 2, "state": "idle"}', "\0" * 100, BEYOND_FLOATS])
def test_no_or_a_damaged_or_a_strange_snapshot_is_none(paths: Paths, content: str | None) -> None:
    """A monitor of this version shows nothing rather than something wrong."""
    if content is not None:
        paths.status.write_text(content)

    assert status.read(paths) is None


def test_a_snapshot_that_can_not_be_written_stops_nothing(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    """It is for monitors only."""
    paths.status.mkdir()

    status.write(paths, "idle", status.EMPTY_STATS)

    assert "status not written" in caplog.text
    paths.status.with_name(f".{paths.status.name}.part").unlink(missing_ok=True)


def test_a_reader_in_another_process_sees_whole_snapshots_only(paths: Paths) -> None:
    """Read in a loop while it is replaced hundreds of times, it is never empty and never cut."""
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(paths.status)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        for number in range(301):
            status.write(paths, "training", {"last": number, "padding": "x" * 50_000})
        output, errors = reader.communicate(timeout=PATIENCE_SECONDS)

    assert errors == ""
    assert int(output) > 1


def test_the_snapshot_of_a_drain_tells_what_it_did(paths: Paths) -> None:
    """Every count of get_stats stands in it, with the state "stopped"."""
    episodes.write(paths.buffer, "game.npz", steps=12)
    (paths.buffer / "broken.npz").write_bytes(b"no archive")
    learner_runs.drain(paths.root)

    snapshot = status.read(paths)

    assert snapshot is not None and snapshot["state"] == "stopped"
    counts = snapshot["stats"]
    assert set(status.EMPTY_STATS) <= set(counts)
    assert (counts["files_processed"], counts["files_rejected"], counts["total_samples"]) == (1, 1, 12)


@pytest.mark.skipif(os.name != "posix", reason="a folder that is watched can't be replaced by a file on this system")
def test_the_snapshot_keeps_its_counts_in_times_of_trouble(paths: Paths) -> None:
    """A monitor goes on showing what was trained while the learner waits for the disk."""
    episodes.write(paths.buffer, "game.npz")
    with learner_runs.learner(paths.root, rescan_seconds=0.1) as learner:
        wait_until(lambda: learner.get_stats()["files_processed"] == 1)
        wait_until(lambda: not os.listdir(paths.buffer))
        paths.buffer.rmdir()
        paths.buffer.write_text("not a folder")
        wait_until(lambda: (status.read(paths) or {}).get("state") == "waiting")
        snapshot = json.loads(paths.status.read_text())
        paths.buffer.unlink()
        wait_until(lambda: (status.read(paths) or {}).get("state") == "idle")

    assert snapshot["stats"]["files_processed"] == 1 and snapshot["stats"]["model_version"] == 1
    assert snapshot["stats"]["errors"] >= 1 and str(paths.buffer) in snapshot["stats"]["last_error"]
