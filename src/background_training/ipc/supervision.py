"""When a child process counts as hung, and whether and when a dead one is started again. Clocks are arguments."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from background_training.ipc.json_lines import Send

ALIVE = "alive"
"""The event of a heartbeat."""

BEAT_SECONDS = 1.0
HANG_SECONDS = 60.0
"""A worker that is silent for longer hangs. The longest silence of a healthy one: reading a ledger of a million lines that has
lost its index."""

LOOKS = 10
"""How many times within its limit a watchdog is looked at."""


class Heartbeat:
    """The child's side: report that it is alive, once in BEAT_SECONDS at most."""

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._due = float("-inf")

    def beat(self) -> None:
        """Called from within the work, so that work that hangs stops the heartbeat; cheap enough for every part of a gradient."""
        moment = self._clock()
        if moment >= self._due:
            self._due = moment + BEAT_SECONDS
            self._send(ALIVE)

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Wait for an event as `Event.wait` does, with heartbeats."""
        end = self._clock() + seconds
        while not event.wait(max(0.0, min(end - self._clock(), HANG_SECONDS / LOOKS))):
            self.beat()
            if self._clock() >= end:
                return


class Watchdog:
    """The parent's side: how long a child has been silent, in time during which this process ran.

    Its owner looks at it LOOKS times within the limit. A longer gap between two looks counts as two of them: then the machine
    slept, or a debugger or a signal stopped us, and the child had no chance to be heard. So a child that is healthy is never
    taken for hung after a stand-still; one that hangs is found up to twice as late on a machine that is overloaded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._silent_seconds = 0.0
        self._was_fed = False

    def feed(self) -> None:
        """Note a sign of life, from any thread."""
        self._was_fed = True

    def has_expired(self, limit_seconds: float) -> bool:
        """Look at it: whether the child has been silent for longer than the limit."""
        now = self._clock()
        gap = min(now - self._looked_at, 2 * limit_seconds / LOOKS)
        self._looked_at = now
        if self._was_fed:
            self._was_fed, self._silent_seconds = False, 0.0
        else:
            self._silent_seconds += gap
        return self._silent_seconds > limit_seconds


@dataclass
class RestartBudget:
    """At most `limit` restarts within a window, each after a longer wait; times are in seconds of any one clock."""

    limit: int
    window_seconds: float = 600.0
    first_back_off_seconds: float = 0.2
    longest_back_off_seconds: float = 10.0
    deaths: list[float] = field(default_factory=list)

    def is_spent(self, moment: float) -> bool:
        """Whether a further death at `moment` exceeds the limit."""
        self.deaths = [death for death in self.deaths if moment - death < self.window_seconds]
        return len(self.deaths) >= self.limit

    def back_off(self, moment: float) -> float | None:
        """Seconds to wait after a death at `moment` before the next start; None when the budget is spent."""
        is_spent = self.is_spent(moment)
        self.deaths.append(moment)
        return None if is_spent else self.wait_seconds(len(self.deaths))

    def wait_seconds(self, failures: int) -> float:
        """The wait after so many failures: doubles with each, up to the longest."""
        # The exponent is bounded; otherwise a long series of deaths would leave the range of floats.
        return float(min(self.first_back_off_seconds * 2 ** min(failures - 1, 60), self.longest_back_off_seconds))
