"""The memory of a ledger that has lost lines, made again from what lies in the archive and stands in the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from background_training.episodes import buffer, episode_file
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED
from background_training.errors import EpisodeError
from background_training.paths import EPISODE_SUFFIX, REASON_SUFFIX, Paths
from background_training.records import ledger as ledgers
from background_training.records.ledger import RECONSTRUCTED, UNKNOWN_VERSION, Ledger, Line
from background_training.settings import UNLIMITED
from background_training.storage import atomic_files

_AT_A_TIME = 200
_NOTE_BYTES = 100_000


def remember_archive(paths: Paths, ledger: Ledger, batch: Sequence[Line] = ()) -> int:
    """Append a line for everything in the archive that the ledger does not know; return how many episodes were trained.

    What lies in the archive itself was trained on; who delivers it again must not train it twice. In which version it
    was can't be known any more, so these lines can't be rebuilt from. It may be killed and run again at any point.

    Args:
        batch: the lines in the model's record; their episodes may not have reached the archive yet.

    Raises:
        OSError: the machine failed; call again.
    """
    lost = [{**line, RECONSTRUCTED: True} for line in batch if ledger.trained_as(line["sha256"]) is None]
    ledger.append(lost)
    found = len(lost)
    lines: list[Line] = []
    for line in _unknown(paths, ledger):
        lines.append(line)
        found += line["fate"] == TRAINED
        if len(lines) == _AT_A_TIME:
            ledger.append(lines)
            lines = []
    ledger.append(lines)
    return found


def _unknown(paths: Paths, ledger: Ledger) -> Iterator[Line]:
    known = {(line["fate"], line.get("archived_as", line["name"])) for line in ledgers.read_lines(ledger.path)}
    for fate in (TRAINED, STALE, DUPLICATE, REJECTED):
        folder = buffer.folder_of(paths, fate)
        for path in sorted(folder.iterdir()):
            if not buffer.is_episode_name(path.name) or (fate, path.name) in known:
                continue
            line = _trained_line(path, ledger) if fate == TRAINED else _aside_line(path, fate)
            if line is not None:
                yield line


def _trained_line(path: Path, ledger: Ledger) -> Line | None:
    """The line of a file in the archive; None for what is no file, or has a line already."""
    data = _bytes_of(path)
    if data is None:
        return None
    line = _line(path.name, TRAINED, data)
    try:
        episode = episode_file.read(data, UNLIMITED)
    except EpisodeError:
        return line
    line |= {"steps": episode.steps, "return": round(episode.episode_return, 6)}
    line |= {"episode_id": episode.episode_id} if episode.episode_id else {}
    return None if ledger.trained_as(line["sha256"]) else line


def _aside_line(path: Path, fate: str) -> Line:
    line = _line(path.name, fate, _bytes_of(path))
    try:
        note = atomic_files.read_regular_file(path.with_name(path.name + REASON_SUFFIX), _NOTE_BYTES)
    except (FileNotFoundError, OverflowError, atomic_files.NotARegularFileError):
        return line
    reason = note.decode("utf-8", "replace").strip().removesuffix(f". Moved to archive/{fate}.")
    return {**line, "reason": reason}


def _line(name: str, fate: str, data: bytes | None) -> dict[str, Any]:
    sha256 = "" if data is None else hashlib.sha256(data).hexdigest()
    return {"seq": UNKNOWN_VERSION, "sha256": sha256, "name": name, "fate": fate, RECONSTRUCTED: True}


def _bytes_of(path: Path) -> bytes | None:
    try:
        return atomic_files.read_regular_file(path)
    except (FileNotFoundError, atomic_files.NotARegularFileError):
        return None


def anything_archived(paths: Paths) -> bool:
    """Whether there are trained episodes from before."""
    return any(path.name.endswith(EPISODE_SUFFIX) for path in paths.archive.iterdir())
