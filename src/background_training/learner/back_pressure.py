"""Back-pressure: how many episodes the games are ahead of the learner, and whether the next game should wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

LAST_BATCHES_SECONDS = 10.0
STALLED_SECONDS, LONGEST_STALLED_SECONDS = 5.0, 60.0
FIRST_COUNTS_SECONDS = 5.0
_LOOK_SECONDS = 0.01


class LearnerCounts(Protocol):
    """The part of the learner's interface that is used here."""

    @property
    def running(self) -> bool: ...

    def get_stats(self) -> dict[str, Any]: ...


class BackPressure:
    """Counts the episodes that the learner has not processed yet; 0 without a learner.

    Attributes:
        deposited: episodes that the games have delivered so far; the caller adds to it.
    """

    def __init__(
        self, learner: LearnerCounts | None, most: int, send_free: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare.

        Args:
            most: episodes that the games may be ahead; 0: any number.
            send_free: called while games wait, to hint that training disturbs no game.
        """
        self._learner = learner
        self._most = most
        self._send_free = send_free
        self.deposited = 0
        self._first = 0
        self._last = -1
        self._waits = False
        self._clock = clock
        self._progress_at = clock()
        self._patience = STALLED_SECONDS

    def start(self) -> None:
        """Take the counts of former runs as the zero point, once the worker has read them from the root's records.

        Otherwise they would count as this run's, and the run would not wait for its last batches.
        """
        deadline = time.monotonic() + FIRST_COUNTS_SECONDS
        while self._learner is not None and self._learner.running and time.monotonic() < deadline:
            if self._learner.get_stats()["active_workers"]:
                break
            time.sleep(_LOOK_SECONDS)
        self._first = self._finished()

    def next_game_may_start(self) -> bool:
        """Whether the next game may start. The game may outrun the learner, and stale episodes are of little use, so it waits.

        A learner without progress delays it for a few seconds only. A slow learner is waited for up to twice as long as its
        last batch took; otherwise the games would take its share of the processor, files would pile up, and its batches
        would become larger and slower still.
        """
        if self._learner is None or not self._learner.running or self._most == 0:
            return True
        fates = self._finished()
        if fates != self._last:
            needed, self._progress_at = self._clock() - self._progress_at, self._clock()
            if self._last >= 0 and self._waits:
                self._patience = min(max(self._patience, 2 * needed), LONGEST_STALLED_SECONDS)
            self._last = fates
        self._waits = self.deposited - (fates - self._first) >= self._most
        if not self._waits:
            return True
        self._send_free()
        return self._clock() - self._progress_at > self._patience

    @property
    def waiting(self) -> int:
        """Episodes of this run that the learner has not processed."""
        return max(0, self.deposited - (self._finished() - self._first))

    def wait_for_last_batches(self) -> None:
        """Wait until the last games' episodes have been processed, for at most LAST_BATCHES_SECONDS."""
        deadline = time.monotonic() + LAST_BATCHES_SECONDS
        while self._learner is not None and self._learner.running and time.monotonic() < deadline:
            if self._finished() - self._first >= self.deposited:
                return
            self._send_free()
            time.sleep(_LOOK_SECONDS)

    def _finished(self) -> int:
        """Episodes that the learner has processed, in all."""
        if self._learner is None:
            return 0
        stats = self._learner.get_stats()
        return int(sum(stats[key] for key in ("files_processed", "files_skipped_old", "files_rejected", "files_duplicate")))
