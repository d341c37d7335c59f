"""Every monitor shows the published model and a running learner's state, whatever an old status.json says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import episodes
import learner_runs
import pytest
from conftest import PATIENCE_SECONDS, wait_until

from background_training.monitor import dashboard, learner_state
from background_training.monitor.facts import ModelFileFacts, ModelWatch, Reader, Snapshot, StatusFacts
from background_training.monitor.folder_census import FolderFacts
from background_training.monitor.terminal.live_facts import LiveReader
from background_training.monitor.web import facts, view
from background_training.paths import CHECKOUT, Paths
from background_training.records import status
from background_training.records.status import EMPTY_STATS
from background_training.storage import model_store

pytestmark = pytest.mark.slow  # real processes

LIVE = {"governor": "giving way: other programs use 97 %", "active_workers": 2, "max_workers": 2, "workers_allowed": 1}
GOVERNED = {"state": "giving way", "reason": "other programs use 97 %"}


def _shown(paths: Paths) -> dict[str, str]:
    """What each monitor shows of a root, as text."""
    snapshot = Reader(paths, time.time()).snapshot()
    live = LiveReader(paths, time.time()).look()
    assert live is not None
    screen = pytest.importorskip("background_training.monitor.terminal.screen", reason="rich is not installed")
    rows = screen.screen(live, 160, 60, screen.BLOCKS)
    page = view.view(facts.Watcher(paths).look(), {})
    return {
        "plain": "\n".join(line.text for line in dashboard.lines(snapshot)),
        "live": "\n".join(row.plain for row in rows),
        "page": "\n".join(f"{label}: {value}" for label, value in page.tiles) + "\n".join(item.seen for item in page.advice),
    }


def _train(paths: Paths, versions: int) -> None:
    for version in range(versions):
        episodes.write(paths.buffer, f"game {version}.npz", seed=version)
        learner_runs.drain(paths.root)


def _assert_version(paths: Paths, version: int) -> None:
    shown = _shown(paths)
    assert f"Version:      {version}" in shown["plain"]
    assert f"version {version}, " in shown["live"]
    assert f"Version: {version}\n" in shown["page"]


def _assert_nothing_live(paths: Paths) -> None:
    shown = _shown(paths)
    assert "Governor:     -" in shown["plain"] and "Governor: -" in shown["page"] and "Governor" not in shown["live"]
    for text in shown.values():
        assert "giving way" not in text and "97 %" not in text and "of a core" not in text
    assert "2/2 active" not in shown["plain"] + shown["live"] and "2 of 2" not in shown["page"]


def _write_status(paths: Paths, state: str, age_seconds: float = 0.0, **more: Any) -> None:
    stats = {**EMPTY_STATS, **LIVE, "model_version": 3}
    content = {"schema": 1, "state": state, "updated_at": time.time() - age_seconds, "stats": stats, "governor": GOVERNED}
    paths.status.write_text(json.dumps({**content, "writer_pid": os.getpid(), **more}), "utf-8")


# The version


def test_a_rollback_is_shown_while_no_learner_runs(paths: Paths) -> None:
    """The status still holds the version before the rollback; the model file holds the one that games play with."""
    _train(paths, 3)
    command = [sys.executable, str(CHECKOUT / "tools" / "rollback_model.py"), "1", "--root", str(paths.root)]
    subprocess.run(command, check=True, capture_output=True, env=learner_runs.environment(), timeout=PATIENCE_SECONDS)
    content = status.read(paths)
    assert content is not None and content["stats"]["model_version"] == 3
    _assert_version(paths, 4)
    once = [sys.executable, str(CHECKOUT / "tools" / "monitor_background_training.py"), "--once", "--root", str(paths.root)]
    done = subprocess.run(once, capture_output=True, encoding="utf-8", timeout=PATIENCE_SECONDS)
    assert "Version:      4\n" in done.stdout


def test_an_older_model_that_was_copied_back_is_shown(paths: Paths) -> None:
    """A version may also become smaller: what counts is the file, and not the largest number seen."""
    _train(paths, 3)
    watch = ModelWatch(paths.model)
    assert watch.look().version == 3
    shutil.copy(model_store.history_path(paths, 2), paths.model)
    wait_until(lambda: watch.look().version == 2)
    _assert_version(paths, 2)


def test_a_root_without_a_model_shows_no_version(paths: Paths) -> None:
    """A model that was moved away is not shown with the version that a status remembers."""
    _write_status(paths, "stopped")
    shown = _shown(paths)
    assert "no model yet" in shown["plain"] and "Version:" not in shown["plain"]
    assert "no model yet" in shown["live"] and "version 3" not in shown["live"]
    assert "Version: -\n" in shown["page"]


@pytest.mark.parametrize("damage", ["cut", "not a model", "not finite"])
def test_a_broken_model_shows_why_it_has_no_version(paths: Paths, damage: str) -> None:
    """No game can play with it, so that no version is published; the monitors say so and name the fault."""
    _train(paths, 1)
    whole = paths.model.read_bytes()
    if damage == "not finite":
        model = model_store.unpack(whole, "model")
        paths.model.write_bytes(model_store.pack({**model.arrays, "b3": model.arrays["b3"] * float("inf")}, 1, model.manifest))
    else:
        paths.model.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"a letter")
    shown = _shown(paths)
    assert "Version:      unknown" in shown["plain"] and "Version: -\n" in shown["page"] and "version 1" not in shown["live"]
    assert all("can't be used: " in text for text in shown.values())


def test_a_model_is_read_once_for_each_change_and_with_rests(paths: Paths) -> None:
    """A look without a change reads nothing; after a read that took a second, the next may come 100 s later."""
    _train(paths, 1)
    moment = [0.0]

    def clock() -> float:
        moment[0] += 0.5
        return moment[0]

    watch = ModelWatch(paths.model, clock)
    first = watch.look()
    assert first.version == 1 and watch.look() is first
    episodes.write(paths.buffer, "another.npz", seed=9)
    learner_runs.drain(paths.root)
    assert watch.look() is first
    moment[0] += 100.0
    assert watch.look().version == 2


def test_a_learner_that_does_not_run_tells_the_published_version(paths: Paths) -> None:
    """get_stats() before the start and after the stop: the model file is what counts, as others may publish."""
    _train(paths, 2)
    learner = learner_runs.learner(paths.root)
    assert learner.get_stats()["model_version"] == 2
    learner.start()
    try:
        episodes.write(paths.buffer, "third.npz", seed=7)
        wait_until(lambda: learner.get_stats()["files_processed"] == 3)
        assert learner.get_stats()["model_version"] == 3
    finally:
        learner.stop()
    shutil.copy(model_store.history_path(paths, 2), paths.model)
    stats = learner.get_stats()
    assert (stats["model_version"], stats["governor"], stats["active_workers"]) == (2, "", 0)
    paths.model.write_bytes(b"broken")
    assert learner.get_stats()["model_version"] == 3


# What is true of a running learner only


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_stopped_learner_shows_no_throttle(paths: Paths, state: str) -> None:
    """Also where its last status, as earlier versions of this project wrote it, still holds one."""
    _write_status(paths, state)
    _assert_nothing_live(paths)
    assert "0/2 active" in _shown(paths)["plain"]


@pytest.mark.parametrize("age_seconds", [60.0, 1e6, 1e9])
def test_a_silent_learner_shows_no_throttle(paths: Paths, age_seconds: float) -> None:
    """It was giving way a minute ago; whether it still does, or exists at all, is unknown."""
    _write_status(paths, "paused", age_seconds)
    _assert_nothing_live(paths)
    assert "?/2 active" in _shown(paths)["plain"]


def test_a_running_learner_shows_its_throttle(paths: Paths) -> None:
    """Why training is slow is what a person looks for."""
    _write_status(paths, "paused", 1.0)
    assert all("giving way: other programs use 97 %" in text for text in _shown(paths).values())


def test_a_killed_learner_shows_no_throttle_at_once(paths: Paths) -> None:
    """Killed with all its processes, it could not write that it ended; its process is gone, and with it its state."""
    _train(paths, 2)
    learner = learner_runs.started_command(paths.root, "--quiet")
    try:
        wait_until(lambda: _state(paths) == "idle")
        before = Reader(paths, time.time()).snapshot()
        assert learner_state.is_running(before.status, before.now) and learner_state.throttle(before)[0] == "off"
        workers = learner_runs.workers_of(learner.pid)
        for process in workers:
            process.send_signal(getattr(signal, "SIGSTOP", signal.SIGTERM))  # it must not write that it ended
    finally:
        learner.kill()
        learner.communicate()
    for process in workers:
        process.kill()
        process.wait(PATIENCE_SECONDS)
    _assert_nothing_live(paths)
    _assert_version(paths, 2)


def _state(paths: Paths) -> object:
    return (status.read(paths) or {}).get("state")


@pytest.mark.parametrize("stats", [{}, {"governor": None}, {"governor": ["giving way"], "active_workers": "two"}, 5, None])
def test_any_stats_are_taken(stats: Mapping[str, Any] | int | None) -> None:
    """What is missing or of another type is shown as it is, or left out."""
    content = {"state": "idle", "updated_at": 100.0, "stats": stats, "governor": 7}
    model = ModelFileFacts("m", version=4)
    empty = FolderFacts("b")
    snapshot = Snapshot(0.0, 101.0, empty, empty, model, StatusFacts(content), "log")
    found = learner_state.current_stats(snapshot)
    assert found == ({**stats, "model_version": 4} if isinstance(stats, dict) else {})
    assert isinstance(learner_state.throttle(snapshot)[0], str)
