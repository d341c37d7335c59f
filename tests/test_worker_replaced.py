"""A worker that hangs, or takes ever more memory, is replaced, and what it had in hand is trained once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import pytest
from conftest import wait_until

from background_training.ipc import supervision
from background_training.paths import Paths

pytestmark = pytest.mark.slow  # real processes

LEAKING = """
import os
from background_training.learner import checkpoint as generation, worker
successor, kept = generation.successor, []
def leaking(*arguments):
    try:
        os.close(os.open(os.environ["LEAKED"], os.O_CREAT | os.O_EXCL))
        kept.append(b"x" * 300_000_000)
    except FileExistsError:
        pass
    return successor(*arguments)
generation.successor = leaking
os._exit(worker.main())
"""
"""A worker of which the first one keeps 300 MB after its first batch."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="stops a process by a signal")
def test_a_worker_that_hangs_is_replaced(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is stopped dead, and says nothing any more: another one trains what waits."""
    monkeypatch.setattr(supervision, "HANG_SECONDS", 5.0)
    with learner_runs.learner(paths.root, rescan_seconds=0.2, restart_limit=100) as learner:
        wait_until(lambda: learner.get_stats()["active_workers"] == 1)
        (worker,) = learner_runs.workers_of(os.getpid())
        os.kill(worker.pid, signal.SIGSTOP)
        episodes.write(paths.buffer, "game.npz")
        wait_until(lambda: learner.get_stats()["files_processed"] == 1, 90.0)

    assert not worker.is_running()
    assert "is replaced: it hung" in capsys.readouterr().out
    assert learner_runs.trained(paths) == [("game.npz", 1)]


def test_a_worker_that_leaks_is_replaced_between_two_batches(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch after which it was too large counts; the next one is another worker's."""
    real = subprocess.Popen

    def popen(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", LEAKING], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setenv("LEAKED", str(tmp_path / "leaked"))
    for number in range(3):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    with learner_runs.learner(paths.root, batch_size=1, worker_memory_bytes=250_000_000) as learner:
        wait_until(lambda: learner.get_stats()["files_processed"] == 3)
        counts = learner.get_stats()

    assert counts["worker_restarts"] == 1
    assert "more than learner.worker_memory_bytes" in counts["last_error"]
    assert "the worker process is replaced: it takes" in capsys.readouterr().out
    assert learner_runs.trained(paths) == [("game_0.npz", 1), ("game_1.npz", 2), ("game_2.npz", 3)]
