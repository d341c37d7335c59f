"""The metrics history: one record per batch and one per game, written by the learner, read by whoever shows them.

docs/file-formats.md tells what each field means. To read it all at once: `metrics.read(paths)`; to follow it while it
grows: `MetricsReader(paths)` and `look()`, again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from local_training import record_file
from local_training.paths import Paths
from local_training.record_file import CHECK_FIELD, Place, Records

SCHEMA = 1
NAME_BYTES = 32

UNKNOWN, WON, LOST, DRAWN = 0, 1, 2, 3
_RESULTS = {
    WON: {"victory", "win", "won", "winner"},
    LOST: {"defeat", "loss", "lose", "lost", "loser"},
    DRAWN: {"tie", "draw", "drawn", "tied"},
}
GOVERNOR_STATES = ("unknown", "off", "free", "giving way", "paused")
"""The field `governor` of a batch is an index into these."""

_FLOATS_OF_BATCH = (
    "mean_return",
    "mean_length",
    "loss",
    "policy_loss",
    "value_loss",
    "entropy",
    "kl",
    "clipped_share",
    "gradient_norm",
    "learning_rate",
    "staleness_versions",
    "staleness_seconds",
    "explained_variance",
    "epochs",
    "load_seconds",
    "train_seconds",
    "commit_seconds",
    "archive_seconds",
    "total_seconds",
    "rested_seconds",
    "cpu_percent",
    "memory_mb",
    "others_cpu_percent",
)

BATCHES = np.dtype(
    [("moment", "<f8"), ("version", "<u4"), ("weight", "<u4"), ("games", "<u4"), ("steps", "<u4")]
    + [("won", "<u4"), ("lost", "<u4"), ("replayed_games", "<u4"), ("replayed_steps", "<u4"), ("plain_games", "<u4")]
    + [("waiting", "<u4"), ("set_aside", "<u4")]
    + [(name, "<f4") for name in _FLOATS_OF_BATCH]
    + [("governor", "u1"), ("refused", "u1"), ("recovered", "u1"), ("spare", "u1"), (CHECK_FIELD, "<u4")]
)
"""One batch, which is one version of the model. NaN: not known. weight: how many batches the record stands for."""

GAMES = np.dtype(
    [
        ("moment", "<f8"),
        ("version", "<u4"),
        ("number", "<u4"),
        ("weight", "<u4"),
        ("steps", "<u4"),
        ("episode_return", "<f4"),
        ("age_seconds", "<f4"),
        ("lag", "<i4"),
        ("result", "u1"),
        ("terminated", "u1"),
        ("recorded", "u1"),
        ("spare", "u1"),
        ("opponent", f"S{NAME_BYTES}"),
        ("map", f"S{NAME_BYTES}"),
        (CHECK_FIELD, "<u4"),
    ]
)
"""One trained game, the `number`th of its batch. lag: in versions, -1 if not known. recorded: has log-probabilities."""


@dataclass(frozen=True)
class Metrics:
    """Both series, oldest first; NumPy arrays with the fields of BATCHES and GAMES."""

    batches: Records
    games: Records


class MetricsReader:
    """Follows both series of one root. Each look costs two small reads and what is new; nothing is written or locked.

    It promises records in the order of their versions, each version once. It does not promise that a record stays: the
    oldest become fewer, and then stand for several games each; after a look that says so, all records are others.
    """

    def __init__(self, paths: Paths) -> None:
        self._batches = _Series(paths.batch_metrics, BATCHES)
        self._games = _Series(paths.game_metrics, GAMES)

    def look(self) -> bool:
        """Take in what is new; True if anything has changed. What can't be read changes nothing."""
        return bool(self._batches.look() | self._games.look())

    @property
    def batches(self) -> Records:
        return self._batches.records

    @property
    def games(self) -> Records:
        return self._games.records

    @property
    def edition(self) -> tuple[bytes, bytes]:
        """Equal editions: since then records have only been added to the end."""
        return self._batches.place.edition, self._games.place.edition


class _Series:
    """One file, read as far as it has come, in an array that grows by doubling."""

    def __init__(self, path: Path, layout: np.dtype[Any]) -> None:
        self._path = path
        self._room = np.empty(0, layout)
        self._count = 0
        self.place = Place()

    @property
    def records(self) -> Records:
        return self._room[: self._count]

    def look(self) -> bool:
        try:
            new, place, anew = record_file.read(self._path, self._room.dtype, SCHEMA, self.place)
        except OSError:
            return False
        self.place = place
        if anew:
            self._count = 0
        if len(new) > len(self._room) - self._count:
            room = np.empty(max(2 * len(self._room), self._count + len(new)), self._room.dtype)
            room[: self._count] = self.records
            self._room = room
        self._room[self._count : self._count + len(new)] = new
        self._count += len(new)
        return anew or len(new) > 0


def read(paths: Paths) -> Metrics:
    """Both series as they are now; empty ones where there are none."""
    reader = MetricsReader(paths)
    reader.look()
    return Metrics(reader.batches, reader.games)


def result_code(meta: Mapping[str, Any]) -> int:
    """WON, LOST, DRAWN or UNKNOWN, from the `result` of an episode's meta."""
    word = str(meta.get("result", ""))[:20].casefold()
    return next((code for code, words in _RESULTS.items() if word in words), UNKNOWN)


def name_of(value: Any) -> bytes:
    """A name out of an episode's meta, as a record holds it: UTF-8, cut between two signs, and empty for what is no name."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return b""
    cut = str(value)[:NAME_BYTES].encode("utf-8", "replace")[:NAME_BYTES]
    return cut.decode("utf-8", "ignore").strip("\0").encode("utf-8")


def text_of(name: bytes) -> str:
    """The text of a record's name. It comes from a file that anybody may have written: show it, never run it."""
    return name.decode("utf-8", "replace")
