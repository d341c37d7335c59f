"""Replays hang, kill and bloat the processes that read them; every file gets a verdict, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import PATIENCE_SECONDS, PROMPT_SECONDS, wait_until
from replay_fakes import install_fake_library, write_replays

from background_training.errors import WorkerError
from background_training.paths import CHECKOUT
from background_training.settings import ReplaySettings
from background_training.starcraft.replays import worker_pool
from background_training.starcraft.replays.worker import HUMBLE
from background_training.starcraft.replays.worker_pool import WorkerPool

pytestmark = pytest.mark.slow  # real processes

QUICK = ReplaySettings(timeout_seconds=1.0, workers=2)


@pytest.fixture(autouse=True)
def fake_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", install_fake_library(tmp_path))


def reasons_of(folder: Path, *contents: str, settings: ReplaySettings = QUICK) -> dict[str, str]:
    """The reason each content gets, from real processes, none of which is left."""
    paths = write_replays(folder, contents)
    with WorkerPool(settings) as pool:
        found = {Path(path).stem: result["reason"] for path, result in pool.read(paths)}
        process_ids = pool.process_ids
    assert not any(psutil.pid_exists(process_id) for process_id in process_ids)
    return found


def test_a_hung_file_costs_its_time_and_the_others_go_on(tmp_path: Path):
    """One worker hangs in Python, another inside C with the interpreter's lock held; both are killed and replaced."""
    started = time.monotonic()

    found = reasons_of(tmp_path / "replays", "fine", "hang in c", "hang in python", "later")

    assert found == {"fine": "no-players", "hang in c": "timeout", "hang in python": "timeout", "later": "no-players"}
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_a_file_that_waits_without_working_is_given_up_too(tmp_path: Path):
    """It uses no processor time; the clock, with patience, ends it."""
    quick = ReplaySettings(timeout_seconds=0.5, workers=2)

    assert reasons_of(tmp_path / "replays", "wait", "fine", settings=quick) == {"wait": "timeout", "fine": "no-players"}


def test_a_file_that_kills_its_reader_is_given_up_after_two_tries(tmp_path: Path):
    """A library may crash the whole process; the file is named, the others are read."""
    assert reasons_of(tmp_path / "replays", "die", "fine") == {"die": "crashed", "fine": "no-players"}


def test_a_file_that_asks_for_too_much_memory_is_unreadable(tmp_path: Path):
    """Three gigabytes for one replay: the worker says no and lives on."""
    if sys.platform == "win32":
        pytest.skip("Windows has no limit that a process can set itself")

    assert reasons_of(tmp_path / "replays", "eat", "fine") == {"eat": "unreadable", "fine": "no-players"}


def test_what_a_library_prints_is_no_answer(tmp_path: Path):
    """The way to the parent is for answers alone."""
    assert reasons_of(tmp_path / "replays", "print", "fine") == {"print": "no-players", "fine": "no-players"}


def test_a_worker_killed_by_somebody_else_costs_nothing(tmp_path: Path):
    """The first death may be the machine's doing; the file is read by the next worker."""
    paths = write_replays(tmp_path / "replays", [f"slow {number}" for number in range(4)])
    with WorkerPool(ReplaySettings(workers=1)) as pool:
        found = {}
        for path, result in pool.read(paths):
            found[path] = result["reason"]
            if len(found) == 1:
                os.kill(pool.process_ids[0], signal.SIGTERM)

    assert list(found.values()) == ["no-players"] * 4
    assert pool.workers_replaced == 1


def test_a_grown_worker_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After a game of four hours a worker keeps its memory; the next file gets a new one."""
    monkeypatch.setattr(worker_pool, "RECYCLE_BYTES", 1)
    paths = write_replays(tmp_path / "replays", ["1", "2", "3"])
    with WorkerPool(ReplaySettings(workers=1)) as pool:
        found = [result["reason"] for _, result in pool.read(paths)]

    assert (found, pool.workers_replaced) == (["no-players"] * 3, 3)


def test_a_worker_that_can_not_start_is_an_error_and_no_endless_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A broken installation is reported, not retried for ever."""
    broken = tmp_path / "broken" / "sc2reader"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('broken')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    paths = write_replays(tmp_path / "replays", ["fine"])

    with WorkerPool(QUICK) as pool, pytest.raises(WorkerError, match="ended while starting"):
        list(pool.read(paths))


def test_a_worker_lets_training_go_first(tmp_path: Path):
    """Its priority is low, so that it gets what others leave."""
    paths = write_replays(tmp_path / "replays", ["1", "2"])
    with WorkerPool(ReplaySettings(workers=1), niceness=HUMBLE) as pool:
        answers = pool.read(paths)
        next(answers)
        priority = psutil.Process(pool.process_ids[0]).nice()

    assert priority == psutil.IDLE_PRIORITY_CLASS if sys.platform == "win32" else priority == HUMBLE


def start_command(tmp_path: Path, *contents: str, timeout: float = 600.0) -> subprocess.Popen[bytes]:
    """The command at work on these contents, with at least one worker of its own alive and busy."""
    write_replays(tmp_path / "replays", contents)
    command = [sys.executable, str(CHECKOUT / "tools" / "analyze_replays.py"), str(tmp_path / "replays")]
    command += ["--root", str(tmp_path / "root ä"), "--timeout", str(timeout), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=sys.platform != "win32")
    wait_until(lambda: len(workers_of(process)) == 2 and all(worker.cpu_times().user > 0.6 for worker in workers_of(process)))
    return process


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if child.status() != psutil.STATUS_ZOMBIE]


def gone(workers: list[psutil.Process]) -> bool:
    return not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to another process")
def test_ctrl_c_stops_everything_within_two_seconds(tmp_path: Path):
    """Even with both workers hung: one line, exit code 130, no process left."""
    process = start_command(tmp_path, "hang in python 1", "hang in python 2")
    workers = workers_of(process)
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)

    _, errors = process.communicate(timeout=PATIENCE_SECONDS)

    assert time.monotonic() - asked < PROMPT_SECONDS
    assert process.returncode == 130
    assert errors.decode().splitlines() == ["[INFO] Interrupted; the results so far are kept"]
    assert gone(workers)


def test_workers_end_with_a_killed_parent(tmp_path: Path):
    """kill -9 of the command: workers busy in Python notice the closed pipe at once."""
    process = start_command(tmp_path, "hang in python 1", "hang in python 2")
    workers = workers_of(process)
    process.kill()
    process.communicate()

    wait_until(lambda: gone(workers))


def test_workers_hung_in_c_end_with_a_killed_parent_too(tmp_path: Path):
    """No Python code can run in them; their own alarm ends them a few seconds after the file's time."""
    process = start_command(tmp_path, "hang in c 1", "hang in c 2", timeout=2.0)
    workers = workers_of(process)
    process.kill()
    process.communicate()

    wait_until(lambda: gone(workers))
