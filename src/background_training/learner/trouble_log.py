"""Says in background_training.log when the machine began to fail, and when that was over: one line each."""

from __future__ import annotations

import time
from collections.abc import Callable

from background_training.learner import training_log
from background_training.learner.training_log import TrainingLog
from background_training.paths import Paths


class TroubleLog:
    """Remembers since when there has been trouble.

    A log that can't be written, as on a full disk, misses the first line; so the last one says all that it would have said.
    """

    def __init__(
        self, paths: Paths, log_bytes: int, now: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = TrainingLog(paths.training_log, log_bytes)
        self._now = now
        self._monotonic = monotonic
        self._began: tuple[float, float, str] | None = None

    def met(self, sentence: str) -> None:
        """Note a failure; told only if there was no trouble before."""
        if self._began is None:
            moment = self._now()
            told = " ".join(sentence.split())
            self._began = moment, self._monotonic(), told
            self._log.add(training_log.line(moment, f"Trouble Began: {told}"))

    def over(self) -> None:
        """Note that things go well; told only if there was trouble."""
        if self._began is not None:
            moment, since, told = self._began
            self._began = None
            lasted = f"after {self._monotonic() - since:.1f} s, since {training_log.stamp(moment)}"
            self._log.add(training_log.line(self._now(), f"Trouble Over: {lasted} ({told})"))
