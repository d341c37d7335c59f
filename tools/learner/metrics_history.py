"""Writes the metrics history beside the training log: a record per batch and per game, bounded, never fatal."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from local_training import yield_point
from local_training.errors import LedgerError
from local_training.metrics import BATCHES, GAMES
from local_training.paths import Paths
from local_training.record_file import Records
from tools.learner import ledger as ledgers
from tools.learner import metrics_records as records
from tools.learner.generation import Generation
from tools.learner.ledger import Ledger
from tools.learner.metrics_series import Series
from tools.learner.round import Round

logger = logging.getLogger(__name__)

MOST_BATCHES = 32_768
MOST_GAMES = 131_072
RETRY_SECONDS = 60.0
_AT_A_TIME = 1_000


@dataclass(frozen=True)
class Circumstances:
    """What was going on around a batch: files still waiting, and what the governor saw."""

    waiting: int = 0
    governor: str = "unknown"
    others_cpu_percent: float | None = None

    @classmethod
    def of(cls, waiting: int, governed: Mapping[str, Any]) -> Circumstances:
        """From the governor's facts, as status.json has them too."""
        return cls(waiting, governed["state"], governed["readings"]["others_cpu_percent"])


class MetricsHistory:
    """The writer of both series; its caller holds the root's worker lock.

    It promises one record per batch, whatever was killed: a batch of which a crash has taken the record gets it at the
    next start from the ledger, without its times. It does not promise that a power cut leaves the last seconds as they
    were, as nothing is flushed. Nothing that is learnt depends on it.
    """

    def __init__(
        self,
        paths: Paths,
        ledger: Ledger,
        *,
        most_batches: int = MOST_BATCHES,
        most_games: int = MOST_GAMES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._paths = paths
        self._ledger = ledger
        self._batches = Series(paths.batch_metrics, BATCHES, most_batches)
        self._games = Series(paths.game_metrics, GAMES, most_games)
        self._clock = clock
        self._retry_due: float | None = -math.inf
        self._process = psutil.Process()
        self._used = time.process_time(), time.perf_counter()
        self._rested = yield_point.rested_seconds()

    def begin(self, present: Generation | None) -> None:
        """Go on from the present version of the model, and record the batches before it that are not recorded yet."""
        self._guarded(lambda: self._take_up(present))

    def add(self, done: Round, around: Circumstances) -> None:
        """Record a round that has trained. A history that can't be written is a pity, but no reason to stop training."""
        trained = done.trained
        if trained is None:
            return
        if self._retry_due is None:
            self._guarded(lambda: self._record(done, trained, around))
        elif time.monotonic() >= self._retry_due:
            self._guarded(lambda: self._take_up(trained))

    def _guarded(self, write: Callable[[], None]) -> None:
        try:
            write()
            self._retry_due = None
        except (OSError, LedgerError) as error:
            self._retry_due = time.monotonic() + RETRY_SECONDS
            logger.warning("metrics history not written: %s; what is missing is added later", error)

    def _take_up(self, present: Generation | None) -> None:
        last = self._batches.take_up(present.version if present else 0)
        # Games are written before their batch: those without it may not be complete.
        self._games.take_up(last)
        if self._ledger.last_seq <= last:
            return
        waiting: list[tuple[Records, Records]] = []
        for version, lines in ledgers.groups(ledgers.read_lines(self._paths.ledger)):
            if version > last:
                waiting.append(records.recovered(version, lines, present, self._paths, self._clock()))
            if len(waiting) == _AT_A_TIME:
                self._write(waiting)
                waiting = []
        self._write(waiting)

    def _write(self, made: list[tuple[Records, Records]]) -> None:
        if made:
            self._games.add(np.concatenate([games for _, games in made]))
            self._batches.add(np.concatenate([batch for batch, _ in made]))

    def _record(self, done: Round, trained: Generation, around: Circumstances) -> None:
        moment = self._clock()
        games = records.games_of(done, moment)
        seconds = {f"{stage}_seconds": spent for stage, spent in done.stage_seconds.items()}
        batch = records.batch_of(
            trained,
            games,
            moment,
            set_aside=len(done.set_aside),
            waiting=around.waiting,
            governor=records.governor_code(around.governor),
            others_cpu_percent=math.nan if around.others_cpu_percent is None else around.others_cpu_percent,
            staleness_seconds=float(games["age_seconds"].mean()),
            total_seconds=done.seconds,
            **seconds,
            **self._own_use(),
        )
        self._write([(batch, games)])

    def _own_use(self) -> dict[str, float]:
        """The processor's time since the batch before, as a share of one core; memory; and how long the game was let go first."""
        used, now = self._used, (time.process_time(), time.perf_counter())
        rested = yield_point.rested_seconds()
        facts = {
            "cpu_percent": 100.0 * (now[0] - used[0]) / max(now[1] - used[1], 1e-9),
            "rested_seconds": rested - self._rested,
        }
        self._used, self._rested = now, rested
        try:
            facts["memory_mb"] = self._process.memory_info().rss / 1e6
        except (OSError, psutil.Error):
            facts["memory_mb"] = math.nan
        return facts
