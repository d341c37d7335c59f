"""background_training.log: a block per batch in the form that users and scripts know; bounded, and nothing told twice."""

from __future__ import annotations

import re
import shutil
import time

import episodes
import learner_runs
import pytest

from background_training.learner import training_log
from background_training.learner.training_log import TrainingLog
from background_training.paths import Paths

DOCUMENTED = """\
[2026-01-25 14:32:05] Batch Training Complete
  Batch Size:      3 games
  Total Steps:     450
  Loss:            0.0234
  Processing Time: 1.23s
  Total Processed: 15 files
  Total Batches:   5
------------------------------------------------------------
"""

BLOCK = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] Batch Training Complete\n"
    r"  Batch Size:      (?P<games>\d+) games\n"
    r"  Total Steps:     (?P<steps>\d+)\n"
    r"  Loss:            -?\d+\.\d{4}\n"
    r"  Processing Time: (?:\d+\.\d\ds|unknown \(recovered\))\n"
    r"  Model Version:   (?P<version>\d+)\n"
    r"(?:  [A-Z][A-Za-z ]+: +\S.*\n)*?"
    r"  Total Processed: (?P<files>\d+) files\n"
    r"  Total Batches:   (?P<batches>\d+)\n"
    r"-{60}\n"
)


def _blocks(text: str) -> list[re.Match[str]]:
    """All blocks of a log; nothing else may stand in it."""
    assert BLOCK.sub("", text) == ""
    return list(BLOCK.finditer(text))


def test_a_block_looks_as_it_is_documented() -> None:
    """To the letter: scripts of users read it."""
    moment = time.mktime((2026, 1, 25, 14, 32, 5, 0, 0, -1))
    facts = [
        ("Batch Size", "3 games"),
        ("Total Steps", "450"),
        ("Loss", "0.0234"),
        ("Processing Time", "1.23s"),
        ("Total Processed", "15 files"),
        ("Total Batches", "5"),
    ]

    assert training_log.block(moment, facts) == DOCUMENTED


def test_each_batch_has_its_block(paths: Paths) -> None:
    """Games, steps and totals are those of the batch and of the root's whole life."""
    for number in range(5):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number, steps=10 + number)
    learner_runs.drain(paths.root, batch_size=2)

    found = [match.groupdict() for match in _blocks(paths.training_log.read_text())]

    assert found == [
        {"games": "2", "steps": "21", "version": "1", "files": "2", "batches": "1"},
        {"games": "2", "steps": "25", "version": "2", "files": "4", "batches": "2"},
        {"games": "1", "steps": "14", "version": "3", "files": "5", "batches": "3"},
    ]


def test_another_start_tells_nothing_twice(paths: Paths) -> None:
    """Recovery looks whether the block is there before it writes it."""
    for number in range(3):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
        learner_runs.drain(paths.root)
        learner_runs.drain(paths.root)

    assert [match["version"] for match in _blocks(paths.training_log.read_text())] == ["1", "2", "3"]


def test_a_block_that_a_crash_has_swallowed_is_told_by_the_next_start(paths: Paths) -> None:
    """The log of a batch whose learner was killed before it could write says that the time is not known."""
    for number in range(2):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    learner_runs.drain(paths.root, batch_size=1)
    text = paths.training_log.read_text()
    paths.training_log.write_text(text[: text.rindex("[")])

    learner_runs.drain(paths.root)

    assert [match["version"] for match in _blocks(paths.training_log.read_text())] == ["1", "2"]
    assert "Processing Time: unknown (recovered)" in paths.training_log.read_text()


def test_version_1_is_not_taken_for_version_11(paths: Paths) -> None:
    """Versions are compared whole."""
    log = TrainingLog(paths.training_log, 10_000)
    log.add(training_log.block(0.0, [("Model Version", "11")]))

    assert log.has_version(11)
    assert not log.has_version(1)


def test_a_full_log_is_rotated(paths: Paths) -> None:
    """The newest blocks stand in the log, older ones in .1 to .3, the oldest are gone; each file keeps its bound."""
    log = TrainingLog(paths.training_log, 1000)
    for version in range(100):
        log.add(training_log.block(0.0, [("Model Version", str(version))]))

    files = [paths.training_log, *(paths.training_log.with_name(f"{paths.training_log.name}.{number}") for number in (1, 2, 3))]
    versions = [[int(number) for number in re.findall(r"Version: +(\d+)", file.read_text())] for file in files]
    assert sorted(file.name for file in paths.logs.iterdir()) == sorted(file.name for file in files)
    assert [version for file in reversed(versions) for version in file] == list(range(versions[3][0], 100))
    assert all(file.stat().st_size < 1000 + 200 for file in files)


def test_a_block_just_rotated_away_is_not_told_again(paths: Paths) -> None:
    """The newest block may have gone to .1 with the rotation that came before the crash."""
    log = TrainingLog(paths.training_log, 1)
    log.add(training_log.block(0.0, [("Model Version", "7")]))
    paths.training_log.rename(paths.training_log.with_name(f"{paths.training_log.name}.1"))

    assert log.has_version(7)


def test_a_log_that_can_not_be_written_is_no_reason_not_to_train(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and that is all."""
    shutil.rmtree(paths.logs)
    paths.logs.write_text("not a folder")
    TrainingLog(paths.training_log, 1000).add("block\n")
    paths.logs.unlink()
    paths.training_log.mkdir(parents=True)
    episodes.write(paths.buffer, "game.npz")

    assert learner_runs.drain(paths.root)["files_processed"] == 1
    assert "training log not written" in caplog.text
