"""The lines of data/ledger.jsonl: their keys, which of them are sound, and what can be computed from them."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from background_training.episodes.buffer import DELETED, TRAINED
from background_training.errors import LedgerError
from background_training.storage import atomic_files

Line = Mapping[str, Any]

CHECKPOINT = "checkpoint"
"""The fate of a line about no file, but about all lines before it: the hash of their index, the guard's state, or, in the
first line of a compacted ledger, the counts of the removed lines and the base model with which its history starts."""

OF_NO_FILE = (CHECKPOINT, "summary")
"""The fates of lines about neither a file nor a model. Former versions compacted to a `summary`, which held the counts only; the
base model was the `start` in the first line of its first batch."""


PUBLISHED, ROLLED_BACK = "published", "rolled back"
"""The fates of a version that was published without training; the latter by the guard."""

BY_GUARD, BY_HAND, BY_ANOTHER_PROGRAM = "guard", "hand", "another program"
"""By whom."""

RECONSTRUCTED = "reconstructed"
"""Marks a line that the ledger had lost and that was reconstructed from the archive. The batch of such an episode is
unknown: the line serves to recognise duplicates, and is never replayed."""

UNKNOWN_VERSION = 0
"""The version in such a line."""


ALIGNED = "aligned"
"""Marks the line of an episode whose features or actions were put into the model's order before it was trained on."""


def is_of_history(line: Line) -> bool:
    """Whether a line is that of a trained episode in a known batch."""
    return bool(line["fate"] == TRAINED and not line.get(RECONSTRUCTED))


def next_chain(previous: str, seq: int, batch: Sequence[Line]) -> str:
    """Hash chain over all batches: sha256 of the previous link, the version, and what was trained in it."""
    entries = [[line["name"], line["sha256"], line.get("learning")] for line in batch]
    text = json.dumps([previous, seq, entries], ensure_ascii=True, sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def compaction_line(seq: int, counts: Mapping[str, int], base: Mapping[str, Any] | None) -> dict[str, Any]:
    """The first line of a compacted ledger.

    Args:
        counts: of the removed lines, as `counts_of` gives them.
        base: version and chain of the model with which the history starts, if batches were removed.
    """
    line = {"seq": seq, "sha256": "", "name": "", "fate": CHECKPOINT, "reason": "compacted: retention.ledger_lines"}
    return {**line, "counts": dict(counts), **({"base": dict(base)} if base else {})}


def is_compaction(line: Line) -> bool:
    """Whether a line stands for removed ones, so that the ledger no longer names every file."""
    return "counts" in line


def chain_after(former: str, group: Sequence[Line]) -> str:
    """The link that a whole batch adds; the chain starts again where the batch names a base, or where older lines
    have been removed ("start", see `sound_lines`)."""
    begins = group[0].get("base") or group[0].get("start")
    return next_chain(begins["chain"] if begins else former, group[0]["seq"], group)


def encode(lines: Iterable[Line]) -> bytes:
    return b"".join(json.dumps(dict(line), ensure_ascii=True).encode("ascii") + b"\n" for line in lines)


def read_lines(path: Path, begin: int = 0) -> Iterator[dict[str, Any]]:
    """The lines of a ledger, oldest first, streamed from this byte on; a torn last one is left out.

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
    """The lines of trained episodes since the newest base."""
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

    A deletion has a line of its own, or, in a compacted ledger, a mark in the episode's line.
    """
    return {line["sha256"] for line in lines if line.get("was", line["fate"] if DELETED in line else "") == TRAINED}


def counts_of(lines: Iterable[Line]) -> Counter[str]:
    """The number of files by fate; "deleted trained" are trained ones that were deleted later."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(counts_in(line))
    return counts


def counts_in(line: Line) -> Mapping[str, int]:
    if line["fate"] in OF_NO_FILE:
        counts: Mapping[str, int] = line.get("counts", {})
        return counts
    if line["fate"] == DELETED:
        return {f"{DELETED} {line['was']}": 1}
    counted = {line["fate"]: 1}
    return counted | {f"{DELETED} {line['fate']}": 1} if DELETED in line else counted


_NEEDED = ("seq", "sha256", "name", "fate")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*_NEEDED[1:], "archived_as", "was", "reason", "episode_id", "chain", "by"), (str,)),
    **dict.fromkeys(("seq", "recent", "policy_version", "end"), (int,)),
    **dict.fromkeys(("steps", "return"), (int, float)),
    **dict.fromkeys(("base", "start", "learning", "counts", "guard"), (dict,)),
    "sizes": (list,),
}
_LONGEST_LINE = 16_000_000


def sound_lines(path: Path, begin: int = 0, count: int = 0) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The sound lines, each with its bytes, its line feed included.

    A true iterator, with one line in memory. It reads up to the size of the file at opening, and keeps the file open, so
    the lines are those of one moment even if the file is appended to or replaced. In a compacted ledger the first batch after
    the base model gets its reference as `start`.

    Args:
        begin: how many bytes to skip; a line must begin there.
        count: the number of lines in them, for the message.

    Raises:
        LedgerError: a sound line follows a damaged one. Raised after the sound lines before the damage.
    """
    try:
        file = atomic_files.open_regular_file(path)
    except FileNotFoundError:
        return
    with file:
        starts, is_damaged = True, False
        base: Mapping[str, Any] | None = None
        for text in _texts(file, begin):
            is_whole = text.endswith(b"\n")
            line = parse(text) if starts and (is_whole or is_damaged) else None
            starts = is_whole
            if line is None:
                is_damaged = True
            elif is_damaged:
                remedy = "Restore the file from a copy, or move it away: a new one is then made from the archive and the model"
                raise LedgerError(str(path), f"line {count + 1} is damaged, with sound lines after it", remedy)
            else:
                count += 1
                if line["fate"] == CHECKPOINT:
                    base = line.get("base", base)
                elif base is not None and is_of_history(line) and line["seq"] == base["version"] + 1:
                    line["start"], base = base, None
                yield line, text


def _texts(file: BinaryIO, begin: int) -> Iterator[bytes]:
    """The file line by line; a line without a line feed, or one that is too long, in pieces without a line feed."""
    left = os.fstat(file.fileno()).st_size - begin
    file.seek(begin)
    # A line that is appended meanwhile may be incomplete, and would look like damage.
    while left > 0 and (text := file.readline(min(left, _LONGEST_LINE))):
        left -= len(text)
        yield text


def parse(text: bytes) -> dict[str, Any] | None:
    """A parsed line; None if it is damaged."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and is_sound(line) else None


def is_sound(line: dict[str, Any]) -> bool:
    """Whether the keys of a line have the right types; the chain is what proves their values."""
    for key in _NEEDED:
        if key not in line:
            return False
    for key, value in line.items():
        allowed = _TYPES.get(key)
        if allowed is not None and type(value) not in allowed:
            return False
    base = line.get("base")
    if base is not None and not (type(base.get("chain")) is str and type(base.get("version")) is int):
        return False
    if not all(type(count) is int for count in line.get("counts", {}).values()):
        return False
    return line["fate"] not in ("deleted", "summary") or ("was" if line["fate"] == "deleted" else "counts") in line


def cut(path: Path, sound_bytes: int, *, durable: bool) -> None:
    """Truncate the file to its sound bytes; create it if it is missing."""
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        atomic_files.append_whole(path, b"", durable=durable)
        if durable:
            atomic_files.sync_folder(path.parent)
        return
    if size > sound_bytes:
        with open(path, "r+b") as file:
            file.truncate(sound_bytes)
            if durable:
                os.fsync(file.fileno())
