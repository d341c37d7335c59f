"""The lines of the ledger's file that are whole: all but what a crash has torn off at its end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local_training import atomic_files
from local_training.errors import LedgerError

_NEEDED = ("seq", "sha256", "name", "fate")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*_NEEDED[1:], "archived_as", "was", "reason", "episode_id", "chain", "by"), (str,)),
    **dict.fromkeys(("seq", "recent", "policy_version"), (int,)),
    **dict.fromkeys(("steps", "return"), (int, float)),
    **dict.fromkeys(("base", "start", "learning", "counts"), (dict,)),
    "sizes": (list,),
}


def sound_lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The sound lines, each with the number of bytes up to its end.

    Raises:
        LedgerError: after the last one, a sound line follows on a damaged one.
    """
    try:
        data = atomic_files.read_regular_file(path)
    except FileNotFoundError:
        return
    yield from sound_lines_of(path, data)


def sound_lines_of(path: Path, data: bytes, begin: int = 0, count: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Likewise of what lies in the file after its first `begin` bytes, which are so many lines.

    Raises:
        LedgerError: as `sound_lines` does.
    """
    position = 0
    while position < len(data):
        end = data.find(b"\n", position)
        line = parse(data[position:end]) if end >= 0 else None
        if line is None:
            break
        position, count = end + 1, count + 1
        yield line, begin + position
    if any(parse(rest) is not None for rest in data[position:].split(b"\n")[1:]):
        remedy = "Restore the file from a copy, or move it away: a new one is then made from the archive and the model"
        raise LedgerError(str(path), f"line {count + 1} is damaged, with sound lines after it", remedy)


def parse(text: bytes) -> dict[str, Any] | None:
    """One line of a ledger; None where it is damaged."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and _is_sound(line) else None


def _is_sound(line: dict[str, Any]) -> bool:
    """Whether a line can be worked with; not whether it is true: that is what the chain is for."""
    for key in _NEEDED:
        if key not in line:
            return False
    for key, value in line.items():
        allowed = _TYPES.get(key)
        if allowed is not None and type(value) not in allowed:
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
