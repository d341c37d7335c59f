"""Asks the governor, and lets the worker through or makes it wait: the shell around throttle_policy.py."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from background_training.ipc.load_hints import GameListener
from background_training.learner import throttle_policy
from background_training.learner.machine_readings import MachineReadings
from background_training.learner.throttle_policy import Decision, LoadSample
from background_training.learner.training_log import TrainingLog
from background_training.records.pause_file import PauseWatch
from background_training.settings import Settings

LOOK_SECONDS = 0.03
"""How often the games are listened to, at least while there is something to stop."""
_STANDING_SECONDS = 0.1
"""While everything stands still, nobody is in a hurry."""
SHOW_SECONDS = 5.0
_LOG_BYTES = 500_000


class Throttle:
    """One worker's way to ask whether it may work.

    It promises that a game's "busy" and the user's pause stop a batch in its middle, at the next yield point after
    LOOK_SECONDS, and that a worker which has been told to stop waits no longer. It does not promise that a batch which
    the machine's readings speak against is interrupted: it is finished.
    """

    def __init__(
        self,
        settings: Settings,
        stopping: threading.Event,
        show: Callable[[str], None],
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`show` is told "paused" when the worker has to wait, and from time to time while it does, and "training" when
        it goes on in the middle of a batch; `beat` is called at every yield point."""
        self._settings = settings.governor
        self._max_workers = settings.learner.max_workers
        self._stopping = stopping
        self._show = show
        self._beat = beat
        self._clock = clock
        self._listener = GameListener(settings.paths)
        self._pauses = PauseWatch(settings.paths)
        self._readings = MachineReadings(settings.paths.root) if settings.governor.enabled else None
        self._log = TrainingLog(settings.paths.governor_log, _LOG_BYTES)
        self._sample = LoadSample()
        self._decision = throttle_policy.first(self._settings, self._max_workers)
        self._look_due = float("-inf")
        self._reading_due = float("-inf")
        self._show_due = float("-inf")

    def wait_open(self) -> bool:
        """Wait until a batch may be begun; False if there will be none: the worker has to stop, or the user has paused."""
        while self.update().workers_allowed == 0 and not self._stopping.is_set() and not self.paused_by_user:
            self._stand_still()
        return not self._stopping.is_set() and not self.paused_by_user

    @property
    def paused_by_user(self) -> bool:
        """Whether it was, at the last look."""
        return throttle_policy.BY_THE_USER in self._decision.causes

    def wait_resumed(self, longest_seconds: float) -> None:
        """Wait while the user's pause lasts, but not for ever: the root wants to be looked after all the same."""
        end = self._clock() + min(longest_seconds, SHOW_SECONDS)
        while self.update() and self.paused_by_user and self._clock() < end and not self._stopping.is_set():
            self._stopping.wait(_STANDING_SECONDS)
        if not self.paused_by_user:
            self._show("training")

    def rest(self) -> float:
        """Stand still while a game wants it; the seconds that took. Made to be called at every yield point."""
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
                seen["game"], seen["game_remark"] = self._listener.hear(moment, time.time())
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
