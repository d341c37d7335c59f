"""Signs of life: what a worker gives while it works, and who ends one that gives none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from background_training.ipc.channel import Tell
from background_training.ipc.child import PipedProcess

BEAT_SECONDS = 1.0
HANG_SECONDS = 60.0
"""A worker that says nothing for so long hangs. Its longest silence is the reading of a ledger of a million lines that has
lost its index."""
_LOOKS = 10


class Pulse:
    """The worker's side: tells that it lives, once a second at most, when it passes by."""

    def __init__(self, tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._due = float("-inf")

    def beat(self) -> None:
        """Cheap enough for every part of a gradient."""
        moment = self._clock()
        if moment >= self._due:
            self._due = moment + BEAT_SECONDS
            self._tell("alive")

    def wait(self, event: threading.Event, seconds: float) -> None:
        """Wait for an event as `Event.wait` does, alive all the while."""
        end = self._clock() + seconds
        while not event.wait(max(0.0, min(end - self._clock(), HANG_SECONDS / _LOOKS))):
            self.beat()
            if self._clock() >= end:
                return


class Watch:
    """The other side: a thread that kills the process when nothing has been heard of it for HANG_SECONDS.

    It counts its own looks and asks no clock: while the machine sleeps, or a debugger holds us, neither side is to blame.
    """

    def __init__(self, process: PipedProcess) -> None:
        self._process = process
        self._silent_looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="background-learner-watch", daemon=True)
        self.killed = False

    def heard(self) -> None:
        """It has said something."""
        self._silent_looks = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(HANG_SECONDS / _LOOKS):
            self._silent_looks += 1
            if self._silent_looks > _LOOKS:
                self.killed = True
                self._process.kill()
                return
