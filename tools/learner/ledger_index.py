"""What the lines of a ledger amount to, kept beside it, so that a start reads those since then and not a million.

Nothing is believed of it that does not follow from the ledger: it counts only if the file still begins with the very
bytes that it was made of, and if the code that made it is the one that reads it. Otherwise it is as if it were not there.
So it may be lost, torn, old or of another root at any time; it is never flushed, and a failure to write it is none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from local_training import atomic_files
from tools.learner.line_index import LineIndex

FEWEST_LINES = 10_000
"""It is not worth a file before, and made again after so many lines more."""
_SHARE = 32
"""Nor before the ledger has grown by this part of it: so its price for each line stays the same, however many there are."""
_MODULES = ("ledger.py", "ledger_index.py", "line_index.py", "sound_lines.py")
_SUM_BYTES = 32


@dataclass(frozen=True)
class Kept:
    """What was kept.

    end: bytes of the ledger that it stands for.
    facts: as JSON keeps them; "size" and "remember_newest" among them.
    """

    end: int
    facts: Mapping[str, Any]
    indexes: Sequence[LineIndex]


class LedgerIndex:
    """Keeps it in a file, now and then, and finds it again."""

    def __init__(self, path: Path | None) -> None:
        """None: keep nothing, know nothing."""
        self._path = path
        self._lines = 0
        self._digest = hashlib.blake2b()

    def known(self, data: bytes, remember_newest: int) -> Kept | None:
        """What was kept of a ledger that begins as this one does, with at least so many of its newest lines."""
        loaded = _load(self._path) if self._path is not None else None
        if loaded is None:
            return None
        kept, digest = loaded
        most, newest = kept.facts["remember_newest"], kept.facts["newest"]
        begin = hashlib.blake2b(memoryview(data)[: kept.end])
        if len(data) < kept.end or begin.hexdigest() != digest or (remember_newest > most and len(newest) == most):
            return None
        self._lines, self._digest = kept.facts["size"], begin
        return kept

    def add(self, data: bytes | memoryview) -> None:
        """The ledger goes on with this."""
        if self._path is not None:
            self._digest.update(data)

    def keep_if_due(self, lines: int, kept: Callable[[], Kept]) -> None:
        """Write it whole or not at all, once there are so many lines that it is worth it; it is no harm if that fails."""
        if self._path is None or lines - self._lines < max(FEWEST_LINES, lines // _SHARE):
            return
        self._lines = lines
        try:
            atomic_files.write_atomically(self._path, _encoded(kept(), self._digest.hexdigest()), durable=False)
        except OSError:
            with contextlib.suppress(OSError):
                atomic_files.remove_if_there(atomic_files.partial_path(self._path))


def _load(path: Path) -> tuple[Kept, str] | None:
    """What was kept there, whole, by this very code; and the digest of the bytes that it stands for."""
    try:
        data = memoryview(atomic_files.read_regular_file(path))
    except OSError:
        return None
    body = data[_SUM_BYTES:]
    if data[:_SUM_BYTES] != _sum(body):
        return None
    # The sum is right, so what follows is what `_encoded` made, of this version or another.
    first = body[: bytes(body[:20]).find(b"\n")]
    header_end = len(first) + 1 + int(bytes(first))
    header = json.loads(bytes(body[len(first) + 1 : header_end]))
    if not _code() or header["code"] != _code():
        return None
    numbers = np.frombuffer(body[header_end:], "<u8").astype(np.uint64)
    parts = np.split(numbers, np.cumsum([length for length in header["lengths"] for _ in range(2)])[:-1])
    indexes = [LineIndex(keys, places) for keys, places in zip(parts[0::2], parts[1::2], strict=True)]
    return Kept(header["end"], header["facts"], indexes), header["digest"]


def _encoded(kept: Kept, digest: str) -> bytes:
    arrays = [index.arrays() for index in kept.indexes]
    lengths = [len(keys) for keys, _ in arrays]
    header = {"code": _code(), "end": kept.end, "digest": digest, "facts": kept.facts, "lengths": lengths}
    text = json.dumps(header).encode("ascii")
    numbers = [array.astype("<u8").tobytes() for pair in arrays for array in pair]
    body = b"".join([b"%d\n" % len(text), text, *numbers])
    return _sum(body) + body


def _sum(body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_SUM_BYTES).digest()


@functools.cache
def _code() -> str:
    """Stands for the code that decides what the lines amount to; "" where that can't be read."""
    folder = Path(__file__).parent
    try:
        return hashlib.sha256(b"".join((folder / name).read_bytes() for name in _MODULES)).hexdigest()
    except OSError:
        return ""
