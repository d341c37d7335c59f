"""What the lines of a ledger amount to, kept beside it, so that a start parses the newest lines and not a million.

It is derived data, and never a second truth. The ledger itself says what to believe: when an index has been written, the
ledger gets a `checkpoint` line with the sha256 of the index file. An index is used only if

- the newest checkpoint line of the ledger names the sha256 of the whole index file,
- the ledger still begins with the very bytes that the index was made of (their hash is in the index), and
- the code that made it is the code that reads it.

Otherwise it is as if it were not there, and all lines are parsed. So an index that is lost, torn, stale, of another root or
forged costs time and nothing else, whatever checksum it bears. It promises nothing against a person who writes checkpoint
lines into the ledger: who edits the ledger can as well delete lines of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from background_training.records.line_index import LineIndex
from background_training.records.whole_lines import parse
from background_training.storage import atomic_files

logger = logging.getLogger(__name__)

FEWEST_LINES = 10_000
"""It is not worth a file before, and made again after so many lines more."""
_SHARE = 32
"""Nor before the ledger has grown by this part of it: so its price for each line stays the same, however many there are."""
_MODULES = ("ledger.py", "ledger_index.py", "line_index.py", "sound_lines.py")
CHECKPOINT = "checkpoint"
"""The fate of a line that tells of no file, but of what all lines before it amount to."""
_SEAL = b'"fate": "checkpoint", "end": '
"""How the newest such line about an index is found. No name or reason can hold these bytes, as quotes in them are escaped."""
_SEARCHED_BYTES, _SEARCHED_SHARE = 16_000_000, 8
_CHUNK_BYTES = 1 << 20


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
        """None: keep nothing, find nothing."""
        self._path = path
        self._lines = 0
        self._digest = hashlib.blake2b()

    def known(self, ledger: Path, remember_newest: int) -> Kept | None:
        """What was kept of this ledger, with at least so many of its newest lines; None on any doubt."""
        if self._path is None:
            return None
        try:
            return self._known(self._path, ledger, remember_newest)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001  # whatever is wrong with derived data, the ledger is there to be read
            logger.info("%s is not used: %s: %s", self._path, type(error).__name__, error)
            return None

    def _known(self, path: Path, ledger: Path, remember_newest: int) -> Kept | None:
        data = atomic_files.read_regular_file(path)
        with atomic_files.open_regular_file(ledger) as file:
            # Nothing of the index is parsed before the ledger has vouched for its bytes.
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
        """The ledger goes on with this. Hashed as it was parsed or appended: read again later, it might have changed."""
        if self._path is not None:
            self._digest.update(data)

    def checkpoint_if_due(self, lines: int, kept: Callable[[], Kept]) -> dict[str, Any] | None:
        """Write it once there are so many new lines that it is worth it.

        Returns:
            The line for the caller to append to the ledger; None if it is not due, or can't be written, which is no harm.
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
    """The sha256 of the index that the newest checkpoint line names; of an older line nobody needs an index any more."""
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
    """What was kept, the hash of the bytes that it was made of, and which code made it."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        said = json.loads(arrays["facts"].tobytes())
        numbers = range(sum(name.startswith("keys_") for name in arrays.files))
        indexes = [LineIndex(arrays[f"keys_{number}"], arrays[f"places_{number}"]) for number in numbers]
    return Kept(said["end"], said["facts"], indexes), said["digest"], said["code"]


@functools.cache
def _code() -> str:
    """Stands for the code that decides what the lines amount to; "" where that can't be read."""
    folder = Path(__file__).parent
    try:
        return hashlib.sha256(b"".join((folder / name).read_bytes() for name in _MODULES)).hexdigest()
    except OSError:
        return ""
