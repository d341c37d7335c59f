"""What the page shows of a root, read by one thread for all open pages: the ledger followed while it grows, and the rest."""

from __future__ import annotations

import os
import stat
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training.episodes.buffer import DELETED, DUPLICATE, REJECTED, STALE, TRAINED
from background_training.monitor import facts
from background_training.monitor.facts import Reader, Snapshot
from background_training.monitor.replays import BuildOrders
from background_training.paths import Paths
from background_training.records import episode_fate, ledger_lines
from background_training.records.metrics import MetricsReader, Records

BYTES_PER_LOOK = 8_000_000
NEWEST_KEPT = 30
_MOST_REASONS = 200
_CHECKED_BYTES = 64
_TRAINED_MARK = b'"fate": "trained"'


@dataclass(frozen=True)
class LedgerFacts:
    """What has been read of a ledger so far.

    counts: files by their fate, and "deleted <fate>" for those deleted since.
    reasons: (fate, kind of reason, count, the newest one's words), the most frequent first.
    newest: lines of the files that were set aside last, newest first.
    read_share: how much of the file has been read, from 0 to 1.
    damaged: lines that could not be read.
    trouble: why nothing can be read; "" when something can, or when there is no ledger yet.
    """

    counts: Mapping[str, int]
    reasons: tuple[tuple[str, str, int, str], ...] = ()
    newest: tuple[Mapping[str, Any], ...] = ()
    read_share: float = 1.0
    damaged: int = 0
    trouble: str = ""


class LedgerFollower:
    """Reads a ledger in bounded parts, so that one of a million lines is read without slowing the learner down.

    It promises counts that are those of the whole file once `read_share` is 1, and bounded memory. A file that was
    replaced, for example by a compacted one, is read from the start. It locks nothing.
    """

    def __init__(self, path: Path, *, bytes_per_look: int = BYTES_PER_LOOK) -> None:
        self._path = path
        self._bytes_per_look = bytes_per_look
        self._begin()

    def look(self) -> LedgerFacts:
        """Read the next part of the file and return the facts so far."""
        trouble = ""
        try:
            self._take_in()
        except FileNotFoundError:
            self._begin()
        except OSError as error:
            trouble = f"can't be read: {error.strerror or error}"
        kinds = [(fate, kind, count, self._examples[fate, kind]) for (fate, kind), count in self._reasons.most_common()]
        return LedgerFacts(self._counts.copy(), tuple(kinds), tuple(self._newest), self._share, self._damaged, trouble)

    def _begin(self) -> None:
        self._identity: tuple[int, int] | None = None
        self._offset = self._damaged = 0
        self._share = 1.0
        self._last_read = b""
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        self._newest: deque[Mapping[str, Any]] = deque(maxlen=NEWEST_KEPT)

    def _take_in(self) -> None:
        if not stat.S_ISREG(os.lstat(self._path).st_mode):
            raise OSError("is no regular file")
        with open(self._path, "rb") as file:
            found = os.fstat(file.fileno())
            file.seek(max(0, self._offset - len(self._last_read)))
            replaced = self._identity not in (None, (found.st_dev, found.st_ino)) or found.st_size < self._offset
            # The number of a file that is gone may be given to a new one, so what was read last is looked at again.
            if replaced or file.read(len(self._last_read)) != self._last_read:
                self._begin()
                file.seek(0)
            self._identity = found.st_dev, found.st_ino
            data = file.read(self._bytes_per_look)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and len(data) == self._bytes_per_look:
            whole, self._damaged = data, self._damaged + 1  # no line of ours is that long
        self._offset += len(whole)
        self._last_read = (self._last_read + whole)[-_CHECKED_BYTES:]
        for line in whole.split(b"\n")[:-1]:
            self._count(line)
        # What is left beyond the last line feed is being written just now, and no line yet.
        self._share = min(self._offset / found.st_size, 1.0) if len(data) == self._bytes_per_look else 1.0

    def _count(self, text: bytes) -> None:
        # Nearly all lines are of trained files. These words, with quotes not escaped, can't stand within a text.
        if _TRAINED_MARK in text and b'"deleted"' not in text and text.endswith(b"}"):
            self._counts[TRAINED] += 1
            return
        line = ledger_lines.parse(text)
        try:
            self._counts.update(ledger_lines.counts_of([line]) if line is not None else ())
        except (KeyError, TypeError, ValueError):
            line = None
        if line is None:
            self._damaged += 1
        elif line["fate"] in (STALE, DUPLICATE, REJECTED):
            self._remember(line)

    def _remember(self, line: Mapping[str, Any]) -> None:
        kind = episode_fate.kind_of(line["fate"], words := str(line.get("reason", "")))
        if (line["fate"], kind) in self._examples or len(self._examples) < _MOST_REASONS:
            self._reasons[line["fate"], kind] += 1
            self._examples[line["fate"], kind] = episode_fate.without_code(words)
        self._newest.appendleft(line)


def deleted(counts: Mapping[str, int]) -> int:
    """How many files were deleted since, whatever their fate."""
    return sum(count for fate, count in counts.items() if fate.startswith(f"{DELETED} "))


LOG_LINES = 60


@dataclass(frozen=True)
class PageFacts:
    """One look.

    root: as given to --root.
    batches, games: the metrics history; valid until the next look.
    mark: equal marks tell of an equal history.
    """

    root: str
    snapshot: Snapshot
    ledger: LedgerFacts
    log_lines: tuple[str, ...]
    batches: Records
    games: Records
    mark: tuple[Any, ...]
    build_orders: Mapping[str, Any] | None = None


class Watcher:
    """Reads one root repeatedly. A look costs little beyond what is new, and changes nothing."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._reader = Reader(paths, time.time())
        self._ledger = LedgerFollower(paths.ledger)
        self._build_orders = BuildOrders(paths.build_orders)
        self._metrics = MetricsReader(paths)

    def look(self) -> PageFacts:
        """The present facts; never an exception, whatever is found there."""
        self._metrics.look()
        batches, games = self._metrics.batches, self._metrics.games
        return PageFacts(
            root=os.fspath(self._paths.root),
            snapshot=self._reader.snapshot(),
            ledger=self._ledger.look(),
            log_lines=facts.last_lines(self._paths.training_log, LOG_LINES),
            batches=batches,
            games=games,
            mark=(self._metrics.edition, len(batches), len(games)),
            build_orders=self._build_orders.look(),
        )
