"""Bound the archive, the excluded files and the ledger as `retention` sets it. Every deletion is recorded.

Only archived files are deleted, never waiting ones or those that a recovery may need. The model's history
and the log have bounds of their own (learner.history_size, learner.log_bytes).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training.episodes import buffer
from background_training.episodes.buffer import DELETED, DUPLICATE, REJECTED, STALE, TRAINED
from background_training.errors import ModelMissingError
from background_training.learner import replay_log
from background_training.learner.checkpoint import Checkpoint
from background_training.learner.replay_log import Groups
from background_training.learner.triage import CLOCK, WallClock
from background_training.paths import REASON_SUFFIX, Paths
from background_training.records import ledger_lines
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import Line
from background_training.settings import Settings
from background_training.storage import atomic_files, model_store

_DAY_SECONDS = 86_400.0
_AT_A_TIME = 200


def apply(paths: Paths, settings: Settings, ledger: Ledger, clock: WallClock = CLOCK) -> Ledger:
    """Delete what is above the bounds; the caller holds the worker lock.

    Returns:
        The ledger to continue with: a new object if its oldest lines were removed.

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
        return compacted(paths, settings, ledger)
    return ledger


def _delete_trained(paths: Paths, settings: Settings, ledger: Ledger, clock: WallClock) -> None:
    """Delete the oldest first, in the ledger's order, so that the rest is one unbroken end of the history."""
    bounds = settings.retention
    records = list(ledger_lines.read_lines(ledger.path))
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
    """The age of each episode. One that is missing or from the future gets the age of the next one that was trained, so
    that it does not stop the deletion, and an unreachable archive does not count as old."""
    ages: list[float] = []
    for line in reversed(lines):
        modified = _size_and_time(_place(paths, line))[1]
        age_seconds = clock.age_seconds(modified)
        ages.append(age_seconds if modified and age_seconds >= 0 else ages[-1] if ages else 0.0)
    return ages[::-1]


def _delete(paths: Paths, ledger: Ledger, lines: Sequence[Line]) -> None:
    """Record first: without a line, a deleted episode would be missing, and nothing after it could be replayed."""
    ledger.append(lines)
    for line in lines:
        atomic_files.remove_if_there(_place(paths, line))


def _finish_deleting(paths: Paths, records: Sequence[Line]) -> None:
    """Finish the deletion of a killed process; then its `deleted` lines are the last ones of the ledger."""
    last = list(itertools.takewhile(lambda line: line["fate"] == DELETED and line["was"] == TRAINED, reversed(records)))
    gone = ledger_lines.deleted_hashes(records)
    kept = {_place(paths, line) for line in records if line["fate"] == TRAINED and line["sha256"] not in gone}
    for line in last[:_AT_A_TIME]:
        if _place(paths, line) not in kept:  # the name may belong to a newer episode
            atomic_files.remove_if_there(_place(paths, line))


def _place(paths: Paths, line: Line) -> Path:
    return paths.archive / str(line.get("archived_as", line["name"]))


def _deletable(paths: Paths, records: Sequence[Line], ledger: Ledger) -> Iterator[Line]:
    """Trained episodes, oldest first, that no recovery and no replay from the oldest model of the history needs."""
    versions = model_store.history_versions(paths)
    if not versions:
        return
    spared = {line["sha256"] for line in (*ledger.newest, *replay_log.needed_after(ledger_lines.groups(records), versions[0]))}
    gone = ledger_lines.deleted_hashes(records)
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
            continue  # a folder of the user's, with unknown content
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


_SHORTENED_SHARE = 0.8
"""Share of the bound to compact to, so that the file is not rewritten for each new line."""


@dataclass(frozen=True)
class _Cut:
    """needed: the lines that a recovery, a rebuild or a batch may need. after: the version before the first of them."""

    needed: Sequence[Line]
    after: Checkpoint | None = None


def compacted(paths: Paths, settings: Settings, ledger: Ledger) -> Ledger:
    """Remove the oldest lines above `retention.ledger_lines`; the caller holds the worker lock.

    The first line then holds the counts of the removed ones and names the version with which the history starts; a copy of
    that model is kept. Needed lines stay even above the bound: those of the episodes after the last but one version of the
    history, and of those before it that may be replayed. The file is replaced atomically.
    """
    # Lines about an index refer to the bytes of the present file.
    lines = [line for line in ledger_lines.read_lines(ledger.path) if "end" not in line]
    groups = list(ledger_lines.groups(lines))
    room = max(0, int(_SHORTENED_SHARE * settings.retention.ledger_lines) - 1)
    cut = _cut(paths, groups, settings.learning.replay_episodes, room)
    kept = _kept(lines, cut, room, groups[-1][0] if groups else 0)
    if len(kept) + 1 >= len(lines):
        return ledger
    left_out = ledger_lines.counts_of(lines)
    left_out.subtract(ledger_lines.counts_of(kept))
    base = next((line["start"] for line in reversed(lines) if "start" in line), None)
    if cut.after is not None:
        base = {"version": cut.after.version, "chain": cut.after.chain}
        atomic_files.write_atomically(replay_log.base_path(paths, cut.after.chain), cut.after.data, durable=ledger.durable)
    first = ledger_lines.compaction_line(kept[0]["seq"] if kept else 0, {fate: n for fate, n in left_out.items() if n}, base)
    atomic_files.write_atomically(ledger.path, ledger_lines.encode([first, *kept]), durable=ledger.durable)
    _forget_bases(paths, [first, *kept])
    return Ledger(
        ledger.path, durable=ledger.durable, remember_newest=settings.learning.replay_episodes, index=paths.ledger_index
    )


def _cut(paths: Paths, groups: Groups, replay_episodes: int, room: int) -> _Cut:
    """Cut after the oldest version of the history that leaves few enough needed lines, otherwise after the newest one."""
    flat = [line for _, group in groups for line in group]
    replayed = min(replay_episodes, len(ledger_lines.since_base(flat)))
    followed = {seq - 1 for seq, group in groups[:-1] if "base" not in group[0] and "start" not in group[0]}
    best = _Cut(flat)
    for version in model_store.history_versions(paths):
        after = replay_log.kept(paths, groups, version) if version in followed else None
        if after is not None:
            count = max(replayed, len(replay_log.needed_after(groups, version)))
            best = _Cut(flat[len(flat) - count :], after)
            if count <= room:
                break
    return best


def _kept(lines: Sequence[Line], cut: _Cut, room: int, last_seq: int) -> list[Line]:
    """The needed lines, and as many of the newest other lines as there is room for, in their order.

    The deletion of a needed episode becomes a mark in its line. The last batch's lines stay as they are, since recovery
    compares them with those in the model.
    """
    deletions = [line for line in lines if line.get("was") == TRAINED]
    reasons = {line["sha256"]: line["reason"] for line in deletions}
    as_they_are = {line["sha256"] for line in cut.needed if line["seq"] == last_seq}
    needed = {id(line) for line in (*cut.needed, *(line for line in deletions if line["sha256"] in as_they_are))}
    others = [line for line in lines if _may_be_left_out(line)]
    kept = needed | {id(line) for line in others[len(others) - max(0, min(len(others), room - len(needed))) :]}
    found: list[Line] = []
    for line in lines:
        if id(line) not in kept:
            continue
        own = {key: value for key, value in line.items() if key != "start"}  # the first line of the new ledger names it
        if line["fate"] == TRAINED and line["sha256"] in reasons.keys() - as_they_are:
            own[DELETED] = reasons[line["sha256"]]
        found.append(own)
    return found


def _may_be_left_out(line: Line) -> bool:
    """Whether a line may be removed when room is short, such as one about a rejected file.

    The deletion of a trained episode is only kept together with the episode's own line.
    """
    return not ledger_lines.is_compaction(line) and line.get("was") != TRAINED and not ledger_lines.is_of_history(line)


def _forget_bases(paths: Paths, kept: Sequence[Line]) -> None:
    """Remove the copies of base models that no line refers to any more."""
    begins = [line.get("base") for line in kept]
    needed = {replay_log.base_path(paths, begin["chain"]) for begin in begins if begin and begin["chain"]}
    try:
        with_model = model_store.read(paths.model, model_store.POLICY_KEYS).manifest.get("commit", {}).get("chain", "")
    except ModelMissingError:
        return
    for path in paths.history.glob("base_*.npz"):
        if path not in needed and path != replay_log.base_path(paths, with_model):
            atomic_files.remove_if_there(path)
