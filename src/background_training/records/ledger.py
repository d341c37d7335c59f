"""The fate of every episode: data/ledger.jsonl, one JSON line each, only ever appended to.

It is the memory for duplicates and the list from which the model can be rebuilt. What a line of a trained
episode says stands in the model file too, until it is here; so a crash between the two loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from background_training.episodes.buffer import DELETED, TRAINED
from background_training.paths import MODEL_NAME
from background_training.records.ledger_index import CHECKPOINT, Kept, LedgerIndex
from background_training.records.line_index import LineIndex, key_of
from background_training.records.whole_lines import cut, parse, sound_lines
from background_training.storage import atomic_files

Line = Mapping[str, Any]

SUMMARY = "summary"
"""The fate in the first line of a ledger whose oldest lines were left out; it holds their counts."""

OF_NO_FILE = (SUMMARY, CHECKPOINT)
"""The fates of lines that tell of no file and no model."""


PUBLISHED, ROLLED_BACK = "published", "rolled back"
"""The fates of a model that became a version without being trained; the latter by the guard."""

BY_GUARD, BY_HAND, BY_ANOTHER_PROGRAM = "guard", "hand", "another program"
"""Who did so."""

RECONSTRUCTED = "reconstructed"
"""Marks a line that the ledger had lost and that was made again from what lies in the archive. Of a trained episode
among them it is known that it was, but not in which batch: it serves as memory, and nothing is trained again from it."""

UNKNOWN_VERSION = 0
"""The version in such a line."""


ALIGNED = "aligned"
"""Marks the line of an episode whose features or actions were put into the model's order before it was trained on."""

_KEPT = ("counts", "last_group", "newest_published", "former_chain", "guard_checkpoint", "_newest_seq")
"""What a ledger's index holds besides lines and places."""


def is_of_history(line: Line) -> bool:
    """Whether a line tells of an episode and of the batch in which it was trained."""
    return bool(line["fate"] == TRAINED and not line.get(RECONSTRUCTED))


def next_chain(previous: str, seq: int, batch: Sequence[Line]) -> str:
    """Hash chain over all batches: sha256 of the previous link, the version, and what was trained in it."""
    entries = [[line["name"], line["sha256"], line.get("learning")] for line in batch]
    text = json.dumps([previous, seq, entries], ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def chain_after(former: str, group: Sequence[Line]) -> str:
    """The link that a whole batch adds; the chain begins anew where the batch names a base, or where older lines
    have been left out ("start", see retention.py)."""
    begins = group[0].get("base") or group[0].get("start")
    return next_chain(begins["chain"] if begins else former, group[0]["seq"], group)


def encode(lines: Iterable[Line]) -> bytes:
    return b"".join(json.dumps(dict(line), ensure_ascii=True).encode("ascii") + b"\n" for line in lines)


def read_lines(path: Path, begin: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of a ledger, oldest first and one by one, from this byte on; a torn last one is left out.

    Raises:
        LedgerError: a damaged line stands between sound ones; raised after those before it.
    """
    return (line for line, _ in sound_lines(path, begin))


def groups(lines: Iterable[Line]) -> Iterator[tuple[int, list[Line]]]:
    """The batches that were trained, oldest first: (version, its lines)."""
    group: list[Line] = []
    for line in lines:
        if not is_of_history(line):
            continue
        if group and group[-1]["seq"] != line["seq"]:
            yield group[0]["seq"], group
            group = []
        group.append(line)
    if group:
        yield group[0]["seq"], group


def since_base(lines: Iterable[Line]) -> list[Line]:
    """The lines of trained episodes since history last began anew."""
    newest: list[Line] = []
    for line in lines:
        if not is_of_history(line):
            continue
        if "base" in line:
            newest.clear()
        newest.append(line)
    return newest


def deleted_hashes(lines: Iterable[Line]) -> set[str]:
    """The hashes of the trained episodes that retention has deleted from the archive since.

    A line of its own says so, or a mark in the episode's: in a ledger without its oldest lines one has to do for both.
    """
    return {line["sha256"] for line in lines if line.get("was", line["fate"] if DELETED in line else "") == TRAINED}


def counts_of(lines: Iterable[Line]) -> Counter[str]:
    """How many files met which fate; "deleted trained" are those deleted after they were trained."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(_counted(line))
    return counts


def _counted(line: Line) -> Mapping[str, int]:
    if line["fate"] == CHECKPOINT:
        return {}
    if line["fate"] == SUMMARY:
        counts: Mapping[str, int] = line["counts"]
        return counts
    if line["fate"] == DELETED:
        return {f"{DELETED} {line['was']}": 1}
    counted = {line["fate"]: 1}
    return counted | {f"{DELETED} {line['fate']}": 1} if DELETED in line else counted


class Ledger:
    """What the ledger file says, held for quick questions: of each line no more than where to find it again.

    It promises that what `append` returned from is in the file (and with `durable` on the disk). It does not
    promise to notice another process that writes to the file: that is what the root's lock is for.
    """

    def __init__(self, path: Path, *, durable: bool, remember_newest: int = 0, index: Path | None = None) -> None:
        """Read the file, and cut a torn end off it.

        Args:
            remember_newest: how many lines of trained episodes to keep whole in `newest`.
            index: where to keep what the lines amount to, see ledger_index.py; None: nowhere, all of them are read.

        Raises:
            LedgerError: it is damaged in the middle.
            OSError: the machine failed.
        """
        self.path = path
        self.durable = durable
        self.counts: Counter[str] = Counter()
        self.last_group: list[Line] = []
        self.newest: deque[Line] = deque(maxlen=remember_newest)
        self.newest_published: Line | None = None
        self.former_chain = ""
        self.guard_checkpoint: tuple[Line, int] | None = None
        self._by_hash = LineIndex()
        self._by_id = LineIndex()
        self._marks = LineIndex()
        self._size = 0
        self._newest_seq = 0
        self._end = 0
        self._index = LedgerIndex(index)
        self._read()
        self._checkpoint_if_due()

    def _read(self) -> None:
        known = self._index.known(self.path, self.newest.maxlen or 0)
        if known is not None:
            self._recall(known)
        for line, text in sound_lines(self.path, self._end, self._size):
            self._remember(line, self._end + len(text))
            self._index.add(text)
        cut(self.path, self._end, durable=self.durable)

    def _checkpoint_if_due(self) -> None:
        line = self._index.checkpoint_if_due(self._size, self._kept)
        if line is not None:
            self.append([line])

    @property
    def last_seq(self) -> int:
        """The newest version whose batch the ledger knows; 0 if none."""
        return int(self.last_group[0]["seq"]) if self.last_group else 0

    @property
    def newest_seq(self) -> int:
        """The newest version that any line names, be it only as the one at which a file was set aside."""
        return self._newest_seq

    @property
    def chain(self) -> str:
        """The hash chain over all batches; that of the model file is the same when both tell one history."""
        return chain_after(self.former_chain, self.last_group) if self.last_group else ""

    @property
    def size(self) -> int:
        """How many lines the file has."""
        return self._size

    @property
    def archived(self) -> int:
        """Trained episodes that have not been deleted since."""
        return self.counts[TRAINED] - self.counts[f"{DELETED} {TRAINED}"]

    def append(self, lines: Sequence[Line]) -> None:
        if not lines:
            return
        texts = [encode([line]) for line in lines]
        atomic_files.append_whole(self.path, b"".join(texts), durable=self.durable)
        for line, text in zip(lines, texts, strict=True):
            self._remember(line, self._end + len(text))
            self._index.add(text)
        self._checkpoint_if_due()

    def keep_guard(self, state: Mapping[str, Any]) -> None:
        """Record what the guard makes of all lines so far, so that its next start reads only those after it."""
        self.append([{"seq": self._newest_seq, "sha256": "", "name": "", "fate": CHECKPOINT, "guard": state}])

    def tell_of(self, version: int, commit: Mapping[str, Any], data: bytes) -> Line:
        """Make sure that there is a line about a model that was published; return it."""
        by = commit.get("by", BY_HAND if "reason" in commit else BY_ANOTHER_PROGRAM)
        fate = ROLLED_BACK if by == BY_GUARD else PUBLISHED
        line = {"seq": version, "sha256": hashlib.sha256(data).hexdigest(), "name": MODEL_NAME, "fate": fate, "by": by}
        line |= {"reason": commit.get("reason", "written by another program"), "chain": commit["chain"]}
        line |= {"widened": commit["widened"]} if "widened" in commit else {}
        if not self.has(line):
            self.append([line])
        return line

    def trained_as(self, sha256: str) -> tuple[str, int, str] | None:
        """(name, version, name in the archive) of the trained episode with these bytes."""
        line = self._found(self._by_hash, "sha256", sha256)
        return None if line is None else (line["name"], line["seq"], line.get("archived_as", line["name"]))

    def sha256_of_id(self, episode_id: str) -> str | None:
        """The hash of the trained episode that bears this id."""
        line = self._found(self._by_id, "episode_id", episode_id)
        return None if line is None else str(line["sha256"])

    def has(self, line: Line) -> bool:
        """Whether this verdict has been recorded before; of an episode that came back after a crash, say."""
        return bool(self._marks.places(_mark(line)))

    def _found(self, index: LineIndex, field: str, wanted: str) -> Line | None:
        """The newest line of a trained episode that says this in a field, read back from the file."""
        for place in reversed(index.places(key_of(wanted))):
            with open(self.path, "rb") as file:
                file.seek(place)
                line = parse(file.readline())
            if line is not None and line.get(field) == wanted:
                return line
        return None

    def _kept(self) -> Kept:
        facts = {name: getattr(self, name) for name in _KEPT}
        newest = {"newest": list(self.newest), "remember_newest": self.newest.maxlen, "size": self._size}
        return Kept(self._end, facts | newest, (self._by_hash, self._by_id, self._marks))

    def _recall(self, kept: Kept) -> None:
        for name in _KEPT:
            setattr(self, name, kept.facts[name])
        self.counts = Counter(self.counts)
        self.newest.extend(kept.facts["newest"])
        self._size, self._end = kept.facts["size"], kept.end
        self._by_hash, self._by_id, self._marks = kept.indexes

    def _remember(self, line: Line, end: int) -> None:
        place, self._end = self._end, end
        self._size += 1
        self._newest_seq = max(self._newest_seq, line["seq"])
        self.counts.update(_counted(line))
        if line["fate"] in (PUBLISHED, ROLLED_BACK):
            self.newest_published = line
        if "guard" in line:
            self.guard_checkpoint = line, end
        if line["fate"] not in (TRAINED, DELETED, *OF_NO_FILE):
            self._marks.add(_mark(line), place)
        if line["fate"] != TRAINED:
            return
        self._by_hash.add(key_of(line["sha256"]), place)
        if line.get("episode_id"):
            self._by_id.add(key_of(line["episode_id"]), place)
        if not is_of_history(line):
            return
        if self.last_group and self.last_group[0]["seq"] != line["seq"]:
            self.former_chain = self.chain
            self.last_group = []
        if "base" in line:
            self.newest.clear()
        self.last_group.append(line)
        self.newest.append(line)


def _mark(line: Line) -> int:
    # With its place: what is delivered again after it was moved gets another one, and is a delivery of its own.
    parts = [line["name"], line["sha256"], line["fate"], line.get("reason", ""), line.get("archived_as")]
    return key_of(json.dumps(parts))
