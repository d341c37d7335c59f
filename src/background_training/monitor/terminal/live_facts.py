"""Everything that the live screen shows of a root, read several times a second: an unchanged file is not read again."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from background_training.monitor.facts import Reader, Snapshot
from background_training.monitor.history import Floats, Learning, learning, whole_run
from background_training.monitor.replays import ReplayCensus, ReplayProgress
from background_training.paths import Paths
from background_training.records.metrics import MetricsReader

LOOK_SECONDS = 0.5
RATE_SECONDS = 60.0
_LOG_LINES = 40
_WHOLE_RUN_SECONDS = 3.0
_MEASURED_PER_LOOK = 5_000
_REST_FACTOR = 400.0
"""A slow look is followed by a rest of this many times its length: two folders cost half a percent of a core at most."""
_COUNTS = ("files_processed", "files_skipped_old", "files_rejected", "files_duplicate", "buffer_file_count")


@dataclass(frozen=True)
class QueueRates:
    """Files per second. archived: trained, stale, rejected and duplicates together."""

    arriving: float
    trained: float
    archived: float


class QueueFlow:
    """The learner's counts of the last minute, as (moment, trained, archived, waiting)."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int, int]] = deque()

    def note(self, content: Mapping[str, Any]) -> None:
        """Add a status. One without usable counts, or whose time or counts run backwards, discards those before it."""
        stats, moment = content.get("stats"), content.get("updated_at")
        numbers = [stats.get(name) for name in _COUNTS] if isinstance(stats, Mapping) else [None]
        if not isinstance(moment, (int, float)) or not all(isinstance(number, int) for number in numbers):
            self._seen.clear()
            return
        *done, waiting = (int(number or 0) for number in numbers)
        if self._seen and (moment < self._seen[-1][0] or sum(done) < self._seen[-1][2]):
            self._seen.clear()
        self._seen.append((float(moment), done[0], sum(done), waiting))
        while len(self._seen) > 2 and self._seen[1][0] < moment - RATE_SECONDS:
            self._seen.popleft()

    def rates(self, now: float) -> QueueRates | None:
        """Rates of the last minute, or None without two statuses in it; `now` is in seconds since 1970."""
        if len(self._seen) < 2 or now - self._seen[-1][0] > RATE_SECONDS:
            return None
        (start, *first), (end, *last) = self._seen[0], self._seen[-1]
        # Up to now, not to the last status: the learner writes one after each batch, so silence means that nothing was trained.
        seconds = max(end, now) - start
        if seconds <= 0:
            return None
        trained, archived, waiting = (after - before for before, after in zip(first, last, strict=True))
        return QueueRates(max(0, archived + waiting) / seconds, trained / seconds, archived / seconds)


@dataclass(frozen=True)
class LiveFacts:
    """One look.

    root: as given to --root.
    all_games, whole_run: the number of games, and means of their returns from the first to the last.
    """

    root: str
    snapshot: Snapshot
    learning: Learning = field(default_factory=Learning)
    all_games: int = 0
    whole_run: Floats = field(default_factory=lambda: np.empty(0))
    rates: QueueRates | None = None
    replays: ReplayProgress | None = None


class LiveReader:
    """Reads one root; a look without news costs a few system calls and changes nothing there."""

    def __init__(self, paths: Paths, started: float, clock: Callable[[], float] = time.time) -> None:
        """`started` is when the monitoring began, in seconds since 1970."""
        self._root = os.fspath(paths.root)
        self._clock = clock
        self._reader = Reader(paths, started, _MEASURED_PER_LOOK, rest_factor=_REST_FACTOR, log_lines=_LOG_LINES)
        self._replays = ReplayCensus(paths)
        self._metrics = MetricsReader(paths)
        self._flow = QueueFlow()
        self._learning = Learning()
        self._whole_run = whole_run(self._metrics.games)
        self._whole_run_due = self._looked_at = float("-inf")
        self._whole_run_mark: object = None
        self._mark: tuple[object, ...] = ()
        self._last: LiveFacts | None = None

    def look(self) -> LiveFacts | None:
        """The present state; None if it is unchanged within the same second.

        A pause is seen at once; everything else is read at most twice a second, however often the learner writes.
        """
        now, last = self._clock(), self._last
        if last is not None and 0 <= now - self._looked_at < LOOK_SECONDS and self._reader.pause() == last.snapshot.pause:
            return None
        self._looked_at = now
        history_is_new = self._metrics.look()
        snapshot = self._reader.snapshot(now)
        content = snapshot.status.content
        if last is None or content is not last.snapshot.status.content:
            self._flow.note(content or {})
        if history_is_new:
            self._learning = learning(self._metrics.batches, self._metrics.games)
        counts = snapshot.buffer.count, snapshot.archive.count
        mark = (int(now), snapshot.pause, snapshot.status, snapshot.log_lines, counts)
        if mark == self._mark and not history_is_new:
            return None
        self._mark = mark
        replays = self._replays.look((content or {}).get("settings"))
        self._last = LiveFacts(self._root, snapshot, self._learning, *self._all_games(), self._flow.rates(now), replays)
        return self._last

    def _all_games(self) -> tuple[int, Floats]:
        """The whole run, worked out at intervals only, as it may be long."""
        begun, mark = time.perf_counter(), (self._metrics.edition, len(self._metrics.games))
        if mark != self._whole_run_mark and begun >= self._whole_run_due:
            self._whole_run, self._whole_run_mark = whole_run(self._metrics.games), mark
            self._whole_run_due = begun + max(_WHOLE_RUN_SECONDS, _REST_FACTOR * (time.perf_counter() - begun))
        return self._whole_run
