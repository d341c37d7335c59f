"""Everything that the page shows of a root, gathered by one thread for all who look."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from background_training.monitor import reading
from background_training.monitor.reading import Reader
from background_training.monitor.snapshot import Snapshot
from background_training.monitor.web.build_orders import BuildOrders
from background_training.monitor.web.ledger_follower import LedgerFacts, LedgerFollower
from background_training.paths import Paths
from background_training.records.metrics import MetricsReader, Records

LOG_LINES = 60


@dataclass(frozen=True)
class Facts:
    """One look.

    root: what a person would give to --root.
    batches, games: the metrics history; valid until the next look.
    mark: equal marks tell of an equal history.
    """

    root: str
    snapshot: Snapshot
    ledger: LedgerFacts
    log_lines: tuple[str, ...]
    batches: Records
    games: Records
    mark: tuple[Any, ...]
    build_orders: Mapping[str, Any] | None = None


class Watcher:
    """Looks at one root again and again. A look costs little beyond what is new, and changes nothing."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._reader = Reader(paths, time.time())
        self._ledger = LedgerFollower(paths.ledger)
        self._build_orders = BuildOrders(paths.build_orders)
        self._metrics = MetricsReader(paths)

    def look(self) -> Facts:
        """What there is to see now; never an exception for what may lie there."""
        self._metrics.look()
        batches, games = self._metrics.batches, self._metrics.games
        return Facts(
            root=os.fspath(self._paths.root),
            snapshot=self._reader.snapshot(),
            ledger=self._ledger.look(),
            log_lines=reading.last_lines(self._paths.training_log, LOG_LINES),
            batches=batches,
            games=games,
            mark=(self._metrics.edition, len(batches), len(games)),
            build_orders=self._build_orders.look(),
        )
