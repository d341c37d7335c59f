"""The metrics history: one record per batch and one per game in logs/metrics.sqlite3; its schema and its reader.

docs/reference/status-and-metrics.md lists the columns. To read all at once: `metrics.read(paths)`; to follow it while it grows:
`MetricsReader(paths)` and `look()`, again and again. The writer is src/background_training/learner/metrics_writer.py.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.paths import Paths
from background_training.storage.atomic_files import Signature, signature_of

Records = npt.NDArray[np.void]

FORMAT = 1
"""`PRAGMA user_version` of the file."""
NAME_BYTES = 32
BUSY_SECONDS = 1.0
"""How long a reader waits for the writer's commit, and the writer for a reader's chunk."""

_ROWS_AT_A_TIME = 4_096
_SETTLE_SECONDS = 2.0

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
    + [("governor", "u1"), ("refused", "u1"), ("recovered", "u1")]
)
"""One batch, which is one version of the model. NaN: not known. weight: how many batches the record stands for."""

GAMES = np.dtype(
    [
        ("id", "<i8"),
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
        ("opponent", f"S{NAME_BYTES}"),
        ("map", f"S{NAME_BYTES}"),
    ]
)
"""One trained game, the `number`th of its batch. lag: in versions, -1 if not known. recorded: has log-probabilities."""

_COLUMN_OF = {
    "moment": "unix_seconds",
    "weight": "stands_for",
    "number": "number_in_batch",
    "lag": "lag_versions",
    "recorded": "has_log_probs",
    "result": "result_code",
    "governor": "governor_code",
    "mean_length": "mean_length_steps",
    "episode_return": "undiscounted_return",
}
"""Where the column's name in the file says more than the field's name in the array."""


@dataclass(frozen=True)
class MetricsTable:
    """A table of the file and the array that its rows become.

    key: the field whose column is the primary key; rows are added in its order.
    """

    name: str
    key: str
    layout: np.dtype[Any]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(_COLUMN_OF.get(field, field) for field in self.layout.names or ())

    @property
    def create(self) -> str:
        kinds = {"f": "REAL", "S": "TEXT"}
        columns = [
            f"{column} {'INTEGER PRIMARY KEY' if field == self.key else kinds.get(self.layout[field].kind, 'INTEGER')}"
            for field, column in zip(self.layout.names or (), self.columns, strict=True)
        ]
        return f"CREATE TABLE {self.name} ({', '.join(columns)})"


BATCH_TABLE = MetricsTable("batches", "version", BATCHES)
GAME_TABLE = MetricsTable("games", "id", GAMES)
TABLES = (BATCH_TABLE, GAME_TABLE)
CREATE_EDITIONS = "CREATE TABLE editions (table_name TEXT PRIMARY KEY, edition BLOB)"
"""The edition of a table is a random number that is replaced whenever rows were changed or deleted, not only added."""


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open the file in SQLite's `mode` (ro, rw, rwc), without implicit transactions.

    Raises:
        sqlite3.Error: it can't be opened.
    """
    uri = path.absolute().as_uri()
    if not uri.startswith("file:///"):
        uri = uri.replace("file://", "file:////", 1)  # a UNC path: SQLite refuses a server as the URI's authority
    return sqlite3.connect(f"{uri}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None)


@dataclass(frozen=True)
class Metrics:
    """Both series, oldest first; NumPy arrays with the fields of BATCHES and GAMES."""

    batches: Records
    games: Records


class MetricsReader:
    """Follows both series of one root. A look costs one stat() while nothing changes, and then what is new.

    It promises records in the order of their versions, each version once, and never writes. It locks the file for some
    milliseconds per chunk, so that a long history does not hold up the writer. It does not promise that a record stays:
    older ones are down-sampled (see `edition`). A file that a killed writer left in the middle of a commit can't be read
    until the learner starts again; what was read before stays.
    """

    def __init__(self, paths: Paths) -> None:
        self._path = paths.metrics
        self._batches = _Series(BATCH_TABLE)
        self._games = _Series(GAME_TABLE)
        self._signature: Signature | None = None
        self._settled = -np.inf

    def look(self) -> bool:
        """Take in what is new; True if anything has changed. What can't be read changes nothing."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            self._signature = None
            return self._batches.clear() | self._games.clear()
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode):
            return False  # to open a named pipe may block for ever
        now, found = time.monotonic(), signature_of(status)
        if found != self._signature:
            # Two commits within one tick of the file's clock have the same signature, so read on until it is older than that.
            self._signature, self._settled = found, now + _SETTLE_SECONDS
        elif now >= self._settled:
            return False
        try:
            with contextlib.closing(connect(self._path, "ro")) as db:
                db.text_factory = bytes
                return self._batches.look(db) | self._games.look(db)
        except (sqlite3.Error, TypeError, ValueError, OverflowError):  # locked, damaged, or another program's
            self._settled = now + _SETTLE_SECONDS
            return False

    @property
    def batches(self) -> Records:
        return self._batches.records

    @property
    def games(self) -> Records:
        return self._games.records

    @property
    def edition(self) -> tuple[bytes, bytes]:
        """Equal editions: since then records have only been added to the end."""
        return self._batches.edition, self._games.edition


class _Series:
    """One table, read up to its last key, in an array that grows by doubling."""

    def __init__(self, table: MetricsTable) -> None:
        self._table = table
        columns, key = ", ".join(table.columns), table.key
        self._select = f"SELECT {columns} FROM {table.name} WHERE {key} > ? ORDER BY {key} LIMIT {_ROWS_AT_A_TIME}"
        self._room: Records = np.empty(0, table.layout)
        self._count = 0
        self.edition = b""

    @property
    def records(self) -> Records:
        return self._room[: self._count]

    def clear(self) -> bool:
        """Forget all records; True if there were any."""
        had_any, self._count, self.edition = self._count > 0, 0, b""
        return had_any

    def look(self, db: sqlite3.Connection) -> bool:
        changed = False
        while True:
            db.execute("BEGIN")
            format_number = db.execute("PRAGMA user_version").fetchone()[0]
            # A view of this name may take for ever.
            is_table = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (self._table.name,)).fetchone()
            row = db.execute("SELECT edition FROM editions WHERE table_name = ?", (self._table.name,)).fetchone()
            if format_number != FORMAT or row is None or is_table is None:
                raise sqlite3.DatabaseError(f"no metrics history of format {FORMAT}")
            if row[0] != self.edition:
                changed |= self.clear()
                self.edition = row[0]
            last = int(self.records[self._table.key][-1]) if self._count else 0
            new = np.fromiter(db.execute(self._select, (last,)), self._table.layout)
            db.execute("COMMIT")
            if not (np.diff(new[self._table.key].astype(np.int64), prepend=last) > 0).all():
                raise sqlite3.DatabaseError("keys do not rise")  # a damaged index, in which this loop might not end
            self._extend(new)
            changed |= len(new) > 0
            if len(new) < _ROWS_AT_A_TIME:
                return changed

    def _extend(self, new: Records) -> None:
        if len(new) > len(self._room) - self._count:
            room = np.empty(max(2 * len(self._room), self._count + len(new)), self._room.dtype)
            room[: self._count] = self.records
            self._room = room
        self._room[self._count : self._count + len(new)] = new
        self._count += len(new)


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
    """The text of a record's name. It is untrusted: escape it where it is shown."""
    return name.decode("utf-8", "replace")
