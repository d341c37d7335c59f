"""What a monitor shows of one root: plain values, and how they are read without a lock and without changing anything."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from background_training.errors import ModelError, ModelMissingError
from background_training.monitor.folder_census import MEASURED_PER_LOOK, REST_FACTOR, FolderCensus, FolderFacts
from background_training.paths import Paths
from background_training.records import status
from background_training.records.disk_forecast import Forecast, ForecastWatch
from background_training.records.pause_file import Pause, PauseWatch
from background_training.storage import model_store
from background_training.storage.atomic_files import Signature, free_bytes, signature, signature_of


@dataclass(frozen=True)
class ModelFileFacts:
    """The published model; None if unknown, with the reason in `trouble`.

    version: read from the file itself, not from an older status.json.
    """

    path: str
    trouble: str = ""
    size_bytes: int | None = None
    modified: float | None = None
    version: int | None = None


@dataclass(frozen=True)
class StatusFacts:
    """The content of logs/status.json.

    content: as src/background_training/records/status.py writes it; None when there is none that can be read.
    is_there: whether there is a file at all.
    writer_is_gone: whether no process of this machine has its writer's process id.
    """

    content: Mapping[str, Any] | None
    is_there: bool = True
    writer_is_gone: bool = False


@dataclass(frozen=True)
class Snapshot:
    """Everything shown at one moment; times are in seconds since 1970, None if unknown."""

    started: float
    now: float
    buffer: FolderFacts
    archive: FolderFacts
    model: ModelFileFacts
    status: StatusFacts
    log_path: str
    log_lines: tuple[str, ...] = field(default=())
    free_disk_bytes: float | None = None
    disk: Forecast | None = None
    pause: Pause | None = None


LOG_LINES = 10
_TAIL_BYTES = 8192
_MODEL_REST_FACTOR = 100.0
"""Reading the model is followed by a rest of this many times its duration: 1 % of a core at most, however large it is."""


class Reader:
    """Looks at one root, again and again; status and log are read again only when their files have changed."""

    def __init__(
        self,
        paths: Paths,
        started: float,
        measured_per_look: int = MEASURED_PER_LOOK,
        *,
        rest_factor: float = REST_FACTOR,
        log_lines: int = LOG_LINES,
    ) -> None:
        """`started` is when the monitoring began, in seconds since 1970."""
        self._paths = paths
        self._started = started
        self._pauses = PauseWatch(paths)
        self._disk = ForecastWatch(paths)
        self._model = ModelWatch(paths.model)
        self._buffer, self._archive = (
            FolderCensus(folder, measured_per_look=measured_per_look, rest_factor=rest_factor)
            for folder in (paths.buffer, paths.archive)
        )
        self._log_lines = log_lines
        self._status_seen: Signature | None = None
        self._log_seen: Signature | None = None
        self._status = StatusFacts(None, is_there=False)
        self._log: tuple[str, ...] = ()

    def pause(self) -> Pause | None:
        """The user's pause alone, which costs one system call."""
        return self._pauses.look()

    def snapshot(self, now: float | None = None) -> Snapshot:
        """The present state at `now` (by default the wall clock). A fault of the machine is shown as text, never raised."""
        now = time.time() if now is None else now
        seen = _signature(self._paths.status)
        if seen is None or seen != self._status_seen:
            self._status, self._status_seen = status_facts(self._paths), seen
        elif self._status.content is not None:
            self._status = replace(self._status, writer_is_gone=status.writer_is_gone(self._status.content))
        seen = _signature(self._paths.training_log)
        if seen is None or seen != self._log_seen:
            self._log, self._log_seen = last_lines(self._paths.training_log, self._log_lines), seen
        return Snapshot(
            started=self._started,
            now=now,
            buffer=self._buffer.look(now),
            archive=self._archive.look(now),
            model=self._model.look(),
            status=self._status,
            log_path=str(self._paths.training_log),
            log_lines=self._log,
            free_disk_bytes=free_bytes(self._paths.root),
            disk=self._disk.look((self._status.content or {}).get("settings")),
            pause=self._pauses.look(),
        )


def _signature(path: Path) -> Signature | None:
    try:
        return signature(path)
    except OSError:
        return None


class ModelWatch:
    """The published model, read again only when its file has changed; a look without a change costs one lstat()."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self._path = path
        self._clock = clock
        self._seen: Signature | None = None
        self._due = float("-inf")
        self._facts = ModelFileFacts(str(path), "no model yet")

    def look(self) -> ModelFileFacts:
        """What is published now; a large model that changes often may be a moment old."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            return self._unread("no model yet")
        except OSError as error:
            return self._unread(f"can't be looked at: {error.strerror or error}")
        if not stat.S_ISREG(found.st_mode):
            return self._unread("not a regular file")
        begun = self._clock()
        if signature_of(found) != self._seen and begun >= self._due:
            self._facts = self._read(found)
            self._due = self._clock() + _MODEL_REST_FACTOR * (self._clock() - begun)
        return self._facts

    def _read(self, found: os.stat_result) -> ModelFileFacts:
        version, trouble = None, ""
        self._seen = signature_of(found)
        try:
            # As an agent reads it: otherwise a model that no game can load would be shown as valid.
            version = model_store.read(self._path, model_store.POLICY_KEYS).version
        except ModelMissingError:
            return self._unread("no model yet")
        except ModelError as error:
            trouble = f"can't be used: {error.found}"
        except OSError as error:
            trouble = f"can't be read: {error.strerror or error}"
            self._seen = None  # the next look may succeed
        return ModelFileFacts(str(self._path), trouble, found.st_size, found.st_mtime, version)

    def _unread(self, trouble: str) -> ModelFileFacts:
        self._seen, self._due = None, float("-inf")
        self._facts = ModelFileFacts(str(self._path), trouble)
        return self._facts


def status_facts(paths: Paths) -> StatusFacts:
    content = status.read(paths)
    if content is None:
        return StatusFacts(None, is_there=os.path.lexists(paths.status))
    return StatusFacts(content, writer_is_gone=status.writer_is_gone(content))


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
