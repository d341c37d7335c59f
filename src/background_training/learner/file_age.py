"""The age of files, robust against changes of the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable

_LEAP_SECONDS = 10.0
_ROUNDING_SECONDS = 1.0


def steady_seconds() -> float:
    """A clock that can't be set, and that includes suspended time where the system has such a clock.

    Otherwise a suspension would look like a jump of the wall clock.
    """
    kind = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if kind is None else time.clock_gettime(kind)


class WallClock:
    """Seconds since 1970 by the wall clock, and its forward jumps since this object was made.

    It promises that setting the clock in either direction makes no file look older than it is, if `look` is called in between.
    It does not promise that no file looks younger: a time in the future counts as now, and a file from before a jump back and
    forth may count as new for as long again. Jumps before this process started are unknown.
    """

    def __init__(self, now: Callable[[], float] = time.time, steady: Callable[[], float] = steady_seconds) -> None:
        self._now = now
        self._steady = steady
        self._since = now(), steady()
        self._latest = self._since[0]
        self._leaps: list[tuple[float, float]] = []

    def age_seconds(self, modified: float) -> float:
        """Age of a file with this mtime, corrected for clock jumps; negative if in the future."""
        self.look()
        return self._now() - modified - sum(by for until, by in self._leaps if modified <= until)

    def look(self) -> None:
        """Detect jumps of the clock since the last call."""
        wall, steady = self._now(), self._steady()
        expected = self._since[0] + steady - self._since[1]
        by = wall - expected
        # No file from before the jump has a later mtime than the latest time that the clock has shown until then.
        latest = max(self._latest, expected)
        self._latest = max(latest, wall)
        self._since = wall, steady
        if by > _LEAP_SECONDS:
            self._leaps.append((latest + _ROUNDING_SECONDS, by))
        while by < -_LEAP_SECONDS and self._leaps:
            # Set back: undo the last jump, or a part of it.
            until, forward = self._leaps.pop()
            by += forward
            if by > _LEAP_SECONDS:
                self._leaps.append((until, by))


CLOCK = WallClock()
"""The clock of this process, shared so that it covers the longest possible time."""
