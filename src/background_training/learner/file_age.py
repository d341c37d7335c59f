"""How old a file is by a clock that may be set while we look: one that is put forward makes nothing old."""

from __future__ import annotations

import time
from collections.abc import Callable

_LEAP_SECONDS = 10.0
_ROUNDING_SECONDS = 1.0


def steady_seconds() -> float:
    """A clock that nobody sets, and that goes on while the machine sleeps where the system has one.

    Time asleep is no leap: files grow old in it as the clock on the wall says.
    """
    kind = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if kind is None else time.clock_gettime(kind)


class WallClock:
    """Seconds since 1970, as the system tells them, and what it was set forward by since this object was made.

    It promises that setting the clock in either direction makes no file older than it is, if somebody looks in between. It does
    not promise that it makes none younger: a time in the future counts as now, and what was written before the clock was set
    back and forth may count as new for as long again. What a clock did before this process began is not known.
    """

    def __init__(self, now: Callable[[], float] = time.time, steady: Callable[[], float] = steady_seconds) -> None:
        self._now = now
        self._steady = steady
        self._since = now(), steady()
        self._latest = self._since[0]
        self._leaps: list[tuple[float, float]] = []

    def age_seconds(self, modified: float) -> float:
        """How long ago a file bore this time; negative for one from the future."""
        self.look()
        return self._now() - modified - sum(by for until, by in self._leaps if modified <= until)

    def look(self) -> None:
        """Notice whether the clock has been set."""
        wall, steady = self._now(), self._steady()
        expected = self._since[0] + steady - self._since[1]
        by = wall - expected
        # What was written before a leap bears no later time than the latest that the clock has shown until then.
        latest = max(self._latest, expected)
        self._latest = max(latest, wall)
        self._since = wall, steady
        if by > _LEAP_SECONDS:
            self._leaps.append((latest + _ROUNDING_SECONDS, by))
        while by < -_LEAP_SECONDS and self._leaps:
            # Set back: the last leap was a mistake, or a part of it was.
            until, forward = self._leaps.pop()
            by += forward
            if by > _LEAP_SECONDS:
                self._leaps.append((until, by))


CLOCK = WallClock()
"""The one of this process, which has looked for as long as it could."""
