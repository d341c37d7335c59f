"""How often an env may be restarted, and how long to wait before the next time. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class RestartBudget:
    """Counts restarts in a sliding window, per env and in all.

    per_env, in_all: restarts allowed within `window_seconds`.
    backoff_seconds: wait before the second restart in a row without progress; doubles up to `backoff_limit_seconds`.
    """

    per_env: int
    in_all: int
    window_seconds: float
    backoff_seconds: float
    backoff_limit_seconds: float
    _spent: deque[tuple[float, int]] = field(default_factory=deque)
    _without_progress: dict[int, int] = field(default_factory=dict)

    def spend(self, env: int, now: float, *, had_progress: bool) -> bool:
        """Take one restart of `env` from the budget; False, and nothing taken, if there is none.

        Args:
            env: its index.
            now: seconds of a clock that never goes back.
            had_progress: whether the env has been stepped since its last restart.
        """
        self._forget_before(now - self.window_seconds)
        if len(self._spent) >= self.in_all or self.spent_by(env) >= self.per_env:
            return False
        self._spent.append((now, env))
        self._without_progress[env] = 1 if had_progress else self._without_progress.get(env, 0) + 1
        return True

    def spent_by(self, env: int) -> int:
        """Restarts of `env` within the window."""
        return sum(1 for _, other in self._spent if other == env)

    def spent_in_all(self) -> int:
        return len(self._spent)

    def wait_seconds(self, env: int) -> float:
        """How long to wait before the restart just spent: 0, then the back-off, doubling while there is no progress."""
        failures = self._without_progress.get(env, 0)
        if failures <= 1:
            return 0.0
        # The exponent is bounded, otherwise a long row of failures would leave the range of floats.
        return min(self.backoff_limit_seconds, self.backoff_seconds * 2.0 ** min(failures - 2, 60))

    def _forget_before(self, moment: float) -> None:
        while self._spent and self._spent[0][0] < moment:
            self._spent.popleft()
