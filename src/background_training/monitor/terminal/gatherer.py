"""Everything that the live screen shows of a root, looked at many times a second: what has not changed is not read again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from background_training.monitor import facts
from background_training.monitor.facts import Snapshot, StatusFacts
from background_training.monitor.folder_census import FolderCensus
from background_training.monitor.history import Floats, Learning, learning, whole_run
from background_training.monitor.replays import ReplayCensus, ReplayProgress
from background_training.monitor.terminal.flow import Flow, Rates
from background_training.paths import Paths
from background_training.records.disk_forecast import ForecastWatch
from background_training.records.metrics import MetricsReader
from background_training.records.pause_file import PauseWatch
from background_training.storage.atomic_files import Signature, free_bytes, signature

LOG_LINES = 40
NEWS_SECONDS = 0.5
_WHOLE_RUN_SECONDS = 3.0
_MEASURED_PER_LOOK = 5_000
_REST_FACTOR = 400.0
"""A census that took long is followed by so many times its length of rest: two folders cost half a percent of a core at most."""


@dataclass(frozen=True)
class LiveFacts:
    """One look.

    root: what a person would give to --root.
    all_games, whole_run: how many games there were, and means of their returns, from the first to the last.
    """

    root: str
    snapshot: Snapshot
    learning: Learning = field(default_factory=Learning)
    all_games: int = 0
    whole_run: Floats = field(default_factory=lambda: np.empty(0))
    rates: Rates | None = None
    replays: ReplayProgress | None = None


@dataclass
class _Watched:
    """A file, and what it was like when it was last read."""

    path: Path
    seen: Signature | None = field(default=(-1, -1, -1))

    def has_changed(self) -> bool:
        try:
            now = signature(self.path)
        except OSError:
            now = None
        changed, self.seen = now != self.seen, now
        return changed


class Gatherer:
    """Looks at one root; a look without news costs some questions to the file system, and changes nothing there."""

    def __init__(self, paths: Paths, started: float, clock: Callable[[], float] = time.time) -> None:
        """`started` is when the monitoring began, in seconds since 1970."""
        self._paths = paths
        self._started = started
        self._clock = clock
        self._buffer, self._archive = (
            FolderCensus(folder, measured_per_look=_MEASURED_PER_LOOK, rest_factor=_REST_FACTOR)
            for folder in (paths.buffer, paths.archive)
        )
        self._replays = ReplayCensus(paths)
        self._pauses = PauseWatch(paths)
        self._disk = ForecastWatch(paths)
        self._model = facts.ModelWatch(paths.model)
        self._metrics = MetricsReader(paths)
        self._flow = Flow()
        self._status_file, self._log_file = _Watched(paths.status), _Watched(paths.training_log)
        self._status = StatusFacts(None, is_there=False)
        self._log: tuple[str, ...] = ()
        self._learning = Learning()
        self._whole_run = whole_run(self._metrics.games)
        self._whole_run_due = float("-inf")
        self._whole_run_mark: object = None
        self._second: int | None = None
        self._news_due = float("-inf")
        self._last: LiveFacts | None = None

    def look(self) -> LiveFacts | None:
        """What there is to see now; None if it is what the look before saw, within the same second.

        A pause is news at once. What the learner writes is read twice a second at most, as it may train more batches.
        """
        now = self._clock()
        pause = self._pauses.look()
        news = self._read_news(now) or self._last is None or pause != self._last.snapshot.pause
        anew = int(now) != self._second
        if not news and not anew:
            return None
        self._second = int(now)
        last = self._last.snapshot if self._last else None
        content = self._status.content or {}
        # Once a second: what has to be asked of the system each time.
        status = replace(self._status, writer_is_gone=facts.writer_is_gone(content)) if anew else self._status
        self._status = status
        snapshot = Snapshot(
            started=self._started,
            now=now,
            buffer=self._buffer.look(now) if anew or last is None else last.buffer,
            archive=self._archive.look(now) if anew or last is None else last.archive,
            model=self._model.look(),
            status=status,
            log_path=str(self._paths.training_log),
            log_lines=self._log,
            free_disk_bytes=free_bytes(self._paths.root) if anew or last is None else last.free_disk_bytes,
            disk=self._disk.look(content.get("settings")),
            pause=pause,
        )
        root = os.fspath(self._paths.root)
        replays = self._replays.look(content.get("settings"))
        self._last = LiveFacts(root, snapshot, self._learning, *self._looked_back(), self._flow.rates(now), replays)
        return self._last

    def _looked_back(self) -> tuple[int, Floats]:
        """The whole run; now and then only, as it may be long."""
        begun, mark = time.perf_counter(), (self._metrics.edition, len(self._metrics.games))
        if mark != self._whole_run_mark and begun >= self._whole_run_due:
            self._whole_run, self._whole_run_mark = whole_run(self._metrics.games), mark
            self._whole_run_due = begun + max(_WHOLE_RUN_SECONDS, _REST_FACTOR * (time.perf_counter() - begun))
        return self._whole_run

    def _read_news(self, now: float) -> bool:
        if 0 <= self._news_due - now <= NEWS_SECONDS:
            return False
        status, log = self._status_file.has_changed(), self._log_file.has_changed()
        history = self._metrics.look()
        if status:
            self._status = facts.status_facts(self._paths)
            self._flow.note(self._status.content or {})
        if log:
            self._log = facts.last_lines(self._paths.training_log, LOG_LINES)
        if status or log or history:
            self._news_due = now + NEWS_SECONDS
        if history:
            self._learning = learning(self._metrics.batches, self._metrics.games)
        return status or log or history
