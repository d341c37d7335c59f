"""The machine fails while the learner runs: it waits, says what is wrong, and goes on by itself when the fault is gone."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import episodes
import learner_runs
import pytest
from conftest import wait_until
from fakes import Failing

from background_training.errors import AnotherLearnerError, MachineError
from background_training.learner import supervisor
from background_training.learner.worker import Worker
from background_training.paths import Paths
from background_training.records import status
from background_training.storage import atomic_files, model_store
from background_training.storage.file_lock import LearnerLock

pytestmark = pytest.mark.slow  # real processes

FOR_EVER = 3600.0


def _wait_trained(paths: Paths, *names: str) -> None:
    wait_until(lambda: set(names) <= {name for name, _ in learner_runs.trained(paths)})


def _told_once(paths: Paths, cause: str) -> list[str]:
    """What the log for people says of trouble: its beginning, unless the log itself could not be written, and its end."""
    pattern = r"^\[[-0-9]+ [:0-9]+\] Trouble (Began|Over): (?:after [.0-9]+ s, since [-0-9]+ [:0-9]+ \()?(.*?)\)?$"
    told = re.findall(pattern, paths.training_log.read_text("utf-8"), re.MULTILINE)
    assert all(cause in sentence for _, sentence in told), told
    assert [kind for kind, _ in told] in (["Began", "Over"], ["Over"]), told
    return [kind for kind, _ in told]


def _state(paths: Paths) -> str:
    return str((status.read(paths) or {"state": ""})["state"])


def test_a_buffer_removed_and_made_again_is_watched_again(paths: Paths) -> None:
    """Whoever cleans up by removing the folder must not make the learner deaf: an event still wakes it at once."""
    with learner_runs.learner(paths.root, rescan_seconds=FOR_EVER):
        for number in range(3):
            wait_until(lambda: _state(paths) == "idle")
            episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
            _wait_trained(paths, f"game_{number}.npz")
            wait_until(lambda: not os.listdir(paths.buffer))
            shutil.rmtree(paths.buffer)
            wait_until(paths.buffer.is_dir)

    assert [name for name, _ in learner_runs.trained(paths)] == ["game_0.npz", "game_1.npz", "game_2.npz"]


def test_a_whole_data_folder_that_vanishes_and_comes_back_costs_nothing(paths: Paths) -> None:
    """As when a network drive is gone for a while: what was trained stays trained, what waits is trained."""
    episodes.write(paths.buffer, "game_0.npz", seed=0)
    away = paths.root / "elsewhere"
    with learner_runs.learner(paths.root, rescan_seconds=0.1) as learner:
        _wait_trained(paths, "game_0.npz")
        wait_until(lambda: not os.listdir(paths.buffer))
        paths.data.rename(away)
        paths.data.write_text("nothing is mounted here")
        wait_until(lambda: learner.get_stats()["errors"] > 0)
        wait_until(lambda: _state(paths) == "waiting")
        told = learner.get_stats()
        episodes.write(away / "buffer", "game_1.npz", seed=1)
        paths.data.unlink()
        away.rename(paths.data)
        _wait_trained(paths, "game_1.npz")
        wait_until(lambda: _state(paths) == "idle")
        running = learner.running

    assert running
    assert str(paths.data) in told["last_error"] and told["files_processed"] == 1
    assert learner_runs.trained(paths) == [("game_0.npz", 1), ("game_1.npz", 2)]


def test_a_models_folder_that_is_no_folder_is_waited_for(paths: Paths) -> None:
    """Where the model can't be written nothing is trained, and nothing leaves the buffer, until it can."""
    with learner_runs.learner(paths.root, rescan_seconds=0.1) as learner:
        wait_until(lambda: _state(paths) == "idle")
        shutil.rmtree(paths.models)
        paths.models.write_text("not a folder")
        episodes.write(paths.buffer, "game.npz")
        wait_until(lambda: learner.get_stats()["errors"] >= 2)
        waiting = episodes.fates(paths)["buffer"]
        paths.models.unlink()
        _wait_trained(paths, "game.npz")

    assert waiting == ["game.npz"]
    assert model_store.read(paths.model).version == 1


def test_logs_that_can_not_be_written_do_not_stop_the_training(paths: Paths) -> None:
    """Log and status are for people; the learner starts and trains without them."""
    episodes.write(paths.buffer, "game.npz")
    with learner_runs.learner(paths.root) as learner:
        _wait_trained(paths, "game.npz")
        wait_until(lambda: learner.get_stats()["buffer_file_count"] == 0)
        paths.logs.rename(paths.root / "former logs")  # in one step: the worker may write its status at any moment
        paths.logs.write_text("not a folder")
        learner_runs.workers_of(os.getpid())[0].kill()
        wait_until(lambda: learner.get_stats()["worker_restarts"] == 1)
        paths.logs.unlink()
        episodes.write(paths.buffer, "later.npz", seed=1)
        _wait_trained(paths, "later.npz")

    assert learner_runs.trained(paths) == [("game.npz", 1), ("later.npz", 2)]


def test_a_worker_that_can_not_be_started_is_tried_again(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes or memory to spare: the learner waits and says so, for as long as it takes."""
    monkeypatch.setattr(supervisor, "_UNSTARTED_BACK_OFF_SECONDS", (0.01, 0.05))
    no_room = OSError(errno.EAGAIN, "no processes left")
    failing = Failing(subprocess.Popen, *[no_room] * 8)
    monkeypatch.setattr(subprocess, "Popen", failing)
    episodes.write(paths.buffer, "game.npz")
    with learner_runs.learner(paths.root) as learner:
        wait_until(lambda: learner.get_stats()["errors"] >= 1)
        told = learner.get_stats()["last_error"]
        _wait_trained(paths, "game.npz")

    assert "the worker process can't be started" in told and "no processes left" in told
    assert failing.calls == 9


@contextmanager
def _tiny_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of its own, of a few kilobytes; only root may have one."""
    folder.mkdir()
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", folder]).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """A disk that is really full: nothing is lost or trained twice, and when there is room again all goes on."""
    with _tiny_disk(tmp_path / "disk", kilobytes=600):
        paths = Paths(tmp_path / "disk" / "root")
        with learner_runs.learner(paths.root, rescan_seconds=0.1) as learner:
            wait_until(lambda: _state(paths) == "idle")
            ballast = tmp_path / "disk" / "ballast"
            for number in range(3):
                episodes.write(paths.buffer, f".game_{number}.npz", seed=number)
            _fill(ballast)
            for number in range(3):
                (paths.buffer / f".game_{number}.npz").rename(paths.buffer / f"game_{number}.npz")
            wait_until(lambda: learner.get_stats()["errors"] >= 2)
            told = learner.get_stats()["last_error"]
            trained_while_full = learner_runs.trained(paths)
            ballast.unlink()
            _wait_trained(paths, "game_0.npz", "game_1.npz", "game_2.npz")
            wait_until(lambda: not os.listdir(paths.buffer))
            running = learner.running

        assert running
        assert os.strerror(errno.ENOSPC) in told
        assert trained_while_full == []
        _told_once(paths, os.strerror(errno.ENOSPC))
        assert {version for _, version in learner_runs.trained(paths)} == {1}


def test_a_disk_that_is_full_from_the_start_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bot plays on, the learner says what is wrong, and begins by itself when there is room."""
    monkeypatch.setattr(supervisor, "_UNSTARTED_BACK_OFF_SECONDS", (0.1, 0.2))
    with _tiny_disk(tmp_path / "disk", kilobytes=600):
        paths = Paths(tmp_path / "disk" / "root")
        paths.buffer.mkdir(parents=True)
        episodes.write(paths.buffer, "game.npz")
        ballast = tmp_path / "disk" / "ballast"
        _fill(ballast)
        with learner_runs.learner(paths.root, rescan_seconds=0.1) as learner:
            wait_until(lambda: learner.get_stats()["errors"] >= 2)
            told, running = learner.get_stats()["last_error"], learner.running
            ballast.unlink()
            _wait_trained(paths, "game.npz")
            with pytest.raises(AnotherLearnerError):
                learner_runs.learner(paths.root).start()
        with learner_runs.learner(paths.root) as following:
            wait_until(lambda: following.get_stats()["files_processed"] == 1)

        assert running and os.strerror(errno.ENOSPC) in told
        assert learner_runs.trained(paths) == [("game.npz", 1)]
        _told_once(paths, os.strerror(errno.ENOSPC))


def test_a_folder_that_may_not_be_written_yet_is_waited_for(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not permitted at the start is not permitted for ever; the lock is taken by the learner's own thread then."""
    monkeypatch.setattr(supervisor, "_UNSTARTED_BACK_OFF_SECONDS", (0.01, 0.05))
    refused = OSError(errno.EACCES, os.strerror(errno.EACCES), str(paths.learner_lock))
    acquire = Failing(LearnerLock.acquire, refused, refused, refused)
    monkeypatch.setattr(LearnerLock, "acquire", lambda lock: acquire(lock))
    episodes.write(paths.buffer, "game.npz")
    with learner_runs.learner(paths.root) as learner:
        wait_until(lambda: learner.get_stats()["files_processed"] == 1)
        counts = learner.get_stats()

    assert counts["errors"] == 2 and "the learner can't start yet" in counts["last_error"]
    assert _told_once(paths, os.strerror(errno.EACCES)) == ["Began", "Over"]
    LearnerLock(paths).acquire()


def test_a_learner_that_waits_for_room_gives_way_to_another(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When somebody else has taken the root meanwhile, there is nothing to wait for, and nothing of theirs is touched."""
    monkeypatch.setattr(supervisor, "_UNSTARTED_BACK_OFF_SECONDS", (0.01, 0.05))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    other = AnotherLearnerError(str(paths.root), "process 1")
    acquire = Failing(LearnerLock.acquire, full, full, other)
    monkeypatch.setattr(LearnerLock, "acquire", lambda lock: acquire(lock))
    learner = learner_runs.learner(paths.root)
    assert learner.start()
    try:
        wait_until(lambda: not learner.running)
    finally:
        learner.stop()

    assert "Background learner stopped: another learner is at work" in capsys.readouterr().out
    assert not atomic_files.exists(paths.ledger)


def _fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC


class _Heard:
    """What a worker tells, kept."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))

    def sentences(self, event: str) -> list[str]:
        return [facts["sentence"] for kind, facts in self.events if kind == event]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_a_write_that_fails_for_a_while_is_reported_and_done_again(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever error it is: said, counted, and the state is "waiting"; then it passes and the batch is trained once."""
    monkeypatch.setattr("background_training.learner.worker.LONGEST_BACK_OFF_SECONDS", 0.01)
    error = OSError(number, os.strerror(number), str(paths.model))
    monkeypatch.setattr(model_store, "commit", Failing(model_store.commit, error, error))
    episodes.write(paths.buffer, "game.npz")
    states: list[str] = []
    real_write = status.write

    def write(paths: Paths, state: str, stats: Any, **more: Any) -> None:
        states.append(state)
        real_write(paths, state, stats, **more)

    monkeypatch.setattr(status, "write", write)
    heard = _Heard()
    worker = Worker(learner_runs.settings(paths.root, rescan_seconds=0.05), heard, careful=False, deadly={})

    def tell(event: str, **facts: Any) -> None:
        heard(event, **facts)
        if learner_runs.trained(paths) and not os.listdir(paths.buffer):
            worker.stop()

    worker._send = tell
    worker.run()

    assert learner_runs.trained(paths) == [("game.npz", 1)]
    assert len(heard.sentences("trouble")) == 2
    assert all(os.strerror(number) in sentence for sentence in heard.sentences("trouble"))
    assert "waiting" in states and states[-1] in ("idle", "training")
    assert _told_once(paths, os.strerror(number)) == ["Began", "Over"]


def test_the_back_off_grows_and_is_bounded(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that lasts is asked after less and less often, but never less often than every half a minute."""
    heard = _Heard()
    worker = Worker(learner_runs.settings(paths.root), heard, careful=False, deadly={})
    for _ in range(10):
        worker._note_failure("the disk is full")

    waits = [facts["retry_seconds"] for event, facts in heard.events if event == "trouble"]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits[-1] == 30.0


def test_a_drain_on_a_failing_machine_ends_with_its_own_code(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script can tell a full disk from a bug; what was committed before stays."""
    for number in range(6):
        episodes.write(paths.buffer, f"game_{number}.npz", seed=number)
    real = model_store.commit
    calls = []

    def commit(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments, **options)

    monkeypatch.setattr(model_store, "commit", commit)
    with pytest.raises(MachineError, match="No space left"):
        learner_runs.drain(paths.root)

    assert len(learner_runs.trained(paths)) == 3
    assert learner_runs.drain(paths.root)["files_processed"] == 6


def test_an_unreadable_status_is_no_status(paths: Paths) -> None:
    """A monitor that reads in a bad moment shows nothing rather than falling over."""
    paths.status.write_text('{"schema": 1, "state": ')

    assert status.read(paths) is None
    assert atomic_files.exists(paths.status)
