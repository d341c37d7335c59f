"""What has failed in a vector env and what was done about it, and whether it should do with fewer envs for a while.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Failure:
    """One failure of a worker or env."""

    at_seconds: float
    env: int
    kind: str
    detail: str


@dataclass
class HealthTracker:
    """Remembers failures and recoveries.

    reduce_after: failures within `reduce_window_seconds` that ask for fewer envs; 0: never.
    calm_seconds: time without a failure after which one more env may come back.
    """

    reduce_after: int
    reduce_window_seconds: float
    calm_seconds: float
    kinds: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    in_place: int = 0
    rebuilds: int = 0
    reductions: int = 0
    checks: int = 0
    episodes: int = 0
    _recent: deque[Failure] = field(default_factory=lambda: deque(maxlen=50))
    _window: deque[float] = field(default_factory=deque)
    _recovery_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    _last_change: float = float("-inf")

    def failed(self, failure: Failure) -> None:
        """Note a failure."""
        self.kinds[failure.kind] += 1
        self._recent.append(failure)
        self._window.append(failure.at_seconds)
        self._last_change = failure.at_seconds

    def recovered(self, seconds: float) -> None:
        """Note that an env steps again, `seconds` after its failure."""
        self.restarts += 1
        self._recovery_seconds.append(seconds)

    def should_reduce(self, now: float) -> bool:
        """Whether there were too many failures lately to start the failing env again at once."""
        while self._window and self._window[0] < now - self.reduce_window_seconds:
            self._window.popleft()
        return 0 < self.reduce_after <= len(self._window)

    def may_grow(self, now: float) -> bool:
        """Whether it has been calm for long enough to bring one resting env back."""
        return now - self._last_change >= self.calm_seconds

    def grown(self, now: float) -> None:
        """Note that an env was brought back; the next waits for another calm stretch."""
        self._last_change = now

    def snapshot(self) -> dict[str, Any]:
        """Everything noted, as plain values."""
        times = sorted(self._recovery_seconds)
        return {
            "failures": sum(self.kinds.values()),
            "failures_by_kind": dict(self.kinds),
            "recent_failures": [asdict(failure) for failure in self._recent],
            "restarts": self.restarts,
            "rebuilt_in_place": self.in_place,
            "preventive_rebuilds": self.rebuilds,
            "reductions": self.reductions,
            "checks": self.checks,
            "episodes": self.episodes,
            "recovery_seconds_median": times[len(times) // 2] if times else None,
            "recovery_seconds_longest": times[-1] if times else None,
        }
