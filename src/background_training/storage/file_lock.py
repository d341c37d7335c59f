"""Locks that end with their holder: one learner per root, and one process that changes its model."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from background_training.errors import AnotherLearnerError, LockUnavailableError, MachineError
from background_training.paths import Paths
from background_training.storage import atomic_files

FORMER_WORKER_SECONDS = 10.0
"""How long to wait for the worker of a learner that has ended or was killed; it ends soon after its parent."""
_FAULTS_OF_THE_MACHINE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EMFILE, errno.ENFILE)


class RootLock:
    """An exclusive lock on a file, held until `release`, the end of this object, or the death of this process.

    It guarantees that no two processes on this machine hold it at once, even if processes are killed. It gives no guarantee
    across machines; a folder that can't be locked is refused.
    """

    def __init__(self, path: Path) -> None:
        # Not thread-local: a learner that started on a full disk is locked by one thread and released by another.
        self._lock = filelock.FileLock(str(path), timeout=0, thread_local=False)
        self._held: os.stat_result | None = None

    def try_acquire(self) -> bool:
        """Take the lock; False if another process holds it.

        Raises:
            LockUnavailableError: the file system does not support locks.
            MachineError: the lock's file can't be made or opened.
        """
        try:
            self._lock.acquire()
        except filelock.Timeout:
            return False
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno in _FAULTS_OF_THE_MACHINE:
                raise MachineError(f"locking {self._lock.lock_file}", str(error)) from None
            raise LockUnavailableError(self._lock.lock_file, str(error)) from None
        if isinstance(self._lock, filelock.SoftFileLock) or not self._keeps_others_out():
            self._lock.release()
            raise LockUnavailableError(self._lock.lock_file, "a second holder was let in")
        self._held = os.stat(self._lock.lock_file)
        return True

    def wait_acquired(self, timeout_seconds: float) -> bool:
        """Take the lock as soon as it is released; False after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while not self.try_acquire():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def renew(self, timeout_seconds: float) -> bool:
        """Take the lock, again if its file was replaced, for example when the folder was deleted and recreated.

        Returns:
            Whether it had to be taken: cached facts about the folder may be outdated then.

        Raises:
            AnotherLearnerError: another process still holds it after the timeout.
            OSError: the machine failed; the folder is gone, say.
        """
        file = Path(self._lock.lock_file)
        owner = (
            "a former worker that has not ended" if self._held is None else "it began when the folder was deleted and made again"
        )
        if self._is_held():
            return False
        self.release()
        if not self.wait_acquired(timeout_seconds):
            raise AnotherLearnerError(str(file.parent.parent), owner)
        return True

    def check(self) -> None:
        """Check that the lock still excludes others.

        Raises:
            MachineError: its file has been removed or replaced.
        """
        if not self._is_held():
            raise MachineError(f"holding {self._lock.lock_file}", "the folder has been deleted, or made again, meanwhile")

    def _is_held(self) -> bool:
        """Whether the locked file still has its name."""
        file = Path(self._lock.lock_file)
        return self._held is not None and atomic_files.exists(file) and os.path.samestat(self._held, os.lstat(file))

    def release(self) -> None:
        self._held = None
        self._lock.release()

    def _keeps_others_out(self) -> bool:
        rival = filelock.FileLock(self._lock.lock_file, timeout=0)
        try:
            rival.acquire()
        except filelock.Timeout:
            return True
        except OSError:
            return False
        rival.release()
        return False


class LearnerLock:
    """The lock of the learner of a root, with a file that describes its holder."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._card = _card_path(paths)
        self._lock = RootLock(paths.learner_lock)

    def acquire(self) -> None:
        """Take the lock, or refuse at once.

        Raises:
            AnotherLearnerError: names the process that has it.
            LockUnavailableError: the folder can't be locked.
        """
        if not self._lock.try_acquire():
            raise AnotherLearnerError(str(self._paths.root), self._owner())
        try:
            self._write_card()
        except OSError:
            self._lock.release()
            raise

    def _write_card(self) -> None:
        card = {"pid": os.getpid(), "command": " ".join(sys.argv)[:200], "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        atomic_files.write_atomically(self._card, json.dumps(card).encode(), durable=False)

    def release(self) -> None:
        # The card first: a card without a holder could name an unrelated process later.
        with contextlib.suppress(OSError):
            atomic_files.remove_if_there(self._card)
        self._lock.release()

    def _owner(self) -> str:
        try:
            card = read_card(self._paths)
            return f"process {card['pid']} ({card['command']}), since {card['since']}"
        except KeyError:
            return "an unknown process"


@contextlib.contextmanager
def both_locks(paths: Paths) -> Iterator[None]:
    """Hold the learner's lock and the worker's, for a command that changes a root by itself.

    The learner's lock alone is not enough: the worker of a learner that was killed may still finish its batch.

    Raises:
        AnotherLearnerError: a learner runs here, or a former worker has not ended within FORMER_WORKER_SECONDS.
        LockUnavailableError, MachineError: as `RootLock.try_acquire` does.
    """
    learner_lock, worker_lock = LearnerLock(paths), RootLock(paths.worker_lock)
    learner_lock.acquire()
    try:
        if not worker_lock.wait_acquired(FORMER_WORKER_SECONDS):
            raise AnotherLearnerError(str(paths.root), "the worker of a learner that was killed still finishes its batch")
        yield
    finally:
        worker_lock.release()
        learner_lock.release()


def read_card(paths: Paths) -> dict[str, Any]:
    """Process id, command and start of the last holder of the lock. Empty if none, or after a regular end; a card does not
    prove that its process is running."""
    try:
        card = json.loads(atomic_files.read_regular_file(_card_path(paths), max_bytes=10_000))
    except (OSError, ValueError, OverflowError, RecursionError):
        return {}
    return card if isinstance(card, dict) else {}


def _card_path(paths: Paths) -> Path:
    return paths.data / ".learner.json"
