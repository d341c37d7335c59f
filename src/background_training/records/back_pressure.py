"""Back-pressure: whether too many episodes of a root wait for its learner, whether that is running, and why it is slow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from background_training.paths import Paths, is_episode_name
from background_training.records import pause_file, status
from background_training.records.status import EMPTY_STATS

STARVED_EPISODES, STARVED_SECONDS = 5, 10.0
"""Waiting episodes, and time without a batch, from which on the learner counts as not keeping up."""
_LOOK_SECONDS = 0.01
_STATUS_SECONDS = 0.5


def most_waiting(max_episodes_ahead: int, instances: int = 1) -> int:
    """The number of waiting episodes from which games wait; 0: they never do.

    At least two, so that one can be played while another is trained on.
    """
    return max(2, max_episodes_ahead * instances) if max_episodes_ahead else 0


def waiting_episodes(paths: Paths, enough: int | None = None) -> int:
    """Number of episodes in the buffer, those of a batch in training included; 0 if it can't be listed.

    Args:
        enough: stop counting there, so that a look costs microseconds also in a large buffer.
    """
    count = 0
    try:
        with os.scandir(paths.buffer) as entries:
            for entry in entries:
                count += is_episode_name(entry.name)
                if enough is not None and count >= enough:
                    break
    except OSError:
        return 0
    return count


class BackPressure:
    """Delays a bot between two games while the learner of its root has too many episodes to train on.

    The game may outrun the learner, and stale episodes are of little use. It never waits for a learner that is not there, that
    the user has paused, or that has failed, and never for longer than its caller allows.
    """

    def __init__(
        self, paths: Paths, most: int, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Prepare.

        Args:
            most: the number of waiting episodes from which games wait; 0: never.
        """
        self._paths = paths
        self._most = most
        self._clock = clock
        self._sleep = sleep

    def is_needed(self) -> bool:
        """Whether too many episodes wait."""
        return self._most > 0 and waiting_episodes(self._paths, self._most) >= self._most

    def wait(self, longest_seconds: float, announce: Callable[[], None], meanwhile: Callable[[], None] = lambda: None) -> str:
        """Wait as long as it is needed and a learner runs; why too many episodes still wait, "" if they don't.

        Args:
            longest_seconds: for this long at most; 0: switched off.
            announce: called before the first sleep.
            meanwhile: called before each sleep.
        """
        if longest_seconds <= 0 or not self.is_needed():
            return ""
        deadline, look_at, content = self._clock() + longest_seconds, self._clock(), None
        announced = False
        while self.is_needed():
            moment = self._clock()
            if moment >= look_at:
                look_at, content = moment + _STATUS_SECONDS, status.read(self._paths)
                if not _trains(content) or pause_file.read(self._paths) is not None:
                    break
            if moment >= deadline:
                break
            if not announced:
                announced = True
                announce()
            meanwhile()
            self._sleep(min(_LOOK_SECONDS, deadline - moment))
        else:
            return ""
        return self._reason(content)

    def _reason(self, content: Mapping[str, Any] | None) -> str:
        """Why the learner does not keep up; "" where there is none that should."""
        if content is None or content.get("state") == "stopped" or not _is_for_training(content):
            return ""  # episodes are collected to be trained on later
        waiting = waiting_episodes(self._paths)
        found = content.get("stats")
        stats = {**EMPTY_STATS, **found} if isinstance(found, Mapping) else EMPTY_STATS
        pause = pause_file.read(self._paths)
        if pause is not None:
            return f"{_wait(waiting)}: training is paused, as the user has asked for it ({pause.words})"
        if content.get("state") == "starting":
            return f"{_wait(waiting)}: the learner's process has not started yet"
        slow = f"{_wait(waiting)}: the game is faster than the learner"
        return starvation(stats, _is_running(content), waiting, time.time()) or slow


def _trains(content: Mapping[str, Any] | None) -> bool:
    """Whether a status is that of a running learner that trains."""
    return content is not None and _is_for_training(content) and _is_running(content)


def _is_running(content: Mapping[str, Any]) -> bool:
    return status.is_running(content, status.writer_is_gone(content), time.time())


def _is_for_training(content: Mapping[str, Any]) -> bool:
    learner: Any = content.get("settings")
    learner = learner.get("learner") if isinstance(learner, Mapping) else None
    return not (isinstance(learner, Mapping) and learner.get("enable_model_training") is False)


def starvation(stats: Mapping[str, Any], running: bool, waiting: int, now: float) -> str:
    """Why the learner does not keep up with the games; empty if it does.

    Args:
        running: whether it runs.
        waiting: episodes of the games that it has not processed.
        now: seconds since 1970.
    """
    if not waiting:
        return ""
    state, _, reason = str(stats["governor"]).partition(": ")
    if not running:
        return f"{_wait(waiting)}: the learner has stopped" + (f" ({stats['last_error']})" if stats["last_error"] else "")
    if state == "paused":
        return f"{_wait(waiting)}: training is paused, as {reason}"
    if state == "giving way" and waiting >= STARVED_EPISODES:
        return f"{_wait(waiting)}: training gives way, as {reason}"
    last = stats["last_batch_time"]
    if isinstance(last, (int, float)) and last and waiting >= STARVED_EPISODES and now - last > STARVED_SECONDS:
        cause = reason.removeprefix("slow, as ") or "the machine is busy or the batch is long"
        return f"{_wait(waiting)}: no batch was trained for {now - last:.0f} s, as {cause}"
    return ""


def counted(episodes: int) -> str:
    """A number of episodes in words: 1 episode, 7 episodes."""
    return "1 episode" if episodes == 1 else f"{episodes} episodes"


def _wait(waiting: int) -> str:
    return f"{counted(waiting)} wait{'s' if waiting == 1 else ''}"
