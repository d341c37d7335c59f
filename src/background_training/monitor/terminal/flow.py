"""How many files a second come, are trained on and leave the buffer, from the learner's counts at different moments. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WINDOW_SECONDS = 60.0
_TRAINED = "files_processed"
_ASIDE = ("files_skipped_old", "files_rejected", "files_duplicate")
_WAITING = "buffer_file_count"


@dataclass(frozen=True)
class Rates:
    """Files a second; archived: trained on or set aside."""

    arriving: float
    trained: float
    archived: float


@dataclass(frozen=True)
class _Counts:
    moment: float
    trained: int
    archived: int
    waiting: int


class Flow:
    """The counts of the last minute."""

    def __init__(self) -> None:
        self._seen: deque[_Counts] = deque()

    def note(self, content: Mapping[str, Any]) -> None:
        """Take in a status; one that makes no sense, or goes back in time or in its counts, begins anew."""
        found = _counts(content)
        if found is None:
            self._seen.clear()
            return
        last = self._seen[-1] if self._seen else None
        if last is not None and (found.moment < last.moment or found.archived < last.archived):
            self._seen.clear()
        self._seen.append(found)
        while len(self._seen) > 2 and self._seen[1].moment < found.moment - WINDOW_SECONDS:
            self._seen.popleft()

    def rates(self, now: float) -> Rates | None:
        """Those of the last minute; None if nothing is known of it.

        Args:
            now: seconds since 1970.
        """
        if len(self._seen) < 2 or now - self._seen[-1].moment > WINDOW_SECONDS:
            return None
        first, last = self._seen[0], self._seen[-1]
        # Silence since then counts: nothing has come, or the learner would have said so.
        seconds = max(last.moment, now) - first.moment
        if seconds <= 0:
            return None
        archived = last.archived - first.archived
        arriving = max(0, archived + last.waiting - first.waiting)
        return Rates(arriving / seconds, (last.trained - first.trained) / seconds, archived / seconds)


def _counts(content: Mapping[str, Any]) -> _Counts | None:
    stats, moment = content.get("stats"), content.get("updated_at")
    if not isinstance(stats, Mapping) or not isinstance(moment, (int, float)):
        return None
    numbers = [stats.get(name) for name in (_TRAINED, _WAITING, *_ASIDE)]
    if not all(isinstance(number, int) for number in numbers):
        return None
    trained, waiting, *aside = (int(number or 0) for number in numbers)
    return _Counts(float(moment), trained, trained + sum(aside), waiting)
