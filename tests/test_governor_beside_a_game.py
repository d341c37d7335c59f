"""The governor at work: real workers that stand still for a game and for other programs, go on, and lose nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import numpy as np
import psutil
import pytest
from conftest import PROMPT_SECONDS, wait_until

from background_training import BackgroundParallelLearner
from background_training.algo import ppo_update
from background_training.ipc.load_hints import LoadHints
from background_training.paths import Paths
from background_training.records import status

pytestmark = pytest.mark.slow  # real processes

STRICT = {"enabled": True, "check_seconds": 0.1, "rest_factor": 1e6, "longest_rest_seconds": 600.0}
"""Above a limit, stand still until it is over."""
STEPS = 4000
LONG_BATCH = {"n_epochs": 4, "target_kl": 1e9}

HOG = "import sys\nprint('up', flush=True)\nwhile True: pass"

WORKER_ON_ANOTHER_MACHINE = """
import os, sys
from background_training.learner import machine_readings, worker
def percent(self):
    with open(os.environ["OTHERS_CPU_PERCENT"]) as file:
        return float(file.read())
machine_readings.MachineReadings._others_cpu_percent = percent
os._exit(worker.main())
"""
"""A worker that is told by a file how busy the processor is: this machine's own load is not ours to command."""


def _learner(root: Path, learning: dict[str, Any] | None = None, **governor: Any) -> BackgroundParallelLearner:
    settings = learner_runs.settings(root, learning=learning, rescan_seconds=0.2)
    return BackgroundParallelLearner(settings=settings.with_values("test", governor={**STRICT, **governor}))


def _governor(paths: Paths) -> dict[str, Any]:
    return dict((status.read(paths) or {}).get("governor", {}))


def _seen(paths: Paths, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first status that fulfils the condition; the next one may say something else already."""
    seen: list[dict[str, Any]] = []

    def look() -> bool:
        snapshot = status.read(paths)
        if snapshot is not None and condition(snapshot):
            seen.append(snapshot)
        return bool(seen)

    wait_until(look)
    return seen[0]


def _state(paths: Paths) -> str:
    return str((status.read(paths) or {}).get("state"))


def _worker_seconds() -> float:
    """Processor time of the only worker."""
    (worker,) = learner_runs.workers_of(os.getpid())
    times = worker.cpu_times()
    return float(times.user + times.system)


@contextmanager
def _voice(paths: Paths) -> Iterator[LoadHints]:
    voice = LoadHints(paths)
    try:
        yield voice
    finally:
        voice.close()


@pytest.mark.parametrize("hidden", [64, ppo_update.THREAD_HIDDEN], ids=["one thread", "two threads"])
def test_a_busy_game_stops_a_batch_in_its_middle_and_the_bits_stay_the_same(
    hidden: int, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker waits before a batch and within it, with all its threads, and what it has learnt at last is what a drain
    learns, bit for bit."""
    game, learning = paths.game_voice / "in the middle.txt", {**LONG_BATCH, "hidden_size": hidden}
    learner_runs.worker_does_in_the_middle(f"open({str(game)!r}, 'w').write('busy 3600'); done = True", monkeypatch)
    twin = Paths(tmp_path / "twin")
    twin.buffer.mkdir(parents=True)
    log_probs = np.full(STEPS, np.log(1 / 3), np.float32)  # without them a batch is gone through once only
    for number in range(3):
        for root in (paths, twin):
            episodes.write(root.buffer, f"game_{number}.npz", seed=number, steps=STEPS, log_probs=log_probs)
    with _voice(paths) as voice, _learner(paths.root, learning) as learner:
        voice.busy(3600.0)
        wait_until(lambda: learner.get_stats()["governor"].startswith("paused: the game is busy"))
        before_the_batch = (_seen(paths, lambda seen: seen["state"] == "paused")["governor"], learner_runs.trained(paths))
        voice.close()
        wait_until(game.exists)
        _seen(paths, lambda seen: seen["state"] == "paused" and seen["updated_at"] >= game.stat().st_mtime)
        stood_still_at = _worker_seconds()
        time.sleep(0.5)
        worked = _worker_seconds() - stood_still_at
        within_the_batch = (learner_runs.trained(paths), paths.model.exists())
        game.unlink()
        wait_until(lambda: len(learner_runs.trained(paths)) == 3)

    assert before_the_batch[0]["reason"].startswith("the game is busy") and before_the_batch[0]["state"] == "paused"
    assert before_the_batch[1] == []
    assert within_the_batch == ([], False)
    assert worked < 0.1
    learner_runs.drain(twin.root, learning=learning)
    assert paths.model.read_bytes() == twin.model.read_bytes()


def test_a_paused_learner_stops_at_once(paths: Paths) -> None:
    """Who waits for a game does not make the game wait for its own end; the episodes stay in the buffer."""
    episodes.write(paths.buffer, "game.npz")
    with _voice(paths) as voice:
        voice.busy(3600.0)
        with _learner(paths.root) as learner:
            wait_until(lambda: _state(paths) == "paused")
            started = time.monotonic()
            learner.stop()
            took = time.monotonic() - started

    assert took < PROMPT_SECONDS < STRICT["longest_rest_seconds"]
    assert episodes.fates(paths)["buffer"] == ["game.npz"]


def test_a_game_that_dies_while_it_is_busy_is_not_waited_for_for_ever(paths: Paths) -> None:
    """Its last word expires, and training begins."""
    episodes.write(paths.buffer, "game.npz")
    paths.game_voice.mkdir()
    (paths.game_voice / "dead.txt").write_text("busy 2")
    with _learner(paths.root):
        wait_until(lambda: len(learner_runs.trained(paths)) == 1)


def test_others_load_pauses_and_its_end_lets_it_go_on(paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the worker says why it waits, in status.json, get_stats() and the log; below, all is trained once."""
    load = tmp_path / "load"
    load.write_text("97")
    monkeypatch.setenv("OTHERS_CPU_PERCENT", str(load))
    real = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda arguments, **more: real([sys.executable, "-c", WORKER_ON_ANOTHER_MACHINE], **more)
    )
    with _learner(paths.root) as learner:
        wait_until(lambda: "limit 80 %" in _governor(paths).get("reason", ""))
        for number in range(4):
            # The first batch may pass: nobody has had to wait yet, so no rest is due.
            episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
        facts = _seen(paths, lambda seen: seen["state"] == "paused" and seen["stats"]["buffer_file_count"] >= 1)["governor"]
        wait_until(lambda: "paused" in learner.get_stats()["governor"])
        load.write_text("3")
        wait_until(lambda: len(learner_runs.trained(paths)) == 4)
        wait_until(lambda: _governor(paths)["state"] == "free")

    assert "other programs use 97 % of the processor (limit 80 %: governor.cpu_percent, or --overnight)" in facts["reason"]
    assert facts["workers_allowed"] == 0 and facts["readings"]["others_cpu_percent"] == 97.0
    assert sorted(name for name, _ in learner_runs.trained(paths)) == [f"game_{number}.npz" for number in range(4)]
    log = paths.governor_log.read_text("utf-8")
    assert "other programs use" in log and log.splitlines()[-1].endswith("free")


def test_a_real_hog_is_given_way_to(paths: Paths) -> None:
    """As above with programs that really take all processors, whatever else the machine does."""
    hogs = [subprocess.Popen([sys.executable, "-c", HOG], start_new_session=True) for _ in range(os.cpu_count() or 1)]

    def is_seen(snapshot: dict[str, Any]) -> bool:
        facts = snapshot["governor"]
        return "other programs use" in facts["reason"] and (facts["readings"]["others_cpu_percent"] or 0.0) > 80.0

    try:
        with _learner(paths.root, check_seconds=0.5):
            _seen(paths, is_seen)
            for hog in hogs:
                hog.kill()
            episodes.write(paths.buffer, "game.npz")  # of others there may be no end, but the first batch need not wait
            wait_until(lambda: len(learner_runs.trained(paths)) == 1)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_a_drain_is_not_governed(paths: Paths) -> None:
    """Who asks for a drain wants it now: no game and no limit holds it up."""
    episodes.write(paths.buffer, "game.npz")
    with _voice(paths) as voice:
        voice.busy(3600.0)
        done = learner_runs.command(paths.root, "--drain", "--max-file-age", "0")

    assert done.returncode == 0
    assert len(learner_runs.trained(paths)) == 1


def test_switched_off_nobody_waits(paths: Paths) -> None:
    """governor.enabled: false trains whatever the game says."""
    episodes.write(paths.buffer, "game.npz")
    with _voice(paths) as voice:
        voice.busy(3600.0)
        with _learner(paths.root, enabled=False) as learner:
            wait_until(lambda: len(learner_runs.trained(paths)) == 1)
            wait_until(lambda: learner.get_stats()["governor"] == "off")


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="a matter of Linux sessions")
def test_the_workers_session_has_low_priority_too(paths: Paths) -> None:
    """Linux shares the processor out between sessions first; the worker's own niceness would not help the game."""
    with _learner(paths.root):
        wait_until(lambda: len(learner_runs.workers_of(os.getpid())) == 1)
        (worker,) = learner_runs.workers_of(os.getpid())
        wait_until(lambda: psutil.Process(worker.pid).nice() == 10)
        wait_until(lambda: Path(f"/proc/{worker.pid}/autogroup").read_text().split()[-1] == "10")
