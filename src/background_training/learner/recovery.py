"""Reconcile model, ledger and archive at every start, clean or not, and reconstruct lines that a ledger has lost."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from background_training import command_lines
from background_training.algo import manifest, train_step
from background_training.episodes import buffer, episode_file
from background_training.episodes.buffer import DUPLICATE, REJECTED, STALE, TRAINED
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError, LedgerError, ModelError, ModelMissingError
from background_training.learner import checkpoint, replay_log
from background_training.learner.checkpoint import Checkpoint
from background_training.learner.finalize import Finalizer, unrecorded
from background_training.paths import EPISODE_SUFFIX, REASON_SUFFIX, Paths, is_episode_name
from background_training.records import ledger_lines
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import BY_ANOTHER_PROGRAM, RECONSTRUCTED, UNKNOWN_VERSION, Line
from background_training.settings import UNLIMITED, Settings
from background_training.storage import atomic_files, model_store

Report = Callable[[str], None]


def make_skeleton(paths: Paths, *, durable: bool) -> None:
    """Make the missing folders of a root.

    Raises:
        OSError: one can't be made.
    """
    paths.root.parent.mkdir(parents=True, exist_ok=True)
    for folder in paths.folders:
        atomic_files.make_folder(folder, durable=durable)


def recover(paths: Paths, settings: Settings, ledger: Ledger, report: Report) -> Checkpoint | None:
    """Find the newest committed version, finish the steps after its commit, and return it; None for a new root.

    Raises:
        LedgerError: the model and the ledger have different histories; nothing has been changed.
        OSError: the machine failed; run again.
    """
    atomic_files.remove_if_there(atomic_files.partial_path(paths.model))
    finalizer = Finalizer(paths, settings, ledger)
    present = _newest_readable(paths, settings, report)
    present = _reconciled(paths, finalizer, ledger, present, report)
    if present is None:
        return None
    present = _restored_publication(paths, settings, ledger, present, report)
    model_store.prune_history(paths, settings.learner.history_size)
    if present.commit["kind"] == checkpoint.BASE:
        _keep_base(paths, settings, present)
        if present.data and ledger.last_seq:
            ledger.record_published(present.version, present.commit, present.data)
    elif present.version:
        finalizer.after_commit(present, (), None)
    recent: tuple[Episode, ...] = ()
    if present.commit["kind"] != checkpoint.BASE:
        recent = replay_log.recent_of(paths, list(ledger.newest), settings.learning, present.layout)
    return Checkpoint(present.state, present.version, present.manifest, present.data, recent)


def _newest_readable(paths: Paths, settings: Settings, report: Report) -> Checkpoint | None:
    """The model, or the newest sound version of the history if it can't be read, which then takes its place for games too."""
    try:
        found = checkpoint.load(model_store.read_bytes(paths.model), str(paths.model))
        _check_foreign_weights(paths, settings, found)
        return found
    except ModelMissingError as error:
        cause, unreadable = str(error), False
    except ModelError as error:
        broken = paths.model.with_name(f"{paths.model.name}.broken")
        atomic_files.retry_while_shared(lambda: os.replace(paths.model, broken))
        cause, unreadable = f"{error}; it is kept as {broken.name}", True
    for version in reversed(model_store.history_versions(paths)):
        path = model_store.history_path(paths, version)
        try:
            found = checkpoint.load(model_store.read_bytes(path), str(path))
        except ModelError as error:
            cause, unreadable = f"{cause}; {error}", True
            continue
        report(f"{cause}. Continuing from version {version} of the history")
        model_store.commit(paths, found.data, durable=settings.learner.durable)
        return found
    if unreadable:  # a model that is merely missing is the usual state of a new root
        report(f"{cause}. No version of the history can be read instead")
    return None


def _check_foreign_weights(paths: Paths, settings: Settings, model: Checkpoint) -> None:
    """Refuse a model of another program whose weights are too large: every update on it would be refused.

    Raises:
        ModelError: a weight is beyond learning.reject_update_weight.
    """
    is_ours = model.commit["kind"] != checkpoint.BASE or "reason" in model.commit
    if not is_ours and train_step.weights_explode(model.state, settings.learning):
        needed = f"at most {settings.learning.reject_update_weight:g} (learning.reject_update_weight) is needed"
        raise ModelError(str(paths.model), "a weight is too large", needed)


def _reconciled(
    paths: Paths, finalizer: Finalizer, ledger: Ledger, present: Checkpoint | None, report: Report
) -> Checkpoint | None:
    """The checkpoint on which model and ledger agree, after adding to each what only the other holds."""
    if present is None:
        if ledger.last_seq:
            return _replayed_to_end(paths, finalizer, ledger, None, report)
        if anything_archived(paths):
            report(f"model and ledger are missing: training starts with an untrained model, whatever lies in {paths.archive}")
        return None
    if present.commit["kind"] == checkpoint.BASE:
        if ledger.last_seq == 0 or present.commit.get("after", 0) > ledger.last_seq:
            _restore_lost_lines(paths, ledger, present, report)
        return present if present.version >= ledger.last_seq else _newer_base(paths, ledger, present, report)
    if present.version == ledger.last_seq and present.chain == ledger.chain:
        return present
    if unrecorded(present, ledger) and _follows(paths, present, ledger):
        if ledger.last_seq == 0 and present.version > 1:
            _restore_lost_lines(paths, ledger, present, report)
        finalizer.record(present)
        return present
    if present.version < ledger.last_seq:
        return _replayed_to_end(paths, finalizer, ledger, present, report)
    if ledger.last_seq and not _has_lost_its_end(paths, present, ledger):
        found = f"it ends with version {ledger.last_seq}, and the model is version {present.version} of another history"
        raise LedgerError(str(paths.ledger), found, _REMEDY)
    _restore_lost_lines(paths, ledger, present, report)
    return replay_log.as_base(present, present.chain)


def _has_lost_its_end(paths: Paths, present: Checkpoint, ledger: Ledger) -> bool:
    """Whether both have one history, of which the ledger has lost the end.

    Then the newest batches of both are in this archive; those of a model or a ledger from another root would not be.
    """
    return present.version > ledger.last_seq and all(_is_here(paths, line) for line in (*present.batch, *ledger.last_group))


def _restore_lost_lines(paths: Paths, ledger: Ledger, present: Checkpoint, report: Report) -> None:
    """Reconstruct the lines that the ledger has lost, and report it."""
    begins = present.batch and present.batch[0].get("base")
    whole = bool(begins) and ledger.last_seq == 0  # the commit record holds everything since its base, and is appended as it is
    lines = [] if whole else [line for line in present.batch if _is_here(paths, line)]
    found = reconstruct_lines(paths, ledger, lines)
    if found == 0 and ledger.last_seq == 0:
        report(f"{paths.ledger} is new; history starts with version {present.version} of the model")
        return
    state = f"it ends with version {ledger.last_seq}" if ledger.last_seq else "it holds no version"
    report(
        f"{paths.ledger} has lost lines: {state}, and the model is version {present.version}. {found} episodes of the archive "
        f"are recorded as trained, in versions that are no longer known; history starts with version {present.version}"
    )


_REMEDY = (
    f"Restore the file that was replaced; or make the model from the archive with {command_lines.command('rebuild')}; "
    f"or continue from the model as it is with {command_lines.command('rollback')}"
)


def _follows(paths: Paths, present: Checkpoint, ledger: Ledger) -> bool:
    """Whether the committed batch is the next link of the ledger's chain, or the rest of its last one."""
    if ledger.last_seq == present.version:
        return bool(ledger.former_chain == present.commit["previous_chain"] or "base" in present.batch[0])
    base = present.batch[0].get("base")
    if base is None:
        return ledger.last_seq + 1 == present.version and ledger.chain == present.commit["previous_chain"]
    # A base may follow any earlier version. The model of another root may have one too, but the episodes of that
    # batch are not in this archive.
    return ledger.last_seq <= base["version"] and all(_is_here(paths, line) for line in present.batch)


def _is_here(paths: Paths, line: ledger_lines.Line) -> bool:
    try:
        replay_log.episode_of(paths, line)
    except LedgerError:
        return False
    return True


def _replayed_to_end(paths: Paths, finalizer: Finalizer, ledger: Ledger, start: Checkpoint | None, report: Report) -> Checkpoint:
    """Train the ledger's batches after `start` again, and commit each version as it was."""
    lines = list(ledger_lines.read_lines(ledger.path))
    groups = list(ledger_lines.groups(lines))
    done: list[ledger_lines.Line] = []
    if start is not None:
        _check_on_chain(paths, groups, start)
        done = [line for version, group in groups if version <= start.version for line in group]
        learned_with = replay_log.settings_of(start)
        recent = replay_log.recent_of(paths, ledger_lines.since_base(done), learned_with, start.layout)
        start = Checkpoint(start.state, start.version, start.manifest, start.data, recent)
        groups = [(version, group) for version, group in groups if version > start.version]
    report(f"the model is behind its ledger: training versions {groups[0][0]} to {groups[-1][0]} again from the archive")
    present = start
    for present in replay_log.replay(paths, groups, start, ledger_lines.since_base(done)):
        model_store.commit(paths, present.data, durable=finalizer.durable)
        finalizer.keep_history(present)
    assert present is not None
    return present


def _check_on_chain(paths: Paths, groups: list[tuple[int, list[ledger_lines.Line]]], start: Checkpoint) -> None:
    chain = ""
    for version, group in groups:
        if version > start.version:
            break
        chain = ledger_lines.chain_after(chain, group)
    if chain != start.chain:
        found = f"version {start.version} of the model is not the one that it records"
        raise LedgerError(str(paths.ledger), found, _REMEDY)


def _newer_base(paths: Paths, ledger: Ledger, present: Checkpoint, report: Report) -> Checkpoint:
    """Another program's model in the place of ours: kept, under a new version number."""
    version = ledger.last_seq + 1
    report(f"{paths.model} was written by another program as version {present.version}; it becomes version {version}")
    return checkpoint.republished(present, version, "written by another program", manifest.life_of(paths), by=BY_ANOTHER_PROGRAM)


def _restored_publication(paths: Paths, settings: Settings, ledger: Ledger, present: Checkpoint, report: Report) -> Checkpoint:
    """The version that was published after the last batch, if the model file with it has been lost since.

    Otherwise the loss of the model would undo a rollback.
    """
    line = ledger.newest_published
    if line is None or line["seq"] <= max(present.version, ledger.last_seq):
        return present
    path = replay_log.base_path(paths, line["chain"])
    try:
        published = checkpoint.load(model_store.read_bytes(path), str(path))
    except (ModelMissingError, ModelError) as error:
        made = replay_log.widened_again(present, line.get("widened"), line["chain"])
        if made is None:
            report(f"version {line['seq']} was published ({line['reason']}), but is lost: {error}")
            return present
        published = made
    report(f"version {line['seq']} was published ({line['reason']}) and is restored")
    model_store.commit(paths, published.data, durable=settings.learner.durable)
    return published


def _keep_base(paths: Paths, settings: Settings, present: Checkpoint) -> None:
    """Keep a copy of the base model: a replay of the ledger starts from it."""
    path = replay_log.base_path(paths, present.chain)
    durable = settings.learner.durable
    if present.data and not atomic_files.exists(path):
        atomic_files.write_atomically(path, present.data, durable=durable)


_AT_A_TIME = 200
_NOTE_BYTES = 100_000


def reconstruct_lines(paths: Paths, ledger: Ledger, batch: Sequence[Line] = ()) -> int:
    """Append a line for every archived file that the ledger lacks; return how many of them were trained on.

    Every file in the archive folder itself was trained on and must not be trained on again. Its version is no longer
    known, so these lines can't be replayed. Safe to be killed and run again at any point.

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
    known = {(line["fate"], line.get("archived_as", line["name"])) for line in ledger_lines.read_lines(ledger.path)}
    for fate in (TRAINED, STALE, DUPLICATE, REJECTED):
        folder = buffer.folder_of(paths, fate)
        for path in sorted(folder.iterdir()):
            if not is_episode_name(path.name) or (fate, path.name) in known:
                continue
            line = _trained_line(path, ledger) if fate == TRAINED else _aside_line(path, fate)
            if line is not None:
                yield line


def _trained_line(path: Path, ledger: Ledger) -> Line | None:
    """The line of an archived file; None if it is no regular file or has a line already."""
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
    """Whether the archive holds trained episodes."""
    return any(path.name.endswith(EPISODE_SUFFIX) for path in paths.archive.iterdir())
