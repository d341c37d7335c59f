"""What has failed in a vector env and what was done about it: restart budgets, counters, and when failing envs rest.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import asdict, dataclass, field
from typing import Any

from background_training.ipc.supervision import RestartBudget


class EnvRestarts:
    """The restart budgets of the envs of a vector env: one for each and one for all together."""

    def __init__(
        self, per_env: int, in_all: int, window_seconds: float, backoff_seconds: float, backoff_limit_seconds: float
    ) -> None:
        """Count restarts.

        Args:
            per_env: restarts of one env allowed within the window.
            in_all: restarts of all envs allowed within the window.
            window_seconds: length of the window.
            backoff_seconds: wait before the second restart in a row without progress; doubles with each further one.
            backoff_limit_seconds: the longest wait.
        """
        self._all = RestartBudget(in_all, window_seconds)
        self._each: defaultdict[int, RestartBudget] = defaultdict(
            lambda: RestartBudget(per_env, window_seconds, backoff_seconds, backoff_limit_seconds)
        )
        self._without_progress: Counter[int] = Counter()

    def spend(self, env: int, now: float, *, had_progress: bool) -> bool:
        """Take one restart of `env` from the budgets; False, and nothing taken, if one of them is spent.

        Args:
            env: its index.
            now: seconds of a clock that never goes back.
            had_progress: whether the env has been stepped since its last restart.
        """
        if self._all.is_spent(now) or self._each[env].is_spent(now):
            return False
        self._all.deaths.append(now)
        self._each[env].deaths.append(now)
        self._without_progress[env] = 1 if had_progress else self._without_progress[env] + 1
        return True

    def spent_by(self, env: int) -> int:
        """Restarts of `env` within the window."""
        return len(self._each[env].deaths)

    def spent_in_all(self) -> int:
        return len(self._all.deaths)

    def wait_seconds(self, env: int) -> float:
        """How long to wait before the restart just spent: 0, then the back-off, doubling while there is no progress."""
        failures = self._without_progress[env]
        return 0.0 if failures <= 1 else self._each[env].wait_seconds(failures - 1)


@dataclass(frozen=True)
class Failure:
    """One failure of a worker or env."""

    at_seconds: float
    env: int
    kind: str
    detail: str


@dataclass
class HealthTracker:
    """Counts failures and recoveries.

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
        """Whether there were too many failures within the window to restart a failing env at once."""
        while self._window and self._window[0] < now - self.reduce_window_seconds:
            self._window.popleft()
        return 0 < self.reduce_after <= len(self._window)

    def may_bring_back(self, now: float) -> bool:
        """Whether there was no failure for long enough to bring one resting env back."""
        return now - self._last_change >= self.calm_seconds

    def brought_back(self, now: float) -> None:
        """Note that an env was brought back; the next waits for another `calm_seconds`."""
        self._last_change = now

    def snapshot(self) -> dict[str, Any]:
        """All counts, as plain values."""
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
