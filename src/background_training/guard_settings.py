"""The settings of the guard, which rolls back by itself when the games return worse than they did."""

from __future__ import annotations

from dataclasses import dataclass

from background_training.checked_fields import Section, setting


@dataclass(frozen=True)
class GuardSettings(Section):
    """When the learner goes back to its best version by itself, because the games return worse than they did."""

    enabled: bool = setting(False, "Whether it does so at all.")
    evaluation_episodes: int = setting(
        20, "Episodes in a row whose mean return says how good their versions are.", at_least=5, at_most=10_000
    )
    tolerance: float = setting(
        0.5, "Share of what the best version has gained over the first one that may be lost.", above=0.0, at_most=1.0
    )
    false_alarm_episodes: float = setting(
        2000.0,
        "Episodes in which at most one false alarm is to be expected while the returns are within the tolerance.",
        above=1.0,
    )
