"""What replays have taught, read again only when the file has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training.storage import atomic_files
from background_training.storage.atomic_files import Signature, signature_of

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
class Opening:
    """How many players of a group opened like this, and when they began what, in seconds: 10 % / median / 90 %."""

    text: str
    share: float
    pool_seconds: tuple[float, float, float] | None


@dataclass(frozen=True)
class Group:
    """Players of one start supply, against one race."""

    start_supply: str
    opponent: str
    players: int
    openings: tuple[Opening, ...]


def groups(content: Mapping[str, Any]) -> list[Group]:
    """The groups of a summary, whatever their result, the largest first; what has not the right form is passed over."""
    return sorted(_groups(content), key=lambda group: -group.players)


def _groups(content: Mapping[str, Any]) -> Iterator[Group]:
    for supply, opponents in _items(content.get("groups")):
        for opponent, results in _items(opponents):
            anyhow = dict(_items(results)).get("any")
            players = anyhow.get("players") if isinstance(anyhow, Mapping) else None
            if isinstance(anyhow, Mapping) and isinstance(players, int):
                listed = anyhow.get("openings")
                openings = [_opening(item) for item in (listed if isinstance(listed, list) else ())[:MOST_OPENINGS]]
                yield Group(str(supply), str(opponent), players, tuple(item for item in openings if item is not None))


def _opening(item: Any) -> Opening | None:
    if not isinstance(item, Mapping) or not isinstance(item.get("share"), (int, float)):
        return None
    seconds: Any = item
    for key in ("timings", "spawning_pool", "seconds"):
        seconds = seconds.get(key) if isinstance(seconds, Mapping) else None
    pool = tuple(seconds.get(key) for key in ("p10", "median", "p90")) if isinstance(seconds, Mapping) else ()
    sound = len(pool) == 3 and all(isinstance(value, (int, float)) for value in pool)
    return Opening(str(item.get("text", "?")), float(item["share"]), pool if sound else None)  # type: ignore[arg-type]


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    yield from value.items() if isinstance(value, Mapping) else ()
