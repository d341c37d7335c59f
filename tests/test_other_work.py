"""Work beside the training: it comes second, and its process is watched, bounded and replaced as the others are."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import episodes
import learner_runs
import numpy as np
import psutil
import pytest
from conftest import wait_until

from background_training import BackgroundParallelLearner
from background_training.errors import WorkerError
from background_training.ipc import supervision
from background_training.ipc.job_process import JobProcess
from background_training.ipc.supervision import Watchdog
from background_training.learner import background_learner
from background_training.learner.periodic_job import PeriodicJob
from background_training.paths import Paths
from background_training.settings import LearnerSettings

pytestmark = pytest.mark.slow  # real processes


@pytest.fixture
def process() -> Iterator[JobProcess]:
    made = JobProcess(max_bytes=200_000_000)
    yield made
    made.stop()
    made.close()


@pytest.mark.parametrize(
    ("allowed", "training", "waiting", "waits"),
    [(0, 0, 0, True), (0, 1, 5, True), (1, 1, 5, True), (1, 1, 0, False), (1, 0, 5, False), (2, 1, 5, False), (2, 1, 0, False)],
)
def test_training_comes_first(
    allowed: int, training: int, waiting: int, waits: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other work is begun where one more worker is allowed, or nothing waits to be trained on, and not while all is paused."""
    learner = BackgroundParallelLearner(root=root)
    counts = {"workers_allowed": allowed, "active_workers": training, "buffer_file_count": waiting}
    monkeypatch.setattr(learner, "get_stats", lambda: counts)

    assert learner._training_goes_first() == waits


def test_other_work_waits_until_what_waits_is_trained(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one process allowed, replays are read only once the buffer is empty; then they are, again and again."""
    monkeypatch.setattr(background_learner, "_REPLAY_TASK", "other_work:of_settings")
    notes = tmp_path / "notes.txt"
    for number in range(12):
        log_probs = np.full(300, -np.log(episodes.ACTIONS), np.float32)
        episodes.write(paths.buffer, f"game_{number:02d}.npz", number, steps=300, log_probs=log_probs)
    settings = learner_runs.settings(paths.root, learning={"hidden_size": 64, "n_epochs": 4}, max_workers=1)
    replays = dataclasses.replace(settings.replays, folder=str(tmp_path), rescan_seconds=0.05)

    with BackgroundParallelLearner(settings=dataclasses.replace(settings, replays=replays)):
        wait_until(lambda: notes.exists() and notes.read_text("utf-8").count("\n") >= 2)

    assert set(notes.read_text("utf-8").splitlines()) == {"0"}
    assert len(learner_runs.trained(paths)) == 12


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process by a signal")
def test_a_task_process_that_hangs_is_killed(process: JobProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends no heartbeat any more; the next call has another process."""
    first = process.call("other_work:process_id", {})
    with monkeypatch.context() as impatient:
        impatient.setattr(supervision, "HANG_SECONDS", 1.0)
        with pytest.raises(WorkerError, match="hung"):
            process.call("other_work:stop", {})

    assert process.call("other_work:process_id", {}) != first
    assert process.deaths == 1


def test_a_long_call_gives_signs_of_life(process: JobProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, it is not taken to hang."""
    heard = []
    monkeypatch.setattr(Watchdog, "feed", lambda self: heard.append(self))

    process.call("other_work:sleep", {"seconds": 2.5})

    assert len(heard) >= 4, "the call, two heartbeats and the answer"


def test_a_task_process_that_has_grown_is_replaced_after_the_call(process: JobProcess) -> None:
    """A leak ends with the process that has it, and no call is lost."""
    first = process.call("other_work:process_id", {})

    assert process.call("other_work:grow", {"size": 300_000_000}) == first
    assert process.call("other_work:process_id", {}) != first
    assert process.deaths == 0


@pytest.mark.skipif(sys.platform == "win32", reason="asks for process groups")
def test_what_a_job_has_started_ends_with_it(process: JobProcess) -> None:
    """A stop of the learner leaves none of a job's own workers behind, whatever they hang in."""
    descendant = psutil.Process(process.call("other_work:start_descendant", {}))

    process.stop()
    process.close()

    wait_until(lambda: not descendant.is_running() or descendant.status() == psutil.STATUS_ZOMBIE)


def test_what_a_job_raises_is_its_error_and_the_process_stays(process: JobProcess) -> None:
    """A fault of the function is no fault of the process."""
    first = process.call("other_work:process_id", {})

    with pytest.raises(WorkerError, match="ZeroDivisionError: division by zero"):
        process.call("other_work:fail", {})
    assert process.call("other_work:process_id", {}) == first


def test_a_task_whose_processes_die_is_given_up_within_its_budget() -> None:
    """It is said, and the training goes on without it."""
    said: list[str] = []
    task = PeriodicJob("other_work:die", {}, 0.01, lambda: False, said.append, LearnerSettings(restart_limit=2))
    task.start()
    wait_until(lambda: not task._thread.is_alive())
    task.stop()

    assert "died (exit code 3)" in said[0]
    assert "3 times in ten minutes; it is given up" in said[-1]
