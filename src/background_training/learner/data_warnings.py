"""Run the data checks during training, and warn of mistakes of the bot that its newest episodes show."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from background_training.episodes import data_checks
from background_training.episodes.data_checks import DataWarning
from background_training.episodes.episode import Episode
from background_training.learner import training_log
from background_training.learner.training_log import TrainingLog
from background_training.paths import Paths
from background_training.spaces import ActionSpace

NEWEST_GAMES = 12
LONGEST_GAME_STEPS = 20_000
SELDOM = 512


class DataWarnings:
    """Runs the checks after the first batches, then at growing intervals, as they take some milliseconds.

    Each warning is given once: to the caller, and in background_training.log. Games of more than LONGEST_GAME_STEPS are
    not checked, since they would have to be kept in memory.
    """

    def __init__(self, paths: Paths, log_bytes: int, now: Callable[[], float] = time.time) -> None:
        self._log = TrainingLog(paths.training_log, log_bytes)
        self._now = now
        self._games: deque[Episode] = deque(maxlen=NEWEST_GAMES)
        self._batches = 0
        self._due = 1
        self._reported: set[str] = set()
        self._present: list[DataWarning] = []

    def after(self, games: Sequence[Episode], actions: ActionSpace | None) -> list[str]:
        """Check the newest games, including those of this batch.

        Args:
            actions: the model's action space.

        Returns:
            The new warnings, one sentence each.
        """
        self._games.extend(game for game in games if game.steps <= LONGEST_GAME_STEPS)
        self._batches += 1
        if self._batches < self._due or len(self._games) < data_checks.FEWEST_GAMES:
            return []
        self._due = self._batches + min(self._batches, SELDOM)
        self._present = data_checks.find(list(self._games), actions)
        new = [warning for warning in self._present if warning.name not in self._reported]
        self._reported.update(warning.name for warning in new)
        sentences = [_sentence(warning) for warning in new]
        for sentence in sentences:
            self._log.add(training_log.line(self._now(), f"Warning: {sentence}"))
        return sentences

    def text(self) -> str:
        """The warnings of the last check; empty if there were none."""
        return " ".join(_sentence(warning) for warning in self._present)


def _sentence(warning: DataWarning) -> str:
    return f"{warning.found[0].upper()}{warning.found[1:]}. {warning.cure}"
