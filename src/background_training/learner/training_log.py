"""logs/background_training.log: one block per batch, and lines about faults, for people. Bounded by rotation, never fatal."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from background_training.paths import Paths
from background_training.storage import atomic_files

logger = logging.getLogger(__name__)

RULE = "-" * 60
_TAIL_BYTES = 1 << 16
_OLD_LOGS = 3


def block(moment: float, facts: Sequence[tuple[str, str]]) -> str:
    """One block of the log.

    Args:
        moment: seconds since 1970.
        facts: key and value of each line, in order.
    """
    lines = [f"  {key + ':':<17}{value}" for key, value in facts]
    return "\n".join([f"[{stamp(moment)}] Batch Training Complete", *lines, RULE]) + "\n"


def line(moment: float, sentence: str) -> str:
    """A line between two blocks."""
    return f"[{stamp(moment)}] {sentence}\n"


def stamp(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


class TrainingLog:
    """Appends blocks; when the file has grown too long it becomes .1, the former .1 becomes .2, and so on."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes

    def add(self, text: str) -> None:
        """Append a block. A failure is logged and does not stop the training."""
        try:
            self._rotate_if_full()
            atomic_files.append_whole(self._path, text.encode("utf-8", "backslashreplace"), durable=False)
        except OSError as error:
            logger.warning("training log not written: %s", error)

    def has_version(self, version: int) -> bool:
        """Whether the end of the log has a block of this version; after a crash, so that none is written twice.

        After a rotation the newest block may be the last one of the rotated file.
        """
        wanted = f"{'  Model Version:':<19}{version}\n"
        return any(wanted in _tail(path) for path in (self._path, self._path.with_name(f"{self._path.name}.1")))

    def _rotate_if_full(self) -> None:
        try:
            if os.stat(self._path).st_size < self._max_bytes:
                return
        except FileNotFoundError:
            return
        for number in range(_OLD_LOGS - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if atomic_files.exists(older):
                os.replace(older, self._path.with_name(f"{self._path.name}.{number + 1}"))
        atomic_files.retry_while_shared(lambda: os.replace(self._path, self._path.with_name(f"{self._path.name}.1")))


def _tail(path: Path) -> str:
    """The last blocks of a log; empty if it can't be read."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


class TroubleLog:
    """Writes one line when a fault of the machine starts and one when it is over.

    On a full disk the first line is lost, so the last one repeats its text.
    """

    def __init__(
        self, paths: Paths, log_bytes: int, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = TrainingLog(paths.training_log, log_bytes)
        self._now = now
        self._monotonic = monotonic
        self._began: tuple[float, float, str] | None = None

    def failed(self, sentence: str) -> None:
        """Log a fault, if none was logged before."""
        if self._began is None:
            moment = self._now()
            in_one_line = " ".join(sentence.split())
            self._began = moment, self._monotonic(), in_one_line
            self._log.add(line(moment, f"Trouble Began: {in_one_line}"))

    def recovered(self) -> None:
        """Log the end of a fault, if one was logged."""
        if self._began is not None:
            moment, since, fault = self._began
            self._began = None
            lasted = f"after {self._monotonic() - since:.1f} s, since {stamp(moment)}"
            self._log.add(line(self._now(), f"Trouble Over: {lasted} ({fault})"))
