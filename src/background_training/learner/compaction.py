"""A ledger without its oldest lines: the first line counts them, and the history begins after a version that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from background_training.episodes.buffer import DELETED, TRAINED
from background_training.errors import ModelMissingError
from background_training.learner import base_checkpoint, replay_log
from background_training.learner.base_checkpoint import Groups
from background_training.learner.checkpoint import Generation
from background_training.paths import Paths
from background_training.records import ledger as ledgers
from background_training.records.ledger import SUMMARY, Ledger, Line
from background_training.records.ledger_index import CHECKPOINT
from background_training.settings import Settings
from background_training.storage import atomic_files, model_store

_SHORTENED_SHARE = 0.8
"""Of the bound, so that the file is not written anew for each line that comes."""


@dataclass(frozen=True)
class _Cut:
    """needed: the lines that a recovery, a rebuild or a replay may ask for. after: the version that they come after."""

    needed: Sequence[Line]
    after: Generation | None = None


def shortened(paths: Paths, settings: Settings, ledger: Ledger) -> Ledger:
    """Leave out the oldest lines above `retention.ledger_lines`; the caller holds the worker lock.

    Needed lines stay, even if they alone are more. So the file has at most as many lines as the setting says, or as there
    are trained episodes after the last but one version of the history, and before it for being replayed, and one.
    It is replaced as a whole: a crash leaves the old one or the new one.
    """
    # What an index stands for are the lines of the present file.
    lines = [line for line in ledgers.read_lines(ledger.path) if line["fate"] != CHECKPOINT or "guard" in line]
    groups = list(ledgers.groups(lines))
    room = max(0, int(_SHORTENED_SHARE * settings.retention.ledger_lines) - 1)
    cut = _cut(paths, groups, settings.learning.replay_episodes, room)
    kept = _kept(lines, cut, room, groups[-1][0] if groups else 0)
    if len(kept) + 1 >= len(lines):
        return ledger
    left_out = ledgers.counts_of(lines)
    left_out.subtract(ledgers.counts_of(kept))
    seq = kept[0]["seq"] if kept else 0
    summary = {"seq": seq, "sha256": "", "name": "", "fate": SUMMARY, "counts": {fate: n for fate, n in left_out.items() if n}}
    if cut.after is not None:
        atomic_files.write_atomically(replay_log.base_path(paths, cut.after.chain), cut.after.data, durable=ledger.durable)
    atomic_files.write_atomically(ledger.path, ledgers.encode([summary, *kept]), durable=ledger.durable)
    _forget_bases(paths, kept)
    return Ledger(
        ledger.path, durable=ledger.durable, remember_newest=settings.learning.replay_episodes, index=paths.ledger_index
    )


def _cut(paths: Paths, groups: Groups, replay_episodes: int, room: int) -> _Cut:
    """Cut after the oldest version of the history after which few enough lines are needed, or after the newest one."""
    flat = [line for _, group in groups for line in group]
    replayed = min(replay_episodes, len(ledgers.since_base(flat)))
    followed = {seq - 1 for seq, group in groups[:-1] if "base" not in group[0] and "start" not in group[0]}
    best = _Cut(flat)
    for version in model_store.history_versions(paths):
        after = base_checkpoint.kept(paths, groups, version) if version in followed else None
        if after is not None:
            count = max(replayed, len(base_checkpoint.needed_after(groups, version)))
            best = _Cut(flat[len(flat) - count :], after)
            if count <= room:
                break
    return best


def _kept(lines: Sequence[Line], cut: _Cut, room: int, last_seq: int) -> list[Line]:
    """The needed lines, and as many of the newest of the others as there is room for, in their order.

    What tells that a needed episode was deleted becomes a mark in its line. The last batch's lines stay as they are: they
    are compared with those in the model.
    """
    deletions = [line for line in lines if line.get("was") == TRAINED]
    reasons = {line["sha256"]: line["reason"] for line in deletions}
    as_they_are = {line["sha256"] for line in cut.needed if line["seq"] == last_seq}
    needed = {id(line) for line in (*cut.needed, *(line for line in deletions if line["sha256"] in as_they_are))}
    others = [line for line in lines if _may_be_left_out(line)]
    kept = needed | {id(line) for line in others[len(others) - max(0, min(len(others), room - len(needed))) :]}
    first = next((line for line in cut.needed if cut.after is not None and line["seq"] == cut.after.version + 1), None)
    found: list[Line] = []
    for line in lines:
        if id(line) not in kept:
            continue
        more = {}
        if line["fate"] == TRAINED and line["sha256"] in reasons.keys() - as_they_are:
            more[DELETED] = reasons[line["sha256"]]
        if line is first and cut.after is not None:
            more["start"] = {"version": cut.after.version, "chain": cut.after.chain}
        found.append({**line, **more})
    return found


def _may_be_left_out(line: Line) -> bool:
    """Whether a line is kept for its own sake alone, as long as there is room: one about a file set aside, say.

    That a trained episode was deleted is not told without that episode: it may come again, and be trained anew.
    """
    return line["fate"] != SUMMARY and line.get("was") != TRAINED and not ledgers.is_of_history(line)


def _forget_bases(paths: Paths, kept: Sequence[Line]) -> None:
    """Remove the copies of models from which no line goes on any more."""
    begins = [line.get("base") or line.get("start") for line in kept]
    needed = {replay_log.base_path(paths, begin["chain"]) for begin in begins if begin and begin["chain"]}
    try:
        with_model = model_store.read(paths.model, model_store.POLICY_KEYS).manifest.get("commit", {}).get("chain", "")
    except ModelMissingError:
        return
    for path in paths.history.glob("base_*.npz"):
        if path not in needed and path != replay_log.base_path(paths, with_model):
            atomic_files.remove_if_there(path)
