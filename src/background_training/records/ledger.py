"""The fate of every episode: data/ledger.jsonl, one JSON line each, only ever appended to.

It is the memory for duplicates and the list from which the model can be rebuilt. The lines of a batch are committed inside
the model file first, so a crash between the two loses nothing.

The ledger's index, a file beside it, holds what its lines amount to, so that a start parses only the newest of a million
lines. It is derived data. When an index has been written, the ledger gets a `checkpoint` line with the sha256 of the index
file. An index is used only if

- the newest checkpoint line of the ledger names the sha256 of the whole index file,
- the ledger still begins with the very bytes that the index was made of (their hash is in the index), and
- the code that made it is the code that reads it.

Otherwise it is ignored, and all lines are parsed. So an index that is lost, torn, stale, of another root or forged costs
only time. It is no protection against a person who edits the ledger.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from background_training.episodes.buffer import DELETED, TRAINED
from background_training.paths import MODEL_NAME
from background_training.records.ledger_lines import (
    BY_ANOTHER_PROGRAM,
    BY_GUARD,
    BY_HAND,
    CHECKPOINT,
    OF_NO_FILE,
    PUBLISHED,
    ROLLED_BACK,
    Line,
    chain_after,
    counts_in,
    cut,
    encode,
    is_of_history,
    parse,
    sound_lines,
)
from background_training.storage import atomic_files

logger = logging.getLogger(__name__)

Numbers = npt.NDArray[Any]

_FEWEST_LOOSE = 4096
_LOOSE_SHARE = 32


def key_of(text: str) -> int:
    """A 64-bit hash of a text. Two texts may collide, so a lookup has to compare the lines themselves."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class LineIndex:
    """Places of lines by key, about 16 bytes each: a sorted array, and a small dict of the newest, merged into it in batches."""

    def __init__(self, keys: Numbers | None = None, places: Numbers | None = None) -> None:
        """Start from the result of `arrays`, or empty."""
        self._keys = np.empty(0, np.uint64) if keys is None else keys
        self._places = np.empty(0, np.uint64) if places is None else places
        self._loose: dict[int, list[int]] = {}

    def add(self, key: int, place: int) -> None:
        self._loose.setdefault(key, []).append(place)
        if len(self._loose) >= max(_FEWEST_LOOSE, len(self._keys) // _LOOSE_SHARE):
            self._tidy()

    def places(self, key: int) -> list[int]:
        """All places that were added under this key, oldest first."""
        wanted = np.uint64(key)
        first, end = np.searchsorted(self._keys, wanted), np.searchsorted(self._keys, wanted, "right")
        return [*self._places[first:end].tolist(), *self._loose.get(key, ())]

    def arrays(self) -> tuple[Numbers, Numbers]:
        """All keys in their order, with their places."""
        self._tidy()
        return self._keys, self._places

    def _tidy(self) -> None:
        pairs = [(key, place) for key, places in self._loose.items() for place in places]
        keys = np.concatenate([self._keys, np.array([key for key, _ in pairs], np.uint64)])
        places = np.concatenate([self._places, np.array([place for _, place in pairs], np.uint64)])
        order = np.argsort(keys, kind="stable")
        self._keys, self._places = keys[order], places[order]
        self._loose = {}


FEWEST_LINES = 10_000
"""Fewest new lines for which the index is written."""
_SHARE = 32
"""Nor before the ledger has grown by 1/_SHARE of its lines, so that the cost per line stays constant."""
_MODULES = ("ledger.py", "ledger_lines.py")
_SEAL = b'"fate": "checkpoint", "end": '
"""How the newest line about an index is found. No name or reason can hold these bytes, as quotes in them are escaped."""
_SEARCHED_BYTES, _SEARCHED_SHARE = 16_000_000, 8
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Kept:
    """The content of an index file.

    end: the number of bytes of the ledger that it covers.
    facts: JSON values, with "size" and "remember_newest" among them.
    """

    end: int
    facts: Mapping[str, Any]
    indexes: Sequence[LineIndex]


class LedgerIndex:
    """Writes the index file when it is due, and reads it back."""

    def __init__(self, path: Path | None) -> None:
        """None: no index."""
        self._path = path
        self._lines = 0
        self._digest = hashlib.blake2b()

    def known(self, ledger: Path, remember_newest: int) -> Kept | None:
        """The index of this ledger, with at least `remember_newest` of its newest lines; None on any doubt."""
        if self._path is None:
            return None
        try:
            return self._known(self._path, ledger, remember_newest)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  # derived data: whatever is wrong with it, the ledger itself is read
            logger.info("%s is not used: %s: %s", self._path, type(error).__name__, error)
            return None

    def _known(self, path: Path, ledger: Path, remember_newest: int) -> Kept | None:
        data = atomic_files.read_regular_file(path)
        with atomic_files.open_regular_file(ledger) as file:
            # Nothing of the index is parsed before its hash has been found in the ledger.
            if _sealed(file) != hashlib.sha256(data).hexdigest():
                return None
            kept, made_of, code = _decoded(data)
            begin = _digest_of(file, kept.end)
        most, newest = kept.facts["remember_newest"], kept.facts["newest"]
        if not code or code != _code() or begin.hexdigest() != made_of:
            return None
        if remember_newest > most and len(newest) == most:
            return None
        self._lines, self._digest = kept.facts["size"], begin
        return kept

    def add(self, data: bytes) -> None:
        """Add bytes of the ledger to the hash, as they are parsed or appended: read again later, they might have changed."""
        if self._path is not None:
            self._digest.update(data)

    def checkpoint_if_due(self, lines: int, kept: Callable[[], Kept]) -> dict[str, Any] | None:
        """Write the index if there are enough new lines.

        Returns:
            The line for the caller to append to the ledger; None if the index is not due or can't be written.
        """
        if self._path is None or lines - self._lines < max(FEWEST_LINES, lines // _SHARE):
            return None
        self._lines = lines
        now = kept()
        data = _encoded(now, self._digest.hexdigest())
        try:
            atomic_files.write_atomically(self._path, data, durable=False)
        except OSError:
            with contextlib.suppress(OSError):
                atomic_files.remove_if_there(atomic_files.partial_path(self._path))
            return None
        # "end" right after "fate": see _SEAL.
        return {"seq": 0, "sha256": hashlib.sha256(data).hexdigest(), "name": "", "fate": CHECKPOINT, "end": now.end}


def _sealed(file: BinaryIO) -> str | None:
    """The sha256 in the newest checkpoint line about an index; only the end of the file is searched."""
    size = file.seek(0, io.SEEK_END)
    begin = max(0, size - max(_SEARCHED_BYTES, size // _SEARCHED_SHARE))
    file.seek(begin)
    tail = file.read(size - begin)
    place = tail.rfind(_SEAL)
    if place < 0:
        return None
    start, end = tail.rfind(b"\n", 0, place) + 1, tail.find(b"\n", place)
    line = parse(tail[start:end]) if end >= 0 else None
    return line["sha256"] if line is not None and line["end"] == begin + start else None


def _digest_of(file: BinaryIO, length: int) -> Any:
    digest = hashlib.blake2b()
    file.seek(0)
    while length > 0 and (chunk := file.read(min(length, _CHUNK_BYTES))):
        digest.update(chunk)
        length -= len(chunk)
    return digest


def _encoded(kept: Kept, digest: str) -> bytes:
    facts = {"code": _code(), "end": kept.end, "digest": digest, "facts": kept.facts}
    arrays = {"facts": np.frombuffer(json.dumps(facts).encode("ascii"), np.uint8)}
    for number, index in enumerate(kept.indexes):
        arrays[f"keys_{number}"], arrays[f"places_{number}"] = index.arrays()
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _decoded(data: bytes) -> tuple[Kept, str, str]:
    """The content, the hash of the ledger bytes that it was made of, and the hash of the code that made it."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        content = json.loads(arrays["facts"].tobytes())
        numbers = range(sum(name.startswith("keys_") for name in arrays.files))
        indexes = [LineIndex(arrays[f"keys_{number}"], arrays[f"places_{number}"]) for number in numbers]
    return Kept(content["end"], content["facts"], indexes), content["digest"], content["code"]


@functools.cache
def _code() -> str:
    """A hash of the code that evaluates the lines; "" if it can't be read."""
    folder = Path(__file__).parent
    try:
        return hashlib.sha256(b"".join((folder / name).read_bytes() for name in _MODULES)).hexdigest()
    except OSError:
        return ""


_KEPT = ("counts", "last_group", "newest_published", "former_chain", "guard_checkpoint", "_newest_seq")
"""The attributes of a ledger that its index holds besides lines and places."""


class Ledger:
    """The ledger file in a form for fast lookups; of each line only its place is kept.

    It promises that what `append` returned from is in the file (and with `durable` on the disk). It does not
    promise to notice another process that writes to the file: that is what the root's lock is for.
    """

    def __init__(self, path: Path, *, durable: bool, remember_newest: int = 0, index: Path | None = None) -> None:
        """Read the file, and cut a torn end off it.

        Args:
            remember_newest: how many lines of trained episodes to keep in `newest`.
            index: the path of the index file; None: no index, all lines are parsed.

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
        """The newest version with a batch in the ledger; 0 if none."""
        return int(self.last_group[0]["seq"]) if self.last_group else 0

    @property
    def newest_seq(self) -> int:
        """The newest version in any line, including those of files that were not trained on."""
        return self._newest_seq

    @property
    def chain(self) -> str:
        """The hash chain over all batches; equal to that of the model file when both have the same history."""
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
        """Record the guard's state after all lines so far, so that its next start reads only the later ones."""
        self.append([{"seq": self._newest_seq, "sha256": "", "name": "", "fate": CHECKPOINT, "guard": state}])

    def record_published(self, version: int, commit: Mapping[str, Any], data: bytes) -> Line:
        """Append the line of a published model unless it is there already; return it."""
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
        """The hash of the trained episode with this id."""
        line = self._found(self._by_id, "episode_id", episode_id)
        return None if line is None else str(line["sha256"])

    def has(self, line: Line) -> bool:
        """Whether this verdict is recorded already, for example of a file that is read again after a crash."""
        return bool(self._marks.places(_mark(line)))

    def _found(self, index: LineIndex, field: str, wanted: str) -> Line | None:
        """The newest line of a trained episode with this value in a field, read back from the file."""
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
        self.counts.update(counts_in(line))
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
    # With the stored name: the same file delivered again after its move is stored under another one and gets its own line.
    parts = [line["name"], line["sha256"], line["fate"], line.get("reason", ""), line.get("archived_as")]
    return key_of(json.dumps(parts))
