"""Deposit episodes; keep them in memory while the disk fails, without blocking the game."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from background_training.episodes import buffer, episode_file
from background_training.paths import Paths

logger = logging.getLogger(__name__)

MAX_WAITING_BYTES = 64_000_000


class Outbox:
    """Deposits episodes; what can't be deposited now is tried again with each further one.

    It never raises for a failure of the operating system and never holds more than `max_waiting_bytes`. It does not guarantee
    that an episode survives the end of the process while the disk is still full. Dropped episodes are counted in `given_up`
    and logged.
    """

    def __init__(self, paths: Paths, *, durable: bool = True, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self._paths = paths
        self._durable = durable
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[tuple[bytes, str]] = deque()
        self.given_up = 0

    @property
    def waiting(self) -> int:
        """Number of episodes that are not deposited yet."""
        return len(self._waiting)

    def deposit(self, arrays: Mapping[str, Any], result: str) -> Path | None:
        """Deposit an episode, after those that wait; the file's path, or None if it has to wait.

        One beyond what a reader takes by default is deposited in parts (`episode_file.in_parts`); the path is the last one's.

        Raises:
            EpisodeError: the arrays make no episode.
        """
        # Packed at once: an invalid episode must be rejected now, not when the disk works again.
        parts = [episode_file.pack(part) for part in episode_file.in_parts(arrays)]
        self._waiting.extend((part, result) for part in parts)
        path = self.retry()
        while self._waiting and self._waiting_bytes() > self._max_waiting_bytes:
            self._waiting.popleft()
            self.given_up += 1
            logger.error("an episode was given up, %d in all: the buffer has refused too many to keep", self.given_up)
        return path

    def retry(self) -> Path | None:
        """Deposit what waits, oldest first; the path of the last one if none is left waiting."""
        path = None
        while self._waiting:
            data, result = self._waiting[0]
            try:
                path = buffer.deposit_packed(self._paths, data, result, durable=self._durable)
            except OSError as error:
                logger.warning("%d episodes wait in memory: %s", len(self._waiting), error)
                return None
            self._waiting.popleft()
        return path

    def _waiting_bytes(self) -> int:
        return sum(len(data) for data, _ in self._waiting)
