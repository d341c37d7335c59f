"""Writes logs/metrics.sqlite3: a record per batch and per game, bounded, repaired from the ledger, never fatal."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from background_training.algo import ppo_update
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError, LedgerError
from background_training.learner import replay_log
from background_training.learner.checkpoint import Checkpoint
from background_training.learner.counters import BatchResult
from background_training.paths import Paths
from background_training.records import ledger_lines, metrics
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import Line
from background_training.records.metrics import (
    BATCH_TABLE,
    BATCHES,
    GAME_TABLE,
    GAMES,
    GOVERNOR_STATES,
    TABLES,
    MetricsTable,
    Records,
)
from background_training.storage import atomic_files

logger = logging.getLogger(__name__)

MOST_BATCHES = 32_768
MOST_GAMES = 131_072
RETRY_SECONDS = 60.0
BROKEN_SUFFIX, FORMER_SUFFIX = ".broken", ".former"
_MOST_UNWRITTEN = 1_000
_AT_A_TIME = 1_000
_FULL_AGAIN_BELOW = 0.75
_NEWEST_SHARE = 0.25
_LARGEST_LAG = 2**31 - 1
_OF_THE_WRITER = {"moment", "version", "weight", "won", "lost", "refused", "recovered"}


@dataclass(frozen=True)
class BatchContext:
    """The circumstances of a batch: how many files still wait, and the governor's state and readings."""

    waiting: int = 0
    governor: str = "unknown"
    others_cpu_percent: float | None = None

    @classmethod
    def of(cls, waiting: int, governed: Mapping[str, Any]) -> BatchContext:
        """From the governor's facts, as status.json has them too."""
        return cls(waiting, governed["state"], governed["readings"]["others_cpu_percent"])


class MetricsHistory:
    """The only writer of the file; its caller holds the root's worker lock.

    It promises one record per batch, whenever the process is killed: a batch and its games are one transaction, and missing
    batches are added from the ledger at the next start, without times. It does not promise that the file is readable after a
    power cut, since nothing is flushed: then it is renamed and rebuilt from the ledger. Training does not depend on it.

    The file is opened for each batch (0.1 ms) and not kept open, as an open handle would keep others from moving or deleting
    it on Windows. It has a rollback journal and not a write-ahead log, which needs shared memory between processes (none on
    network folders) and can't be read in a read-only folder.
    """

    def __init__(
        self,
        paths: Paths,
        ledger: Ledger,
        *,
        most_batches: int = MOST_BATCHES,
        most_games: int = MOST_GAMES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._paths = paths
        self._ledger = ledger
        self._most = {BATCH_TABLE: most_batches, GAME_TABLE: most_games}
        self._count = {BATCH_TABLE: 0, GAME_TABLE: 0}
        self._clock = clock
        self._unwritten: dict[int, tuple[Records, Records]] = {}
        self._is_complete = False
        self._retry_due = -math.inf
        self._process = psutil.Process()
        self._used = time.process_time(), time.perf_counter()
        self._rested = ppo_update.rested_seconds()

    def open_at(self, present: Checkpoint | None) -> None:
        """Continue after the present version of the model; add the missing batches before it."""
        self._write(present)

    def add(self, done: BatchResult, around: BatchContext) -> None:
        """Record a batch, if one was trained. If that fails, the record is kept in memory and the write is retried later."""
        trained = done.trained
        if trained is None:
            return
        self._unwritten[trained.version] = self._records_of(done, trained, around)
        if len(self._unwritten) > _MOST_UNWRITTEN:
            del self._unwritten[next(iter(self._unwritten))]  # the ledger has it, without its times
        if time.monotonic() >= self._retry_due:
            self._write(trained)

    def append(self, made: Sequence[tuple[Records, Records]]) -> None:
        """Add the record of each batch and those of its games, all or none.

        Raises:
            sqlite3.Error: there is no file, it is another program's, or the machine failed.
        """
        with self._transaction("rw") as db:
            self._insert(db, BATCH_TABLE, [batch for batch, _ in made])
            self._insert(db, GAME_TABLE, [games for _, games in made])

    def _write(self, present: Checkpoint | None) -> None:
        try:
            if self._is_complete:
                self._is_complete = False
                # If the file was deleted or replaced meanwhile, it is restored at once.
                with contextlib.suppress(sqlite3.Error, OSError):
                    self.append(list(self._unwritten.values()))
                    self._is_complete = True
            if not self._is_complete:
                self._restore(present)
            self._is_complete, self._retry_due = True, -math.inf
            self._unwritten.clear()
        except (OSError, LedgerError, sqlite3.Error) as error:
            self._retry_due = time.monotonic() + RETRY_SECONDS
            logger.warning(
                "%s not written: %s; training continues, and the missing records are added later", self._paths.metrics, error
            )

    @contextlib.contextmanager
    def _transaction(self, mode: str) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction; committed at the end, rolled back by an exception."""
        with contextlib.closing(metrics.connect(self._paths.metrics, mode)) as db:
            db.execute("PRAGMA synchronous=OFF")  # after a power cut it is rebuilt from the ledger
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    def _insert(self, db: sqlite3.Connection, table: MetricsTable, made: Sequence[Records]) -> None:
        if not made:
            return
        rows = [_row_of(record, table) for records in made for record in records.tolist()]
        db.executemany(f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(table.columns))})", rows)
        self._count[table] += len(rows)
        if self._count[table] > self._most[table]:
            self._count[table] = _downsample(db, table, self._most[table])

    def _restore(self, present: Checkpoint | None) -> None:
        """Open, create or replace the file, delete rows after the present version, and add the missing ones before it.

        Raises:
            OSError, sqlite3.OperationalError: the machine failed, or a reader holds the file for too long.
        """
        version = present.version if present else 0
        path = self._paths.metrics
        path.parent.mkdir(parents=True, exist_ok=True)
        if atomic_files.exists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            self._set_aside("not a regular file")
        try:
            last = self._continued(version)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            self._set_aside(str(error))
            last = self._continued(version)
        self._repair(last, present)

    def _continued(self, version: int) -> int:
        """Create the file if there is none, and delete rows after `version`; return the newest version that is left.

        Raises:
            sqlite3.DatabaseError: it is damaged, or another program's.
        """
        path = self._paths.metrics
        with self._transaction("rwc") as db:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                _create(db)
                self._import_old(db, version)
            _check(db)
            newest = _newest(db)
        if newest > version + 1:
            # Rows of a model that was deleted or replaced can't be rebuilt, so the file is kept. Copied while no connection is
            # open: closing any other handle of the file would release SQLite's locks on it (POSIX).
            shutil.copyfile(path, path.with_name(path.name + FORMER_SUFFIX))
        with self._transaction("rw") as db:
            for table in TABLES:
                if db.execute(f"DELETE FROM {table.name} WHERE version > ?", (version,)).rowcount:
                    _renew_edition(db, table)
                self._count[table] = db.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]
            return _newest(db)

    def _repair(self, last: int, present: Checkpoint | None) -> None:
        """Add the batches after `last`, from memory where still available, otherwise from the ledger."""
        if self._ledger.last_seq <= last:
            return
        made: list[tuple[Records, Records]] = []
        for version, lines in ledger_lines.groups(ledger_lines.read_lines(self._paths.ledger)):
            if version <= last:
                continue
            kept = self._unwritten.get(version)
            made.append(kept or recovered(version, lines, present, self._paths, self._clock()))
            if len(made) == _AT_A_TIME:
                self.append(made)
                made = []
        if made:
            self.append(made)

    def _set_aside(self, found: str) -> None:
        path = self._paths.metrics
        aside = path.with_name(path.name + BROKEN_SUFFIX)
        logger.warning("%s is not a metrics history (%s): renamed to %s, and rebuilt from the ledger", path, found, aside.name)
        atomic_files.retry_while_shared(lambda: os.replace(path, aside))
        # Its journal is renamed with it; otherwise SQLite would delete the journal beside an empty file.
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}-journal", f"{aside}-journal")

    def _import_old(self, db: sqlite3.Connection, version: int) -> None:
        """Import the files of versions before SQLite, unless they are of another model; the files are left unchanged."""
        batches, games = (
            _read_old(path, table)
            for path, table in ((self._paths.old_batch_metrics, BATCH_TABLE), (self._paths.old_game_metrics, GAME_TABLE))
        )
        if not len(batches) or int(batches["version"].max()) > version + 1:
            return
        # Games were written before their batch, so games without a batch may be incomplete.
        self._insert(db, BATCH_TABLE, [batches])
        self._insert(db, GAME_TABLE, [games[games["version"] <= batches["version"].max()]])

    def _records_of(self, done: BatchResult, trained: Checkpoint, around: BatchContext) -> tuple[Records, Records]:
        moment = self._clock()
        games = games_of(done, moment)
        seconds = {f"{stage}_seconds": spent for stage, spent in done.stage_seconds.items()}
        batch = batch_of(
            trained,
            games,
            moment,
            excluded=len(done.excluded),
            waiting=around.waiting,
            governor=governor_code(around.governor),
            others_cpu_percent=math.nan if around.others_cpu_percent is None else around.others_cpu_percent,
            staleness_seconds=float(games["age_seconds"].mean()),
            total_seconds=done.seconds,
            **seconds,
            **self._own_use(),
        )
        return batch, games

    def _own_use(self) -> dict[str, float]:
        """CPU time since the previous batch as a share of one core, memory, and for how long the throttle held this process."""
        used, now = self._used, (time.process_time(), time.perf_counter())
        rested = ppo_update.rested_seconds()
        facts = {
            "cpu_percent": 100.0 * (now[0] - used[0]) / max(now[1] - used[1], 1e-9),
            "rested_seconds": rested - self._rested,
        }
        self._used, self._rested = now, rested
        try:
            facts["memory_mb"] = self._process.memory_info().rss / 1e6
        except (OSError, psutil.Error):
            facts["memory_mb"] = math.nan
        return facts


def _create(db: sqlite3.Connection) -> None:
    for table in TABLES:
        db.execute(table.create)
    db.execute(metrics.CREATE_EDITIONS)
    for table in TABLES:
        _renew_edition(db, table)
    db.execute(f"PRAGMA user_version = {metrics.FORMAT}")


def _newest(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT max(version) FROM batches").fetchone()[0] or 0)


def _check(db: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError unless the file is sound and has exactly this project's tables."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found != metrics.FORMAT:
        raise sqlite3.DatabaseError(f"user_version is {found}, needed is {metrics.FORMAT}")
    # Compared as text: a query of a view or a trigger of another program's file may never end.
    schema = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    if any(schema.get(table.name) != table.create for table in TABLES) or schema.get("editions") != metrics.CREATE_EDITIONS:
        raise sqlite3.DatabaseError("it has other tables")
    if db.execute("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'").fetchone()[0]:
        raise sqlite3.DatabaseError("it has triggers")
    if db.execute("SELECT count(edition) FROM editions").fetchone()[0] != len(TABLES):
        raise sqlite3.DatabaseError("table editions is incomplete")
    damage = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise sqlite3.DatabaseError(damage)


def _renew_edition(db: sqlite3.Connection, table: MetricsTable) -> None:
    db.execute("INSERT OR REPLACE INTO editions VALUES (?, randomblob(16))", (table.name,))


def _row_of(record: tuple[Any, ...], table: MetricsTable) -> tuple[Any, ...]:
    """The row of a record: text for bytes, no id yet for a game. SQLite stores NaN as NULL."""
    values = tuple(metrics.text_of(value) if isinstance(value, bytes) else value for value in record)
    return (None, *values[1:]) if table.key == "id" else values


def _downsample(db: sqlite3.Connection, table: MetricsTable, most: int) -> int:
    """Down-sample the older rows; return how many rows are left."""
    rows = np.fromiter(
        db.execute(f"SELECT {table.key}, stands_for FROM {table.name} ORDER BY {table.key}"), [("key", "<i8"), ("weight", "<i8")]
    )
    kept = downsampled(rows, most)
    gone = np.setdiff1d(rows["key"], kept["key"])
    changed = kept[kept["weight"] != rows["weight"][np.searchsorted(rows["key"], kept["key"])]]
    db.executemany(f"DELETE FROM {table.name} WHERE {table.key} = ?", [(key,) for key in gone.tolist()])
    db.executemany(
        f"UPDATE {table.name} SET stands_for = ? WHERE {table.key} = ?", [(weight, key) for key, weight in changed.tolist()]
    )
    _renew_edition(db, table)
    return len(kept)


def downsampled(records: Records, most: int) -> Records:
    """At most three quarters of `most` records: the newest quarter of `most` unchanged, and a random choice of the older ones.

    Of each pair of neighbours with the least weight one is kept and its weight doubled, until few enough are left; one
    without a neighbour stays or goes with equal chance. So sums and means over all records, each times its weight, keep
    their expected value.
    """
    newest = int(_NEWEST_SHARE * most)
    older, kept = records[:-newest].copy(), records[-newest:]
    # Seeded by the records, so that the same records lead to the same choice.
    rng = np.random.Generator(np.random.PCG64([len(records), int(records["weight"].sum())]))
    while len(older) and len(older) + len(kept) > _FULL_AGAIN_BELOW * most:
        older = _halved(older, np.flatnonzero(older["weight"] == older["weight"].min()), rng)
    return np.concatenate([older, kept])


def _halved(records: Records, chosen: npt.NDArray[Any], rng: np.random.Generator) -> Records:
    pairs = chosen[: len(chosen) // 2 * 2].reshape(-1, 2)
    # Random, not always the first: of two opponents that alternate, one would disappear otherwise.
    losers = pairs[np.arange(len(pairs)), rng.integers(0, 2, len(pairs))]
    alone = chosen[len(pairs) * 2 :]
    losers = np.concatenate([losers, alone[rng.random(len(alone)) < 0.5]])
    records["weight"][np.setdiff1d(chosen, losers)] *= 2
    return np.delete(records, losers)


_OLD_HEADER_BYTES = 32
_OLD_MAGIC = b"BTrecord" + (1).to_bytes(4, "little")


def _read_old(path: Path, table: MetricsTable) -> Records:
    """The sound records of a file of fixed-size records, the format before SQLite; none if it is another file.

    Such a record had the present fields (games without `id`), a spare byte, and at its end a checksum over its words.
    """
    fields: list[tuple[str, str]] = [(name, str(table.layout[name].str)) for name in table.layout.names or () if name != "id"]
    spare_at = 1 + max(place for place, (_, kind) in enumerate(fields) if kind == "|u1")
    old = np.dtype([*fields[:spare_at], ("spare", "u1"), *fields[spare_at:], ("check", "<u4")])
    found = np.zeros(0, table.layout)
    try:
        data = atomic_files.read_regular_file(path)
    except OSError:
        return found
    if data[:16] != _OLD_MAGIC + old.itemsize.to_bytes(4, "little") or len(data) < _OLD_HEADER_BYTES:
        return found
    records = np.frombuffer(data, old, (len(data) - _OLD_HEADER_BYTES) // old.itemsize, _OLD_HEADER_BYTES)
    records = records[records["check"] == _old_checksums(records)]
    found = np.zeros(len(records), table.layout)
    for name, _ in fields:
        found[name] = records[name]
    return found


def _old_checksums(records: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    words = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), records.dtype.itemsize).view("<u4")[:, :-1]
    weights = (2654435761 * np.arange(1, words.shape[1] + 1, dtype=np.uint64)).astype(np.uint32) | np.uint32(1)
    sums: npt.NDArray[np.uint32] = (words * weights).sum(axis=1, dtype=np.uint32) + np.uint32(0x5EA1ED)
    return sums


def games_of(done: BatchResult, moment: float) -> Records:
    """A record for each game of a trained batch."""
    assert done.trained is not None
    records = _blank_games(done.trained.version, len(done.accepted), moment)
    for record, item in zip(records, done.accepted, strict=True):
        _describe(record, item.episode)
        record["age_seconds"] = max(0.0, moment - item.signature[2] / 1e9)
    return records


def batch_of(trained: Checkpoint, games: Records, moment: float, **more: float) -> Records:
    """The record of a version's batch, from its report and `more`."""
    facts = {**trained.report, **more}
    return _batch_record(trained.version, facts, games, moment, refused=bool(trained.report.get("refused")))


def recovered(
    version: int, lines: Sequence[Line], present: Checkpoint | None, paths: Paths, moment: float
) -> tuple[Records, Records]:
    """The records of a batch and its games that were not written before a crash, from the batch's lines in the ledger.

    For the present model's batch also from its report and the archived episodes. Times stay unknown.
    """
    games = _blank_games(version, len(lines), moment)
    is_present = present is not None and present.version == version
    for record, line in zip(games, lines, strict=True):
        record["steps"], record["episode_return"] = line.get("steps", 0), line.get("return", np.nan)
        record["lag"] = _lag(version, line.get("policy_version"))
        episode = _read(paths, line) if is_present else None
        if episode is not None:
            _describe(record, episode)
    facts: dict[str, Any] = {
        "games": len(games),
        "steps": int(games["steps"].sum()),
        "mean_return": float(games["episode_return"].mean()),
        "mean_length": float(games["steps"].mean()),
    }
    if is_present and present is not None:
        facts |= present.report
    refused = any(line.get("refused") for line in lines)
    return _batch_record(version, facts, games, moment, refused=refused, recovered=True), games


def governor_code(state: str) -> int:
    """The number that stands for a state of the governor in a record."""
    return GOVERNOR_STATES.index(state) if state in GOVERNOR_STATES else 0


def _batch_record(
    version: int, facts: Mapping[str, Any], games: Records, moment: float, *, refused: bool, recovered: bool = False
) -> Records:
    record = np.zeros(1, BATCHES)
    results = games["result"]
    own = {"moment": moment, "version": version, "weight": 1, "refused": refused, "recovered": recovered}
    own |= {"won": int((results == metrics.WON).sum()), "lost": int((results == metrics.LOST).sum())}
    for name in BATCHES.names or ():
        known = own if name in _OF_THE_WRITER else facts
        _put(record, name, known.get(name, np.nan))
    return record


def _put(record: Records, name: str, value: Any) -> None:
    """Store a number, limited to the range of the field: the report of another program's model may hold any number."""
    kind = record.dtype[name]
    number = float(value) if isinstance(value, (int, float)) else np.nan
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            record[name] = number
    else:
        record[name] = 0 if np.isnan(number) else int(min(max(number, 0.0), float(np.iinfo(kind).max)))


def _blank_games(version: int, count: int, moment: float) -> Records:
    records = np.zeros(count, GAMES)
    records["moment"], records["version"], records["number"], records["weight"] = moment, version, np.arange(count), 1
    records["age_seconds"], records["lag"] = np.nan, -1
    return records


def _describe(record: Any, episode: Episode) -> None:
    record["steps"], record["episode_return"] = episode.steps, episode.episode_return
    record["lag"] = _lag(int(record["version"]), episode.policy_version)
    record["result"] = metrics.result_code(episode.meta)
    record["terminated"], record["recorded"] = episode.terminated, episode.log_probs is not None
    record["opponent"] = metrics.name_of(episode.meta.get("opponent"))
    record["map"] = metrics.name_of(episode.meta.get("map"))


def _lag(version: int, played_by: int | None) -> int:
    return -1 if played_by is None else min(max(version - 1 - played_by, 0), _LARGEST_LAG)


def _read(paths: Paths, line: Line) -> Episode | None:
    """The trained episode of a line, read again; None if it is gone."""
    try:
        return replay_log.episode_of(paths, line)
    except (LedgerError, EpisodeError):
        return None
