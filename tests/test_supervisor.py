"""The worker dies: another one is started, less and less soon, and the file that kills it each time is found out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import psutil
import pytest
from conftest import wait_until

from background_training.learner import replay_log
from background_training.learner.poison_files import PoisonFiles
from background_training.paths import Paths
from background_training.records import ledger_lines, status

pytestmark = pytest.mark.slow  # real processes

DEADLY_READER = """
import os, signal
from background_training.learner import triage as intake, worker
read = intake.episode_file.read
def deadly(data, limits):
    if b"deadly.npy" in data:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(data, limits)
intake.episode_file.read = deadly
os._exit(worker.main())
"""
"""A worker with a fault in its reader: files with a certain array, which others ignore, kill it."""

DEADLY_TRAINING = """
import os, signal
from background_training.learner import checkpoint as generation, worker
successor = generation.successor
def deadly(previous, lines, episodes, settings):
    with open(os.environ["DEATHS"], "a") as file:
        file.write("x")
    if os.stat(os.environ["DEATHS"]).st_size <= 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return successor(previous, lines, episodes, settings)
generation.successor = deadly
os._exit(worker.main())
"""
"""A worker that is killed four times while it trains."""

DEADLY_EPISODE = """
import os, signal
from background_training.learner import checkpoint as generation, worker
successor = generation.successor
def deadly(previous, lines, episodes, settings):
    if any("deadly" in line["name"] for line in lines):
        os.kill(os.getpid(), signal.SIGKILL)
    return successor(previous, lines, episodes, settings)
generation.successor = deadly
os._exit(worker.main())
"""
"""A worker that certain files kill, not while they are read, but while they are trained on."""

STILLBORN = "raise SystemExit('the interpreter is damaged')"


def _worker_is(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the supervisor start this program as its worker."""
    real = subprocess.Popen

    def popen(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert arguments[1:] == ["-m", "background_training.learner.worker"]
        return real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)


def _only_worker() -> psutil.Process:
    wait_until(lambda: len(learner_runs.workers_of(os.getpid())) == 1)
    return learner_runs.workers_of(os.getpid())[0]


def test_a_killed_worker_is_replaced_and_that_is_said(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """The game's author sees that it died, of what, and that another one is at work; what it had counted stays."""
    episodes.write(paths.buffer, "game_0.npz", seed=0)
    with learner_runs.learner(paths.root) as learner:
        wait_until(lambda: learner.get_stats()["files_processed"] == 1)
        first = _only_worker()
        first.kill()
        wait_until(lambda: learner.get_stats()["worker_restarts"] == 1)
        episodes.write(paths.buffer, "game_1.npz", seed=1)
        wait_until(lambda: learner.get_stats()["files_processed"] == 2)
        second = _only_worker()
        counts = learner.get_stats()

    assert second.pid != first.pid
    assert (counts["errors"], counts["worker_restarts"], counts["batches_trained"]) == (1, 1, 2)
    code = signal.SIGTERM if sys.platform == "win32" else -signal.SIGKILL  # as psutil kills
    assert f"the worker process died (exit code {code}" in counts["last_error"]
    assert f"[WARNING] the worker process died (exit code {code}); starting another in 0.2 s" in capsys.readouterr().out


def test_a_worker_that_dies_again_and_again_is_given_up(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Better a clear word than a computer that starts processes for ever; the last words of the worker are passed on."""
    _worker_is(STILLBORN, monkeypatch)
    learner = learner_runs.learner(paths.root, restart_limit=2)
    learner.start()
    try:
        wait_until(lambda: not learner.running)
        counts = learner.get_stats()
        snapshot = status.read(paths)
    finally:
        learner.stop()

    said = capsys.readouterr().out
    assert said.count("starting another") == 2
    assert "Background learner stopped: the worker process died (exit code 1: the interpreter is damaged), 3 times" in said
    assert counts["worker_restarts"] == 2 and "the interpreter is damaged" in counts["last_error"]
    assert snapshot is not None and snapshot["state"] == "failed"


def test_a_learner_that_has_given_up_can_be_started_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving up is no end: start() begins anew, with a fresh budget."""
    with monkeypatch.context() as patch:
        _worker_is(STILLBORN, patch)
        learner = learner_runs.learner(paths.root, restart_limit=0)
        learner.start()
        wait_until(lambda: not learner.running)
    episodes.write(paths.buffer, "game.npz")

    assert learner.start() is True
    try:
        wait_until(lambda: learner.get_stats()["files_processed"] == 1)
    finally:
        learner.stop()


def test_a_file_that_kills_its_reader_three_times_is_rejected(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs three workers, and no other file anything; the next file of its name is read again."""
    _worker_is(DEADLY_READER, monkeypatch)
    for number in range(4):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    episodes.write(paths.buffer, "game_1_deadly.npz", seed=99, deadly=np.zeros(1))
    with learner_runs.learner(paths.root, rescan_seconds=0.1) as learner:
        wait_until(lambda: learner.get_stats()["files_rejected"] == 1)
        wait_until(lambda: learner.get_stats()["files_processed"] == 4)
        episodes.write(paths.buffer, "game_1_deadly.npz", seed=50)
        wait_until(lambda: learner.get_stats()["files_processed"] == 5)
        counts = learner.get_stats()

    assert counts["worker_restarts"] == 3 and counts["files_rejected"] == 1
    assert episodes.fates(paths)["rejected"] == ["game_1_deadly.npz"]
    assert "the process that read it died three times" in learner_runs.reason(paths, "rejected", "game_1_deadly.npz")


def test_no_file_is_blamed_for_a_worker_that_dies_while_it_trains(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file that was read last has survived its reading; when the worker dies later, it is trained all the same."""
    _worker_is(DEADLY_TRAINING, monkeypatch)
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))
    for number in range(2):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    with learner_runs.learner(paths.root) as learner:
        wait_until(lambda: learner.get_stats()["files_processed"] == 2)
        counts = learner.get_stats()

    assert (counts["worker_restarts"], counts["files_rejected"]) == (4, 0)


def test_a_file_that_kills_whoever_trains_on_it_is_found_out(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its batch is taken apart after two deaths; alone it has three tries; the others are trained, and can be again."""
    _worker_is(DEADLY_EPISODE, monkeypatch)
    for number in range(5):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    episodes.write(paths.buffer, "game_1_deadly.npz", seed=99)
    with learner_runs.learner(paths.root, rescan_seconds=0.1, batch_size=4) as learner:
        wait_until(lambda: learner.get_stats()["files_rejected"] == 1)
        wait_until(lambda: learner.get_stats()["files_processed"] == 5)
        counts = learner.get_stats()

    assert counts["worker_restarts"] == 5 and counts["files_rejected"] == 1
    assert episodes.fates(paths)["rejected"] == ["game_1_deadly.npz"]
    assert "trained on it, and on nothing else, died 3 times" in learner_runs.reason(paths, "rejected", "game_1_deadly.npz")
    names = [name for name, _ in learner_runs.trained(paths)]
    assert names == [f"game_{number}.npz" for number in range(5)]
    *_, rebuilt = replay_log.replay(paths, ledger_lines.groups(ledger_lines.read_lines(paths.ledger)), None)
    assert rebuilt.data == paths.model.read_bytes()


def test_a_suspect_that_survives_is_cleared() -> None:
    """Somebody who kills workers by hand now and then condemns no file: each commit forgets what was held against it."""
    suspects = PoisonFiles()
    for _ in range(10):
        for names in (["a", "b"], ["a", "b"], ["a"]):
            suspects.training(names)
            suspects.worker_died()
        suspects.training(["a"])
        suspects.training([])

    assert suspects.orders() == {"deadly": {}, "alone": ["b"]}
    suspects.training(["b"])
    suspects.training([])
    assert suspects.orders()["alone"] == []


def test_another_file_of_a_rejected_name_is_no_suspect() -> None:
    """What was held against a file goes with it."""
    suspects = PoisonFiles()
    for _ in range(3):
        suspects.training(["d\u00e4mon.npz"])
        suspects.worker_died()
    condemned = suspects.orders()

    suspects.file_left("d\u00e4mon.npz")

    assert list(condemned["deadly"]) == ["d\u00e4mon.npz"]
    assert suspects.orders() == {"deadly": {}, "alone": []}
