"""Reads what a monitor shows of a root; changes nothing there, locks nothing, and takes whatever it finds for possible."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from local_training.free_disk import free_bytes
from local_training.paths import Paths
from local_training.pausing import PauseWatch
from tools.learner import status
from tools.monitor.folder_census import MEASURED_PER_LOOK, FolderCensus
from tools.monitor.snapshot import ModelFileFacts, Snapshot, StatusFacts

LOG_LINES = 10
_TAIL_BYTES = 8192


class Reader:
    """Looks at one root, again and again."""

    def __init__(self, paths: Paths, started: float, measured_per_look: int = MEASURED_PER_LOOK) -> None:
        """`started` is when the monitoring began, in seconds since 1970."""
        self._paths = paths
        self._started = started
        self._pauses = PauseWatch(paths)
        self._buffer = FolderCensus(paths.buffer, measured_per_look=measured_per_look)
        self._archive = FolderCensus(paths.archive, measured_per_look=measured_per_look)

    def snapshot(self) -> Snapshot:
        """What there is to see now. A fault of the machine becomes a word on the screen, never an exception."""
        now = time.time()
        return Snapshot(
            started=self._started,
            now=now,
            buffer=self._buffer.look(now),
            archive=self._archive.look(now),
            model=model_facts(self._paths.model),
            status=status_facts(self._paths),
            log_path=str(self._paths.training_log),
            log_lines=last_lines(self._paths.training_log, LOG_LINES),
            free_disk_bytes=free_bytes(self._paths.root),
            pause=self._pauses.look(),
        )


def model_facts(path: Path) -> ModelFileFacts:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ModelFileFacts(str(path), "no model yet")
    except OSError as error:
        return ModelFileFacts(str(path), f"can't be looked at: {error.strerror or error}")
    if not stat.S_ISREG(found.st_mode):
        return ModelFileFacts(str(path), "not a regular file")
    return ModelFileFacts(str(path), size_bytes=found.st_size, modified=found.st_mtime)


def status_facts(paths: Paths) -> StatusFacts:
    content = status.read(paths)
    if content is None:
        return StatusFacts(None, is_there=os.path.lexists(paths.status))
    return StatusFacts(content, writer_is_gone=writer_is_gone(content))


def writer_is_gone(content: Mapping[str, Any]) -> bool:
    """Whether no process of this machine bears the number of a status's writer."""
    pid = content.get("writer_pid")
    return isinstance(pid, int) and 0 < pid < 2**31 and not psutil.pid_exists(pid)


def last_lines(path: Path, count: int) -> tuple[str, ...]:
    """The last lines of a text file, from its end only; none if there is no such file."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return ()  # opening a pipe would wait for its writer
        with open(path, "rb") as file:
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ()
    # By line feeds only: splitlines() would also break at signs that a hostile text may hold.
    return tuple(line.rstrip("\r") for line in text.rstrip("\n").split("\n")[-count:] if line)
