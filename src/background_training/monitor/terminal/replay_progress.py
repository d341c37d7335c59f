"""How many of the replays that the learner was given have been read; counted seldom, as folders may be large."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training.monitor.file_count import REPLAY_SUFFIX, count_files
from background_training.monitor.web.build_orders import BuildOrders
from background_training.paths import Paths

LOOK_SECONDS = 5.0
REST_FACTOR = 400.0
_MOST = 20_000


@dataclass(frozen=True)
class Progress:
    """files: replays in the learner's folder, 0 if none is set; read: those whose result is kept; summary: what they taught."""

    files: int
    read: int
    summary: str = ""


class ReplayCensus:
    """Counts again when it is due; a folder of more than 20,000 replays is not counted to its end."""

    def __init__(self, paths: Paths, clock: Callable[[], float] = time.monotonic) -> None:
        self._results = paths.replay_results
        self._build_orders = BuildOrders(paths.build_orders)
        self._clock = clock
        self._due = float("-inf")
        self._last: Progress | None = None

    def look(self, settings: object) -> Progress | None:
        """The progress; None where there are no replays.

        Args:
            settings: those of the learner, as status.json has them.
        """
        begun = self._clock()
        if begun < self._due:
            return self._last
        folder = _folder(settings)
        files = count_files(Path(folder).expanduser(), REPLAY_SUFFIX, _MOST) if folder else 0
        read = count_files(self._results, ".json", _MOST) - os.path.exists(self._results / "index.json")
        taught: Any = (self._build_orders.look() or {}).get("summary", "")
        found = Progress(files, max(read, 0), str(taught)[:200])
        self._last = found if files or read > 0 else None
        spent = self._clock() - begun
        self._due = begun + spent + max(LOOK_SECONDS, REST_FACTOR * spent)
        return self._last


def _folder(settings: object) -> str:
    replays = settings.get("replays") if isinstance(settings, Mapping) else None
    folder = replays.get("folder") if isinstance(replays, Mapping) else None
    return folder if isinstance(folder, str) and "\0" not in folder else ""
