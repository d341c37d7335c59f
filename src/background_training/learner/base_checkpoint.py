"""From where a ledger can be trained again: its beginning, or a version that is kept after all that retention has deleted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from background_training import command_lines
from background_training.errors import LedgerError, ModelError, ModelMissingError
from background_training.learner import checkpoint, replay_log
from background_training.learner.checkpoint import Generation
from background_training.paths import Paths
from background_training.records import ledger as ledgers
from background_training.records.ledger import Line
from background_training.storage import atomic_files, model_store

Groups = list[tuple[int, list[Line]]]


@dataclass(frozen=True)
class Beginning:
    """What `fold.fold` needs to train the rest of a ledger.

    version: the last one that is not trained again; 0 if all are.
    groups, start, before: as `fold.fold` takes them.
    all_of_it: whether this is where the ledger itself begins.
    """

    version: int
    groups: Groups
    start: Generation | None = None
    before: Sequence[Line] = ()
    all_of_it: bool = True


def find(paths: Paths, lines: Sequence[Line], to: int | None = None, *, nearest: bool = False) -> Beginning:
    """The oldest place, or the newest one, from where the batches up to version `to` can be trained again.

    Only what retention has recorded as deleted is passed over. An episode that is missing for any other reason is found
    missing by the fold, which says so.

    Raises:
        LedgerError: there is no such place.
        OSError: the machine failed.
    """
    groups = [(version, group) for version, group in ledgers.groups(lines) if to is None or version <= to]
    deleted = ledgers.deleted_hashes(lines)
    candidates = _candidates(paths, groups)
    for version, index in reversed(candidates) if nearest else candidates:
        if any(line["sha256"] in deleted for line in needed_after(groups, version)):
            continue
        if (version, index) == candidates[0]:
            return Beginning(version, groups)
        if index is not None:
            if atomic_files.exists(replay_log.base_path(paths, groups[index][1][0]["base"]["chain"])):
                return Beginning(version, groups[index:], all_of_it=False)
            continue
        start = kept(paths, groups, version)
        if start is not None:
            before = ledgers.since_base(line for seq, group in groups if seq <= version for line in group)
            return Beginning(version, [(seq, group) for seq, group in groups if seq > version], start, before, all_of_it=False)
    if not groups:
        return Beginning(0, [])
    found = f"retention has deleted episodes of its versions up to {groups[-1][0]}, and no version between is kept to go on from"
    raise LedgerError(str(paths.ledger), found, f"{command_lines.command('rollback')} goes back to a version of models/history")


def needed_after(groups: Iterable[tuple[int, Sequence[Line]]], version: int) -> list[Line]:
    """The lines of the episodes without which the batches after a version can't be trained again: theirs, and those of
    the episodes that joined these batches once more."""
    flat: list[Line] = []
    first: int | None = None
    for seq, group in groups:
        if seq > version:
            begin = max(0, len(flat) - int(group[0].get("recent", 0)))
            first = begin if first is None else min(first, begin)
        flat.extend(group)
    return [] if first is None else flat[first:]


def _candidates(paths: Paths, groups: Groups) -> list[tuple[int, int | None]]:
    """(version, index of the batch that names it as base or start; None for one of the history), oldest first.

    Of several starts only the last one counts: what is left from before it is there for being replayed.
    """
    starts = [index for index, (_, group) in enumerate(groups) if "start" in group[0]]
    first = starts[-1] if starts else 0
    found: list[tuple[int, int | None]] = []
    for index, (seq, group) in enumerate(groups[first:], first):
        begins = group[0].get("start" if index in starts else "base") or ({"version": seq - 1} if index == 0 else None)
        if begins:
            found.append((int(begins["version"]), index))
    followed = {seq - 1 for seq, _ in groups[first + 1 :]}
    named = {version for version, _ in found}
    found += [(version, None) for version in model_store.history_versions(paths) if version in followed - named]
    return sorted(found, key=lambda candidate: candidate[0])


def kept(paths: Paths, groups: Groups, version: int) -> Generation | None:
    """A version of the history, if it can be read and is one that this ledger tells of."""
    path = model_store.history_path(paths, version)
    try:
        found = checkpoint.load(model_store.read_bytes(path), str(path))
    except (ModelMissingError, ModelError):
        return None
    return found if found.version == version and found.chain == _chain_at(groups, version) else None


def _chain_at(groups: Groups, version: int) -> str:
    chain = ""
    for seq, group in groups:
        if seq > version:
            break
        chain = ledgers.chain_after(chain, group)
    return chain
