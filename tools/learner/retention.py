"""Keep the past bounded as the user wants it: archive, files set aside, ledger. Every deletion is recorded.

Only what lies in the archive is ever deleted; what waits, and what a recovery may need, stays. The model's history
and the log have bounds of their own (learner.history_size, learner.log_bytes).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from local_training import atomic_files, buffer_folder, model_store
from local_training.buffer_folder import DELETED, DUPLICATE, REJECTED, STALE, TRAINED
from local_training.paths import REASON_SUFFIX, Paths
from local_training.settings import Settings
from tools.learner import fold
from tools.learner import ledger as ledgers
from tools.learner.ledger import SUMMARY, Ledger, Line

_DAY_SECONDS = 86_400.0
_AT_A_TIME = 200
_SLACK = 1.25


def apply(paths: Paths, settings: Settings, ledger: Ledger, now: Callable[[], float] = time.time) -> Ledger:
    """Delete what is above the bounds; the caller holds the worker lock.

    Returns:
        The ledger to go on with: a new one when its oldest lines were left out.

    Raises:
        OSError: the machine failed; call again later.
    """
    bounds = settings.retention
    if bounds.archive_files or bounds.archive_bytes or bounds.archive_days:
        _delete_trained(paths, settings, ledger, now())
    if bounds.aside_files or bounds.aside_days:
        for fate in (STALE, DUPLICATE, REJECTED):
            _delete_aside(paths, settings, ledger, fate, now())
    if bounds.ledger_lines and ledger.size > _SLACK * bounds.ledger_lines:
        return _shortened(paths, settings, ledger)
    return ledger


def _delete_trained(paths: Paths, settings: Settings, ledger: Ledger, moment: float) -> None:
    """Oldest first, in the ledger's order, so that what is left is one unbroken end of the history."""
    bounds = settings.retention
    total_bytes = _total_bytes(paths.archive) if bounds.archive_bytes else 0
    lines: list[dict[str, Any]] = []
    left = ledger.archived
    for line in _deletable(paths, ledger):
        path = paths.archive / line.get("archived_as", line["name"])
        size, modified = _size_and_time(path)
        old = bool(bounds.archive_days) and moment - modified > bounds.archive_days * _DAY_SECONDS
        many = bool(bounds.archive_files) and left > bounds.archive_files
        large = bool(bounds.archive_bytes) and total_bytes > bounds.archive_bytes
        if not (old or many or large):
            break
        atomic_files.remove_if_there(path)
        which = "archive_days" if old else "archive_files" if many else "archive_bytes"
        lines.append(_deleted(line, TRAINED, f"more than retention.{which}, {getattr(bounds, which):g}"))
        left -= 1
        total_bytes -= size
        if len(lines) == _AT_A_TIME:
            ledger.append(lines)
            lines = []
    ledger.append(lines)


def _deletable(paths: Paths, ledger: Ledger) -> Iterator[Line]:
    """Trained episodes, oldest first, that no recovery can ask for: those up to the oldest model of the history."""
    versions = model_store.history_versions(paths)
    if not versions:
        return
    spared = {line["sha256"] for line in ledger.newest}
    trained = [line for line in ledgers.read_lines(ledger.path) if line["fate"] == TRAINED]
    gone = {line["sha256"] for line in ledgers.read_lines(ledger.path) if line["fate"] == DELETED}
    for line in trained:
        if line["seq"] > versions[0] or line["sha256"] in spared:
            return
        if line["sha256"] not in gone:
            yield line


def _delete_aside(paths: Paths, settings: Settings, ledger: Ledger, fate: str, moment: float) -> None:
    bounds = settings.retention
    folder = buffer_folder.folder_of(paths, fate)
    files = sorted((_size_and_time(path)[1], path) for path in folder.iterdir() if not path.name.endswith(REASON_SUFFIX))
    surplus = max(0, len(files) - bounds.aside_files) if bounds.aside_files else 0
    lines = []
    for index, (modified, path) in enumerate(files):
        old = bool(bounds.aside_days) and moment - modified > bounds.aside_days * _DAY_SECONDS
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
    return {"seq": line["seq"], "sha256": line["sha256"], "name": line["name"], "fate": DELETED, "was": was, "reason": reason}


def _shortened(paths: Paths, settings: Settings, ledger: Ledger) -> Ledger:
    """Leave out the oldest lines: the ledger begins after a version whose model is kept for good.

    The file is replaced as a whole, so a crash leaves the old one or the new one.
    """
    lines = list(ledgers.read_lines(ledger.path))
    groups = list(ledgers.groups(lines))
    start = _start_version(paths, settings, lines)
    if start is None:
        return ledger
    data = model_store.read_bytes(model_store.history_path(paths, start))
    chain = str(model_store.unpack(data, str(start)).manifest["commit"]["chain"])
    first = next(group[0] for version, group in groups if version == start + 1)
    kept_from = _index_of_oldest_recent(lines, first, settings.learning.replay_episodes)
    if kept_from <= 1:
        return ledger  # what may be replayed takes more lines than the bound
    counts = dict(ledgers.counts_of(lines[:kept_from]))
    summary = {"seq": lines[kept_from]["seq"], "sha256": "", "name": "", "fate": SUMMARY, "counts": counts}
    marked = {**first, "start": {"version": start, "chain": chain}}
    atomic_files.write_atomically(fold.base_path(paths, chain), data, durable=ledger.durable)
    kept = [summary, *(marked if line is first else line for line in lines[kept_from:])]
    atomic_files.write_atomically(ledger.path, ledgers.encode(kept), durable=ledger.durable)
    _forget_bases(paths, kept)
    return Ledger(ledger.path, durable=ledger.durable, remember_newest=settings.learning.replay_episodes)


def _start_version(paths: Paths, settings: Settings, lines: Sequence[Line]) -> int | None:
    """The oldest version of the history after which few enough lines follow; None if there is none."""
    last_seq = max(line["seq"] for line in lines)
    followed = {line["seq"] for line in lines if line["fate"] == TRAINED and "base" not in line and "start" not in line}
    for version in model_store.history_versions(paths):
        following = sum(line["seq"] > version for line in lines)
        if version + 1 in followed and version + 1 < last_seq and following <= settings.retention.ledger_lines:
            return version
    return None


def _index_of_oldest_recent(lines: Sequence[Line], first: Line, replay_episodes: int) -> int:
    """Where to cut: episodes that may be replayed after the start stay in the ledger."""
    index = next(index for index, line in enumerate(lines) if line is first)
    wanted = replay_episodes
    while index > 0 and wanted > 0:
        index -= 1
        wanted -= lines[index]["fate"] == TRAINED
    return index


def _forget_bases(paths: Paths, kept: Sequence[Line]) -> None:
    """Remove the copies of models from which no line goes on any more."""
    begins = [line.get("base") or line.get("start") for line in kept]
    needed = {fold.base_path(paths, begin["chain"]) for begin in begins if begin and begin["chain"]}
    with_model = model_store.read(paths.model, model_store.POLICY_KEYS).manifest.get("commit", {}).get("chain", "")
    for path in paths.history.glob("base_*.npz"):
        if path not in needed and path != fold.base_path(paths, with_model):
            atomic_files.remove_if_there(path)


def _size_and_time(path: Path) -> tuple[int, float]:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return 0, 0.0
    return status.st_size, status.st_mtime


def _total_bytes(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in entries if entry.is_file(follow_symlinks=False))
