"""Keep the past bounded as the user wants it: archive, files set aside, ledger. Every deletion is recorded.

Only what lies in the archive is ever deleted; what waits, and what a recovery may need, stays. The model's history
and the log have bounds of their own (learner.history_size, learner.log_bytes).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from background_training.episodes import buffer
from background_training.episodes.buffer import DELETED, DUPLICATE, REJECTED, STALE, TRAINED
from background_training.learner import base_checkpoint, compaction
from background_training.learner.file_age import CLOCK, WallClock
from background_training.paths import REASON_SUFFIX, Paths
from background_training.records import ledger as ledgers
from background_training.records.ledger import Ledger, Line
from background_training.settings import Settings
from background_training.storage import atomic_files, model_store

_DAY_SECONDS = 86_400.0
_AT_A_TIME = 200


def apply(paths: Paths, settings: Settings, ledger: Ledger, clock: WallClock = CLOCK) -> Ledger:
    """Delete what is above the bounds; the caller holds the worker lock.

    Returns:
        The ledger to go on with: a new one when its oldest lines were left out.

    Raises:
        OSError: the machine failed; call again later.
    """
    bounds = settings.retention
    if bounds.archive_files or bounds.archive_bytes or bounds.archive_days:
        _delete_trained(paths, settings, ledger, clock)
    if bounds.aside_files or bounds.aside_days:
        for fate in (STALE, DUPLICATE, REJECTED):
            _delete_aside(paths, settings, ledger, fate, clock)
    if bounds.ledger_lines and ledger.size > bounds.ledger_lines:
        return compaction.shortened(paths, settings, ledger)
    return ledger


def _delete_trained(paths: Paths, settings: Settings, ledger: Ledger, clock: WallClock) -> None:
    """Oldest first, in the ledger's order, so that what is left is one unbroken end of the history."""
    bounds = settings.retention
    records = list(ledgers.read_lines(ledger.path))
    _finish_deleting(paths, records)
    total_bytes = _total_bytes(paths.archive) if bounds.archive_bytes else 0
    lines: list[dict[str, Any]] = []
    left = ledger.archived
    deletable = list(_deletable(paths, records, ledger))
    ages = _ages(paths, deletable, clock) if bounds.archive_days else itertools.repeat(0.0)
    for line, age_seconds in zip(deletable, ages, strict=False):
        size = _size_and_time(_place(paths, line))[0] if bounds.archive_bytes else 0
        old = bool(bounds.archive_days) and age_seconds > bounds.archive_days * _DAY_SECONDS
        many = bool(bounds.archive_files) and left > bounds.archive_files
        large = bool(bounds.archive_bytes) and total_bytes > bounds.archive_bytes
        if not (old or many or large):
            break
        which = "archive_days" if old else "archive_files" if many else "archive_bytes"
        lines.append(_deleted(line, TRAINED, f"more than retention.{which}, {getattr(bounds, which):g}"))
        left -= 1
        total_bytes -= size
        if len(lines) == _AT_A_TIME:
            _delete(paths, ledger, lines)
            lines = []
    _delete(paths, ledger, lines)


def _ages(paths: Paths, lines: Sequence[Line], clock: WallClock) -> list[float]:
    """How old each episode is. One that is missing or from the future counts as old as the next one that was trained, so
    that it stops no deletion, and an archive that is out of reach is not taken for an old one."""
    ages: list[float] = []
    for line in reversed(lines):
        modified = _size_and_time(_place(paths, line))[1]
        age_seconds = clock.age_seconds(modified)
        ages.append(age_seconds if modified and age_seconds >= 0 else ages[-1] if ages else 0.0)
    return ages[::-1]


def _delete(paths: Paths, ledger: Ledger, lines: Sequence[Line]) -> None:
    """The record comes first: an episode that is gone without one would be missed, and nothing could be trained again."""
    ledger.append(lines)
    for line in lines:
        atomic_files.remove_if_there(_place(paths, line))


def _finish_deleting(paths: Paths, records: Sequence[Line]) -> None:
    """Remove what was recorded as deleted by a process that was killed before it could: then it is the last thing said."""
    last = list(itertools.takewhile(lambda line: line["fate"] == DELETED and line["was"] == TRAINED, reversed(records)))
    gone = ledgers.deleted_hashes(records)
    kept = {_place(paths, line) for line in records if line["fate"] == TRAINED and line["sha256"] not in gone}
    for line in last[:_AT_A_TIME]:
        if _place(paths, line) not in kept:  # the name may have been given to another episode since
            atomic_files.remove_if_there(_place(paths, line))


def _place(paths: Paths, line: Line) -> Path:
    return paths.archive / str(line.get("archived_as", line["name"]))


def _deletable(paths: Paths, records: Sequence[Line], ledger: Ledger) -> Iterator[Line]:
    """Trained episodes, oldest first, that no recovery and no rebuild from the oldest model of the history can ask for."""
    versions = model_store.history_versions(paths)
    if not versions:
        return
    spared = {line["sha256"] for line in (*ledger.newest, *base_checkpoint.needed_after(ledgers.groups(records), versions[0]))}
    gone = ledgers.deleted_hashes(records)
    for line in records:
        if line["fate"] != TRAINED:
            continue
        if line["sha256"] in spared:
            return
        if line["sha256"] not in gone:
            yield line


def _delete_aside(paths: Paths, settings: Settings, ledger: Ledger, fate: str, clock: WallClock) -> None:
    bounds = settings.retention
    folder = buffer.folder_of(paths, fate)
    files = sorted((_size_and_time(path)[1], path) for path in folder.iterdir() if not path.name.endswith(REASON_SUFFIX))
    surplus = max(0, len(files) - bounds.aside_files) if bounds.aside_files else 0
    lines = []
    for index, (modified, path) in enumerate(files):
        old = bool(bounds.aside_days) and clock.age_seconds(modified) > bounds.aside_days * _DAY_SECONDS
        if index >= surplus and not old:
            break
        if path.is_dir() and not path.is_symlink():
            continue  # somebody's folder with who knows what in it
        atomic_files.remove_if_there(path)
        atomic_files.remove_if_there(path.with_name(path.name + REASON_SUFFIX))
        which = "aside_files" if index < surplus else "aside_days"
        named = {"seq": ledger.last_seq, "sha256": "", "name": path.name}
        lines.append(_deleted(named, fate, f"more than retention.{which}, {getattr(bounds, which):g}"))
    ledger.append(lines)


def _deleted(line: Line, was: str, reason: str) -> dict[str, Any]:
    known = {"seq": line["seq"], "sha256": line["sha256"], "name": line["name"], "fate": DELETED, "was": was, "reason": reason}
    return known | {"archived_as": line["archived_as"]} if "archived_as" in line else known


def _size_and_time(path: Path) -> tuple[int, float]:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0, 0.0
    return status.st_size, status.st_mtime


def _total_bytes(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries if entry.is_file(follow_symlinks=False))
