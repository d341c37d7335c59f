"""Whether this process has come to take more memory than it may, so that another one should go on in its place."""

from __future__ import annotations

import psutil

from background_training.ipc.channel import Tell


class Growth:
    """Compares the process with what it took when its work began."""

    def __init__(self, most_bytes: int, tell: Tell) -> None:
        self._most = most_bytes
        self._tell = tell
        self._process = psutil.Process()
        self._at_start = 0

    def begin(self) -> None:
        """Remember what the process takes with its work at hand; the first time counts."""
        self._at_start = self._at_start or self._process.memory_info().rss

    def is_too_large(self) -> bool:
        """Whether it takes more than it may, and did not from its start: then another one would, too. It says so."""
        if not self._at_start or self._at_start > self._most:
            return False
        present = self._process.memory_info().rss
        if present <= self._most:
            return False
        sentence = f"it takes {present >> 20} MiB, more than learner.worker_memory_bytes, {self._most >> 20} MiB"
        self._tell("farewell", sentence=sentence)
        return True
