"""The throttle: takes readings, asks throttle_policy.py, and lets the worker continue or makes it wait."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from background_training.ipc.load_hints import LoadHintReader
from background_training.learner import throttle_policy
from background_training.learner.machine_readings import MachineReadings
from background_training.learner.throttle_policy import Decision, LoadSample
from background_training.learner.training_log import TrainingLog
from background_training.records.pause_file import PauseWatch
from background_training.settings import Settings

LOOK_SECONDS = 0.03
"""Interval at which load hints and the pause file are read while a batch is trained."""
_STANDING_SECONDS = 0.1
"""Interval while the worker waits."""
SHOW_SECONDS = 5.0
_LOG_BYTES = 500_000


class Throttle:
    """Holds one worker while it may not work.

    It promises that a game's "busy" and the user's pause interrupt a batch at the next yield point after LOOK_SECONDS, and
    that a wait ends when the worker has to stop. It does not interrupt a batch because of the machine's readings: they
    count before the next one.
    """

    def __init__(
        self,
        settings: Settings,
        stopping: threading.Event,
        show: Callable[[str], None],
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`show` is called with "paused" when the worker has to wait, repeatedly while it does, and with "training" when
        it continues within a batch; `beat` is called at every yield point."""
        self._settings = settings.governor
        self._max_workers = settings.learner.max_workers
        self._stopping = stopping
        self._show = show
        self._beat = beat
        self._clock = clock
        self._listener = LoadHintReader(settings.paths)
        self._pauses = PauseWatch(settings.paths)
        self._readings = MachineReadings(settings.paths.root, settings.paths.game_voice) if settings.governor.enabled else None
        self._log = TrainingLog(settings.paths.governor_log, _LOG_BYTES)
        self._sample = LoadSample()
        self._decision = throttle_policy.first(self._settings, self._max_workers)
        self._look_due = float("-inf")
        self._reading_due = float("-inf")
        self._show_due = float("-inf")

    def wait_open(self) -> bool:
        """Wait until a batch may start; False if the worker has to stop, or the user has paused training."""
        while self.update().workers_allowed == 0 and not self._stopping.is_set() and not self.paused_by_user:
            self._stand_still()
        return not self._stopping.is_set() and not self.paused_by_user

    @property
    def paused_by_user(self) -> bool:
        """Whether the user has paused training, as of the last update."""
        return throttle_policy.BY_THE_USER in self._decision.causes

    def wait_resumed(self, longest_seconds: float) -> None:
        """Wait for the end of the user's pause, for a bounded time, so that retention still runs."""
        end = self._clock() + min(longest_seconds, SHOW_SECONDS)
        while self.update() and self.paused_by_user and self._clock() < end and not self._stopping.is_set():
            self._stopping.wait(_STANDING_SECONDS)
        if not self.paused_by_user:
            self._show("training")

    def rest(self) -> float:
        """Wait while a game or the user asks for it; return the seconds. To be called at every yield point."""
        self._beat()
        begun = self._clock()
        if begun < self._look_due or not self.update().at_once:
            return 0.0
        while not self._stopping.is_set() and self.update().at_once:
            self._stand_still()
        self._show("training")
        return self._clock() - begun

    def batch_ended(self, seconds: float) -> None:
        """Note how long a batch took; the next rest depends on it."""
        self._sample = dataclasses.replace(self._sample, last_batch_seconds=seconds, last_batch_ended=self._clock())

    def update(self) -> Decision:
        """The decision as of now."""
        moment = self._clock()
        seen: dict[str, Any] = {}
        if moment >= self._look_due:
            self._look_due = moment + LOOK_SECONDS
            pause = self._pauses.look()
            seen["user_pause"] = pause.words if pause else ""
            if self._readings is not None:
                seen["game"], seen["game_remark"] = self._listener.read(moment, time.time())
        if self._readings is not None and moment >= self._reading_due:
            self._reading_due = moment + self._settings.check_seconds
            seen |= dataclasses.asdict(self._readings.take())
        self._sample = dataclasses.replace(self._sample, **seen)
        former = self._decision
        self._decision = throttle_policy.decide(self._sample, self._settings, former, self._max_workers, moment)
        if self._decision.causes != former.causes:
            self._log.add(f"{time.strftime('[%Y-%m-%d %H:%M:%S]')} {self.text()}\n")
            self._show_due = moment
        return self._decision

    def text(self) -> str:
        """The decision in one line, for get_stats()."""
        return throttle_policy.text(self._decision)

    @property
    def workers_allowed(self) -> int:
        return self._decision.workers_allowed

    def facts(self) -> dict[str, Any]:
        """The decision and what it rests on, for status.json."""
        return throttle_policy.facts(self._decision, self._sample)

    def _stand_still(self) -> None:
        moment = self._clock()
        if moment >= self._show_due:
            self._show_due = moment + SHOW_SECONDS
            self._show("paused")
        self._stopping.wait(_STANDING_SECONDS)
