"""How often a process may die before it is given up."""

from __future__ import annotations

from dataclasses import dataclass, field

_WINDOW_SECONDS = 600.0
_FIRST_BACK_OFF_SECONDS = 0.2
_LONGEST_BACK_OFF_SECONDS = 10.0


@dataclass
class RestartBudget:
    """At most `limit` restarts within ten minutes; times are arguments, in seconds of any one clock."""

    limit: int
    deaths: list[float] = field(default_factory=list)

    def back_off(self, moment: float) -> float | None:
        """Seconds to wait after a death at `moment` before the next start; None when the budget is spent."""
        self.deaths = [death for death in self.deaths if moment - death < _WINDOW_SECONDS] + [moment]
        if len(self.deaths) > self.limit:
            return None
        return float(min(_FIRST_BACK_OFF_SECONDS * 2 ** (len(self.deaths) - 1), _LONGEST_BACK_OFF_SECONDS))
