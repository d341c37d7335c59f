"""The user's pause: a real learner stands still and goes on when it is told to, and nothing is lost or too old by it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import commands
import episodes
import faulty_disk
import learner_runs
import numpy as np
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.errors import PausedError
from background_training.monitor import dashboard
from background_training.monitor.facts import Reader
from background_training.paths import Paths
from background_training.records import pause_file, status
from background_training.records.pause_file import Pause, PauseWatch

pytestmark = pytest.mark.slow  # real processes

MONITOR = "monitor_background_training.py"
STEPS = 4000
LONG_BATCH = {"n_epochs": 4, "target_kl": 1e9, "hidden_size": 64}


def _status(paths: Paths) -> dict[str, Any]:
    return status.read(paths) or {}


# What the file says


def test_a_pause_holds_until_it_is_taken_back(paths: Paths) -> None:
    """It tells who asked for it and when; asked for twice, the first one counts."""
    assert pause_file.read(paths) is None and not pause_file.resume(paths, 50.0)
    assert pause_file.pause(paths, 100.0) and not pause_file.pause(paths, 200.0)
    held = pause_file.read(paths)
    assert held is not None and held.since == 100.0 and " since 1970-01-0" in f" {held.words}"
    assert pause_file.resume(paths, 160.0) and pause_file.read(paths) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"[" * 100_000, b'{"since": "today"}', b'{"since": 1e999}', b'{"since": true']
)
def test_any_file_of_that_name_is_a_pause(paths: Paths, content: bytes) -> None:
    """`touch data/paused.json` pauses too, from a shell or a script that knows nothing else; its time counts."""
    paths.paused.write_bytes(content)
    os.utime(paths.paused, (1000.0, 1000.0))

    assert pause_file.read(paths) == Pause(1000.0)
    assert pause_file.resume(paths, 1060.0)
    assert pause_file.seconds_since(paths, 990.0, 1100.0) == 60.0


def test_a_name_in_the_file_moves_no_cursor(paths: Paths) -> None:
    """Whoever may write the file may not write to the screen."""
    paths.paused.write_text(json.dumps({"since": 1000, "by": "an\x1b[2Jn\n" + "x" * 500}))
    held = pause_file.read(paths)
    assert held is not None and held.words.isprintable() and len(held.words) < 100


def test_the_watch_sees_what_is_so_now(paths: Paths) -> None:
    """Pause, end and another pause, each at the next look."""
    watch = PauseWatch(paths)
    seen = [watch.look()]
    for moment in (100.0, 300.0):
        pause_file.pause(paths, moment)
        seen += [watch.look(), watch.look()]
        pause_file.resume(paths, moment + 100.0)
        seen.append(watch.look())

    assert [held and held.since for held in seen] == [None, 100.0, 100.0, None, 300.0, 300.0, None]


def test_time_in_which_a_root_was_paused_is_told_once(paths: Paths) -> None:
    """Of several pauses what lies between the two moments, and of the present one what has passed of it."""
    for begun, ended in ((100.0, 200.0), (300.0, 350.0)):
        pause_file.pause(paths, begun)
        pause_file.resume(paths, ended)
    pause_file.pause(paths, 400.0)

    assert pause_file.seconds_since(paths, 0.0, 1000.0) == 100.0 + 50.0 + 600.0
    assert pause_file.seconds_since(paths, 150.0, 320.0) == 50.0 + 20.0
    assert pause_file.seconds_since(paths, 2000.0, 1000.0) == 0.0


def test_a_resume_that_was_cut_short_counts_once(paths: Paths) -> None:
    """Killed between its two steps, it leaves the root paused; done again, it tells of one pause."""
    pause_file.pause(paths, 100.0)
    before = paths.paused.read_bytes()
    pause_file.resume(paths, 150.0)
    paths.paused.write_bytes(before)
    pause_file.resume(paths, 200.0)

    assert pause_file.seconds_since(paths, 0.0, 1000.0) == 100.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("fault", ["kill", *faulty_disk.POWER_CUT_MODES])
@pytest.mark.parametrize("ends", [False, True], ids=["a pause", "its end"])
def test_killed_at_any_step(tmp_path: Path, ends: bool, fault: str) -> None:
    """By a power cut, too: the root is paused or it is not; asked again, it forgets no time in which it was."""
    seed, root = Paths(tmp_path / "seed"), Paths(tmp_path / "root")
    seed.data.mkdir(parents=True)
    pause_file.pause(seed, 100.0)
    pause_file.resume(seed, 150.0)
    if ends:
        pause_file.pause(seed, 200.0)
    act = (lambda: pause_file.resume(root, 260.0)) if ends else (lambda: pause_file.pause(root, 200.0))
    shutil.copytree(seed.root, root.root)
    steps = faulty_disk.recorded(root.root, act)
    assert len(steps) >= 5
    for number, step in enumerate(steps):
        shutil.rmtree(root.root)
        if fault == "kill":
            shutil.copytree(seed.root, root.root)
            assert faulty_disk.dying(root.root, act, number, torn=step.op == "write") == -9
        else:
            faulty_disk.after_power_cut(seed.root, steps[:number], fault, random.Random(number), root.root)
        held = pause_file.read(root)
        assert held is None or held.since == 200.0
        if held is None and not ends:
            pause_file.pause(root, 200.0)
        pause_file.resume(root, 260.0)

        assert pause_file.read(root) is None
        assert pause_file.seconds_since(root, 0.0, 1000.0) == 50.0 + 60.0, (number, step)


# The learner


@pytest.mark.skipif(sys.platform == "win32", reason="a Ctrl+C can't be sent to one process there")
def test_a_paused_learner_trains_nothing_and_then_everything(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """From outside, by the command: paused before it starts, started again with the governor switched off, resumed."""
    for name, value in (("LOCAL_TRAINING_LEARNER_RESCAN_SECONDS", "0.2"), ("LOCAL_TRAINING_GOVERNOR_CPU_PERCENT", "100")):
        monkeypatch.setenv(name, value)
    for number in range(5):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    said = [commands.run_tool(MONITOR, paths.root, "--pause") for _ in range(2)]
    for run, governed in enumerate(("true", "false")):
        environment = {**os.environ, "LOCAL_TRAINING_GOVERNOR_ENABLED": governed}
        monkeypatch.setattr(learner_runs, "environment", lambda environment=environment: environment)
        process = learner_runs.started_command(paths.root, "--quiet")
        try:
            wait_until(lambda: _status(paths).get("state") == "paused")
            reason = _status(paths)["governor"]["reason"]
            shown = "\n".join(line.text for line in dashboard.lines(Reader(paths, time.time()).snapshot()))
            assert learner_runs.trained(paths) == []
            if run == 0:
                continue
            episodes.write(paths.buffer, "game_5.npz", seed=5)
            said.append(commands.run_tool(MONITOR, paths.root, "--resume"))
            wait_until(lambda: len(learner_runs.trained(paths)) == 6)
            wait_until(lambda: _status(paths)["state"] == "idle")
        finally:
            process.send_signal(signal.SIGINT)
            said.append(process.communicate(timeout=PATIENCE_SECONDS)[0])

    assert "is paused, by" in said[0] and "is already paused" in said[1] and "is resumed" in said[3]
    assert all(text.startswith("[WARNING]") and "so nothing is trained" in text for text in (said[2], said[4]))
    assert "--resume" in reason and "Paused:" in shown
    assert episodes.fates(paths)["buffer"] == []


def test_an_idle_learner_says_that_it_is_paused_and_goes_on_at_once(paths: Paths) -> None:
    """Also with nothing to train, and a rescan that is long to come."""
    with learner_runs.learner(paths.root, rescan_seconds=0.2) as learner:
        wait_until(lambda: _status(paths).get("state") == "idle")
        pause_file.pause(paths)
        wait_until(lambda: _status(paths)["state"] == "paused" and learner.get_stats()["workers_allowed"] == 0)
        pause_file.resume(paths)
        wait_until(lambda: _status(paths)["state"] == "idle" and learner.get_stats()["workers_allowed"] > 0)


def test_a_batch_is_paused_in_its_middle_and_the_bits_stay_the_same(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that comes of it is the one of a drain, bit for bit."""
    pause = "import pathlib; from background_training.records import pause_file as pausing; "
    pause += "from background_training.paths import Paths; "
    pause += f"pausing.pause(Paths(pathlib.Path({str(paths.root)!r}))); done = True"
    learner_runs.worker_does_in_the_middle(pause, monkeypatch)
    twin = Paths(tmp_path / "twin")
    twin.buffer.mkdir(parents=True)
    for root in (paths, twin):
        for number in range(3):
            log_probs = np.full(STEPS, np.log(1 / 3), np.float32)
            episodes.write(root.buffer, f"game_{number}.npz", seed=number, steps=STEPS, log_probs=log_probs)
    pause_file.pause(paths)
    with learner_runs.learner(paths.root, learning=LONG_BATCH) as learner:
        wait_until(lambda: _status(paths).get("state") == "paused")
        pause_file.resume(paths)
        wait_until(lambda: pause_file.read(paths) is not None)
        asked = paths.paused.stat().st_mtime
        wait_until(lambda: _status(paths)["state"] == "paused" and _status(paths)["updated_at"] >= asked)
        wait_until(lambda: learner.get_stats()["governor"].startswith("paused"))
        half_done = (learner_runs.trained(paths), paths.model.exists())
        pause_file.resume(paths)
        wait_until(lambda: len(learner_runs.trained(paths)) == 3)

    assert half_done == ([], False)
    learner_runs.drain(twin.root, learning=LONG_BATCH)
    assert paths.model.read_bytes() == twin.model.read_bytes()


def test_a_drain_of_a_paused_root_says_so_and_ends(paths: Paths) -> None:
    """It hangs on nothing and trains nothing; its exit code is its own."""
    episodes.write(paths.buffer, "game.npz")
    pause_file.pause(paths)
    done = learner_runs.command(paths.root, "--drain")

    assert done.returncode == PausedError.exit_code == 6
    assert "is paused (" in done.stderr and "--resume" in done.stderr and done.stderr.count("\n") == 1
    assert episodes.fates(paths)["buffer"] == ["game.npz"]
    pause_file.resume(paths)
    assert learner_runs.command(paths.root, "--drain").returncode == 0


def test_a_pause_makes_no_file_too_old(paths: Paths) -> None:
    """Of two files of the same age, that of the paused root is trained on; time before and after the pause counts."""
    now = time.time()
    for name, age in (("fresh.npz", 4000.0), ("old.npz", 8000.0)):
        path = episodes.write(paths.buffer, name, seed=int(age))
        os.utime(path, (now - age, now - age))
    pause_file.pause(paths, now - 3900.0)
    pause_file.resume(paths, now - 100.0)
    learner_runs.drain(paths.root, max_file_age=3600.0)

    assert learner_runs.trained(paths) == [("fresh.npz", 1)]
    assert "older than max_file_age" in learner_runs.reason(paths, "stale", "old.npz")


# The command


def test_a_root_that_is_none_is_refused(root: Path) -> None:
    """A misspelt --root is not made, and not paused."""
    for flags in (["--pause"], ["--resume"]):
        assert "no learner has worked here" in commands.run_tool(MONITOR, root / "misspelt", *flags, exit_code=2)
    (root / "data").mkdir()
    assert "not together" in commands.run_tool(MONITOR, root, "--pause", "--resume", exit_code=2)
    assert "was not paused" in commands.run_tool(MONITOR, root, "--resume")
    assert sorted(os.listdir(root)) == ["data"] and os.listdir(root / "data") == []
