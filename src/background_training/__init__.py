"""A bot plays its games, and a learner beside it makes the bot better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from background_training.agent import RLAgent
    from background_training.learner.background_learner import BackgroundParallelLearner

__version__ = "0.1.0"

__all__ = ["BackgroundParallelLearner", "RLAgent"]


def __getattr__(name: str) -> Any:
    # On first use: a game that only records loads no learner, and a command that only reads loads neither.
    if name == "RLAgent":
        from background_training.agent import RLAgent

        return RLAgent
    if name == "BackgroundParallelLearner":
        from background_training.learner.background_learner import BackgroundParallelLearner

        return BackgroundParallelLearner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
