"""Progress of the replay analysis, and the build orders that it has found; read again only when due."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training.paths import Paths
from background_training.storage import atomic_files
from background_training.storage.atomic_files import Signature, signature_of

REPLAY_SUFFIX = ".sc2replay"


def count_files(folder: Path, suffix: str, most: int) -> int:
    """How many names end with the suffix, whatever their case; once there are `most`, no further folder is counted.

    Args:
        suffix: in small letters.
    """
    count = 0
    for _, _, names in os.walk(folder):
        count += sum(name.casefold().endswith(suffix) for name in names)
        if count >= most:
            break
    return count


_LARGEST_BYTES = 20_000_000
MOST_OPENINGS = 8


class BuildOrders:
    """The newest summary of replays, or None while there is none that can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: Signature | None = None
        self._content: Mapping[str, Any] | None = None

    def look(self) -> Mapping[str, Any] | None:
        try:
            found = signature_of(os.stat(self._path))
            if found != self._signature:
                content = json.loads(atomic_files.read_regular_file(self._path, max_bytes=_LARGEST_BYTES))
                self._content = content if isinstance(content, dict) else None
                self._signature = found
        except (OSError, ValueError, OverflowError, RecursionError):
            self._content, self._signature = None, None
        return self._content


@dataclass(frozen=True)
class OpeningShare:
    """How many players of a group opened like this, and when they began what, in seconds: 10 % / median / 90 %."""

    text: str
    share: float
    pool_seconds: tuple[float, float, float] | None


@dataclass(frozen=True)
class OpeningGroup:
    """Players of one start supply, against one race."""

    start_supply: str
    opponent: str
    players: int
    openings: tuple[OpeningShare, ...]


def groups(content: Mapping[str, Any]) -> list[OpeningGroup]:
    """The groups of a summary, whatever their result, the largest first; what has not the right form is passed over."""
    return sorted(_groups(content), key=lambda group: -group.players)


def _groups(content: Mapping[str, Any]) -> Iterator[OpeningGroup]:
    for supply, opponents in _items(content.get("groups")):
        for opponent, results in _items(opponents):
            anyhow = dict(_items(results)).get("any")
            players = anyhow.get("players") if isinstance(anyhow, Mapping) else None
            if isinstance(anyhow, Mapping) and isinstance(players, int):
                listed = anyhow.get("openings")
                openings = [_opening(item) for item in (listed if isinstance(listed, list) else ())[:MOST_OPENINGS]]
                yield OpeningGroup(str(supply), str(opponent), players, tuple(item for item in openings if item is not None))


def _opening(item: Any) -> OpeningShare | None:
    if not isinstance(item, Mapping) or not isinstance(item.get("share"), (int, float)):
        return None
    seconds: Any = item
    for key in ("timings", "spawning_pool", "seconds"):
        seconds = seconds.get(key) if isinstance(seconds, Mapping) else None
    pool = tuple(seconds.get(key) for key in ("p10", "median", "p90")) if isinstance(seconds, Mapping) else ()
    sound = len(pool) == 3 and all(isinstance(value, (int, float)) for value in pool)
    return OpeningShare(str(item.get("text", "?")), float(item["share"]), pool if sound else None)  # type: ignore[arg-type]


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    yield from value.items() if isinstance(value, Mapping) else ()


LOOK_SECONDS = 5.0
REST_FACTOR = 400.0
_MOST = 20_000


@dataclass(frozen=True)
class ReplayProgress:
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
        self._last: ReplayProgress | None = None

    def look(self, settings: object) -> ReplayProgress | None:
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
        found = ReplayProgress(files, max(read, 0), str(taught)[:200])
        self._last = found if files or read > 0 else None
        spent = self._clock() - begun
        self._due = begun + spent + max(LOOK_SECONDS, REST_FACTOR * spent)
        return self._last


def _folder(settings: object) -> str:
    replays = settings.get("replays") if isinstance(settings, Mapping) else None
    folder = replays.get("folder") if isinstance(replays, Mapping) else None
    return folder if isinstance(folder, str) and "\0" not in folder else ""
