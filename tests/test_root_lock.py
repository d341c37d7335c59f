"""One learner per root: refused at once and by name, and free again however the holder dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import episodes
import filelock
import learner_runs
import pytest
from conftest import PATIENCE_SECONDS, wait_until
from fakes import Failing

from background_training.commands import rollback, widen
from background_training.errors import AnotherLearnerError, LockUnavailableError, MachineError
from background_training.learner.trainer import Precautions, open_trainer
from background_training.paths import CHECKOUT, Paths
from background_training.storage import file_lock
from background_training.storage.file_lock import LearnerLock, RootLock

HOLDER = """
import sys, time
from pathlib import Path
from background_training.paths import Paths
from background_training.storage.file_lock import LearnerLock
lock = LearnerLock(Paths(Path(sys.argv[1])))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(paths: Paths) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(paths.root)], stdout=subprocess.PIPE, cwd=CHECKOUT)
    assert process.stdout is not None and process.stdout.readline().strip() == b"held"
    yield process
    process.kill()
    process.communicate()


def test_a_second_learner_is_refused_with_the_first_ones_process(paths: Paths, holder: subprocess.Popen[bytes]):
    """The message says who, where, and what to do."""
    with pytest.raises(AnotherLearnerError) as caught:
        LearnerLock(paths).acquire()

    assert f"process {holder.pid} " in str(caught.value) and str(paths.root) in str(caught.value)
    assert caught.value.exit_code == 3


def test_the_lock_dies_with_its_holder(paths: Paths, holder: subprocess.Popen[bytes]):
    """Killed without a chance to tidy up, it blocks nobody."""
    holder.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    holder.wait(PATIENCE_SECONDS)
    lock = LearnerLock(paths)

    lock.acquire()

    lock.release()


def test_another_root_is_another_lock(paths: Paths, holder: subprocess.Popen[bytes]):
    """Two games learn side by side."""
    other = Paths(paths.root / "other")
    other.data.mkdir(parents=True)
    lock = LearnerLock(other)

    lock.acquire()

    lock.release()


def test_the_card_names_this_process_and_goes_with_the_lock(paths: Paths):
    """A card left behind would accuse a stranger later."""
    lock = LearnerLock(paths)
    lock.acquire()
    card = paths.data / ".learner.json"
    assert json.loads(card.read_text())["pid"] == os.getpid()

    lock.release()

    assert not card.exists()


@pytest.mark.parametrize("card", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff" * 20_000])
def test_a_broken_card_changes_nothing_but_the_words(card: bytes, paths: Paths, holder: subprocess.Popen[bytes]):
    """The lock decides; the card is only used for the message."""
    (paths.data / ".learner.json").write_bytes(card)

    with pytest.raises(AnotherLearnerError, match="an unknown process"):
        LearnerLock(paths).acquire()


def test_one_process_can_not_hold_it_twice(paths: Paths):
    """Two learners in one program are two learners."""
    first, second = RootLock(paths.worker_lock), RootLock(paths.worker_lock)
    assert first.try_acquire()

    assert not second.try_acquire()

    first.release()
    assert second.try_acquire()
    second.release()


def test_waiting_ends_when_the_holder_dies_or_the_time_is_up(paths: Paths, holder: subprocess.Popen[bytes]):
    """A worker waits for its killed predecessor, but not for ever."""
    lock = RootLock(paths.learner_lock)
    assert not lock.wait_acquired(0.1)
    holder.kill()

    assert lock.wait_acquired(PATIENCE_SECONDS)

    lock.release()
    wait_until(lambda: holder.poll() is not None)


@pytest.mark.parametrize("error", [OSError(37, "no locks available"), NotImplementedError("no flock")])
def test_a_folder_that_can_not_be_locked_is_refused(error: Exception, paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """Without proof of being alone, nobody trains."""
    monkeypatch.setattr(filelock.FileLock, "acquire", Failing(filelock.FileLock.acquire, error))

    with pytest.raises(LockUnavailableError, match=r"can't be locked .*local disk") as caught:
        RootLock(paths.worker_lock).try_acquire()

    assert caught.value.exit_code == 4


def test_a_lock_that_lets_a_second_holder_in_is_refused(paths: Paths, monkeypatch: pytest.MonkeyPatch):
    """Some network drives say yes to everybody; that is found out at once."""
    monkeypatch.setattr(
        filelock.FileLock, "_acquire", lambda self: setattr(self._context, "lock_file_fd", os.open(os.devnull, 0))
    )
    monkeypatch.setattr(filelock.FileLock, "_release", lambda self: os.close(self._context.lock_file_fd))

    with pytest.raises(LockUnavailableError, match="a second holder was let in"):
        RootLock(paths.worker_lock).try_acquire()


@pytest.mark.skipif(os.name != "posix", reason="a folder with an open lock in it can't be deleted on this system")
def test_a_lock_whose_folder_was_made_anew_says_that_it_holds_nothing(paths: Paths):
    """Between two looks, others may have come; taking it again tells that what was known may no longer be true."""
    lock = RootLock(paths.worker_lock)
    assert lock.renew(1.0) and not lock.renew(1.0)
    lock.check()

    shutil.rmtree(paths.data)
    with pytest.raises(MachineError, match="deleted, or made again"):
        lock.check()
    paths.data.mkdir()
    rival = RootLock(paths.worker_lock)
    assert rival.try_acquire()
    with pytest.raises(MachineError, match="deleted, or made again"):
        lock.check()
    rival.release()

    assert lock.renew(1.0) and not lock.renew(1.0)
    lock.release()


@pytest.mark.skipif(os.name != "posix", reason="a folder with an open lock in it can't be deleted on this system")
def test_nothing_is_committed_when_the_folder_is_made_anew_within_a_batch(paths: Paths):
    """Another learner may hold the new folder, and train on the same episodes there."""
    lock = RootLock(paths.worker_lock)
    assert lock.try_acquire()
    waiting = [episodes.write(paths.buffer, f"game_{number}.npz", seed=number) for number in range(2)]

    def make_anew(names: Sequence[str]) -> None:
        copies = [path.read_bytes() for path in waiting]
        shutil.rmtree(paths.data)
        paths.buffer.mkdir(parents=True)
        for path, data in zip(waiting, copies, strict=True):
            path.write_bytes(data)

    precautions = Precautions(lambda name: None, make_anew, lock=lock)
    trainer, _ = open_trainer(
        paths, learner_runs.settings(paths.root), lambda event, **facts: None, patient=False, precautions=precautions
    )
    assert trainer.take_snapshot() == 2
    with pytest.raises(MachineError, match="deleted, or made again"):
        trainer.train_next_batch()

    assert not paths.model.exists() and not paths.ledger.exists()
    assert sorted(path.name for path in paths.buffer.iterdir()) == ["game_0.npz", "game_1.npz"]
    lock.release()


@pytest.mark.parametrize(("command", "arguments"), [(rollback, ["1"]), (widen, ["--add-feature", "gas"])])
def test_a_command_that_publishes_waits_for_a_former_worker(paths: Paths, command, arguments, monkeypatch, capsys) -> None:
    """A killed learner's worker may still commit its batch: then nothing is published beside it."""
    episodes.write(paths.buffer, "game.npz", seed=1)
    learner_runs.drain(paths.root)
    before = paths.model.read_bytes()
    worker_lock = RootLock(paths.worker_lock)
    assert worker_lock.try_acquire()
    monkeypatch.setattr(file_lock, "FORMER_WORKER_SECONDS", 0.0)

    code = command.main([*arguments, "--root", str(paths.root)])

    worker_lock.release()
    assert code == 3 and "still finishes its batch" in capsys.readouterr().err
    assert paths.model.read_bytes() == before
    assert LearnerLock(paths).acquire() is None
