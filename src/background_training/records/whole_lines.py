"""The lines of the ledger's file that are whole: all but what a crash has torn off at its end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from background_training.errors import LedgerError
from background_training.storage import atomic_files

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

    A true iterator: whatever the file's length, it holds one line. It reads up to where the file ends when it is opened, and
    keeps it open meanwhile, so the lines are those of one moment even if the file is appended to or replaced.

    Args:
        begin: how many bytes to leave out; a line begins there.
        count: how many lines these are, for the message.

    Raises:
        LedgerError: after the last one, a sound line follows on a damaged one. Raised at the end, after the sound ones.
    """
    try:
        file = atomic_files.open_regular_file(path)
    except FileNotFoundError:
        return
    with file:
        starts, is_damaged = True, False
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
                yield line, text


def _texts(file: BinaryIO, begin: int) -> Iterator[bytes]:
    """The file line by line; one without an end, or too long to be ours, in pieces that have no line feed at their end."""
    left = os.fstat(file.fileno()).st_size - begin
    file.seek(begin)
    # What is appended while we read may be there in part only, and would look like damage.
    while left > 0 and (text := file.readline(min(left, _LONGEST_LINE))):
        left -= len(text)
        yield text


def parse(text: bytes) -> dict[str, Any] | None:
    """One line of a ledger; None where it is damaged."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and is_sound(line) else None


def is_sound(line: dict[str, Any]) -> bool:
    """Whether a line can be worked with; not whether it is true: that is what the chain is for."""
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
    if line["fate"] == "summary":
        return "counts" in line and all(type(count) is int for count in line["counts"].values())
    return line["fate"] != "deleted" or "was" in line


def cut(path: Path, sound_bytes: int, *, durable: bool) -> None:
    """Leave only the sound bytes of the file; make an empty one where there is none."""
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
