"""Replay of the ledger: its batches, trained again from the archive in their order, give the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_training import command_lines
from background_training.episodes import alignment, episode_file
from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError, LedgerError, ModelError, ModelMissingError
from background_training.learner import checkpoint
from background_training.learner.checkpoint import Checkpoint
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.records.ledger_lines import ALIGNED, Line
from background_training.settings import UNLIMITED, LearningSettings, recorded_learning
from background_training.spaces import registry
from background_training.spaces.layout import ModelLayout
from background_training.storage import atomic_files, model_store

_LONGEST_RECENT = 10_000


def base_path(paths: Paths, chain: str) -> Path:
    """The path of the copy of a base model, with which a history starts."""
    return paths.history / f"base_{chain[:16]}.npz"


Change = Callable[[Line, Episode], Episode | None]


def replay(
    paths: Paths, groups: Iterable[tuple[int, Sequence[Line]]], start: Checkpoint | None, before: Sequence[Line] = ()
) -> Iterator[Checkpoint]:
    """Train the batches of a ledger again, and yield each version: the same bytes as when they were first trained.

    Args:
        groups: (version, its lines), oldest first, all after `start`.
        start: the version before the first group; None if the first group names its base.
        before: the lines of trained episodes since the last base, up to `start`.

    Raises:
        LedgerError: an episode or a base model is missing, or has changed since it was trained on.
    """
    present = start
    past = deque(before, maxlen=_LONGEST_RECENT)
    if present is None:
        present, groups, earlier = _first(paths, list(groups))
        past.extend(earlier)
    for version, lines in groups:
        if "base" in lines[0]:
            present = _base(paths, lines[0], present)
            past.clear()
        if present is None or present.version + 1 != version:
            found = f"the version before {version} is missing"
            raise LedgerError(
                str(paths.ledger), found, f"Use {command_lines.command('rollback')} to continue from an earlier version"
            )
        recent = lines[0].get("recent", len(present.recent))
        if recent != len(present.recent):
            # The learner was restarted before this batch, with another bound on the replayed episodes.
            episodes = tuple(_as_trained(paths, line, present.layout) for line in list(past)[len(past) - recent :])
            present = dataclasses.replace(present, recent=episodes)
        recorded = _recorded_settings(lines[0], present)
        present = checkpoint.successor(
            present, *_read(paths, lines, present.layout), recorded_learning(recorded), recorded=recorded
        )
        past.extend(lines)
        yield present


def replay_changed(
    paths: Paths, groups: Iterable[tuple[int, Sequence[Line]]], change: Change, start: Checkpoint | None = None
) -> Iterator[Checkpoint]:
    """Train the batches of a ledger again, with other episodes.

    Args:
        groups: the batches after `start`, oldest first; without a start, the first one names its base. Later bases are
            skipped, since they were not trained; a widening is repeated.
        change: returns for each line and its episode the episode to train on instead, or None to leave it out. A batch
            without episodes is skipped, so there may be fewer versions.

    Raises:
        LedgerError: as `replay` does.
    """
    present = start
    if present is None:
        present, groups, _ = _first(paths, list(groups))
    for _, lines in groups:
        if present is None:
            present = _base(paths, lines[0], None)
        else:
            for step in lines[0].get("base", {}).get("widened", ()):
                present = checkpoint.widened(present, {**step, "from": present.version, "version": present.version + 1})
        settings = recorded_learning(_recorded_settings(lines[0], present))
        read = _read(paths, lines, present.layout, by_position=True)[1]
        pairs = [(line, change(line, episode)) for line, episode in zip(lines, read, strict=True)]
        kept = [(_bare(line), episode) for line, episode in pairs if episode is not None]
        if kept:
            present = checkpoint.successor(present, [line for line, _ in kept], [episode for _, episode in kept], settings)
            yield present


def _first(
    paths: Paths, groups: list[tuple[int, Sequence[Line]]]
) -> tuple[Checkpoint | None, list[tuple[int, Sequence[Line]]], list[Line]]:
    """The start of a compacted ledger: the version before, the batches after it, and the earlier lines that were kept
    because their episodes may have been replayed."""
    starts = [index for index, (_, lines) in enumerate(groups) if "start" in lines[0]]
    if not starts:
        return None, groups, []
    index = starts[-1]
    path = base_path(paths, groups[index][1][0]["start"]["chain"])
    earlier = [line for _, lines in groups[:index] for line in lines]
    return checkpoint.load(model_store.read_bytes(path), str(path)), groups[index:], earlier


def _read(
    paths: Paths, lines: Sequence[Line], layout: ModelLayout, *, by_position: bool = False
) -> tuple[list[dict[str, Any]], list[Episode]]:
    """The lines of a batch and its episodes as they were trained on, for a model of this layout.

    Args:
        by_position: widen also the episodes that were trained on unaligned, as the model may be wider than it was then.
    """
    episodes: list[Episode] = []
    for line in lines:
        episode = _as_trained(paths, line, layout)
        layout = alignment.named_by(layout, episode)
        if by_position and ALIGNED not in line:
            unnamed = {key: value for key, value in episode.meta.items() if key not in ("state_names", "action_names")}
            episode = alignment.aligned(dataclasses.replace(episode, meta=unnamed), layout)
        episodes.append(episode)
    return [_bare(line) for line in lines], episodes


def _as_trained(paths: Paths, line: Line, layout: ModelLayout) -> Episode:
    """The episode of a line, aligned to the model's order if it was when it was trained on.

    Without the mark, it was trained on as it is, even in another order: early learners did not compare names.
    """
    episode = episode_of(paths, line)
    if ALIGNED not in line:
        return episode
    try:
        return alignment.aligned(episode, layout)
    except EpisodeError as error:
        found = f"{line['name']!a} of version {line['seq']} does not fit the model that it was trained into: {error}"
        raise LedgerError(str(paths.ledger), found, f"Use {command_lines.command('rollback')} to continue without it") from error


def recent_of(paths: Paths, newest: Sequence[Line], settings: LearningSettings, layout: ModelLayout) -> tuple[Episode, ...]:
    """The episodes that may join the next batch again, read back from the archive, for a model of this layout.

    The list ends at the first episode that is no longer in the archive: the newest ones matter most.
    """
    episodes: list[Episode] = []
    for line in reversed(newest):
        try:
            episodes.append(_as_trained(paths, line, layout))
        except LedgerError:
            break
        if len(checkpoint.kept_recent(episodes[::-1], settings)) < len(episodes):
            break
    return checkpoint.kept_recent(episodes[::-1], settings)


def episode_of(paths: Paths, line: Line) -> Episode:
    """The trained episode of a ledger line, from the archive or, before its move, from the buffer.

    Raises:
        LedgerError: no file with the bytes that were trained on, or the present reader refuses them.
    """
    places = (paths.archive / line.get("archived_as", line["name"]), paths.buffer / line["name"])
    for place in places:
        try:
            data = atomic_files.read_regular_file(place)
        except (FileNotFoundError, atomic_files.NotARegularFileError):
            continue
        if hashlib.sha256(data).hexdigest() == line["sha256"]:
            return _readable(paths, line, data)
    found = f"{line['name']!a} of version {line['seq']} is not in the archive with the bytes it was trained with"
    raise LedgerError(
        str(paths.ledger), found, f"Put the file back, or use {command_lines.command('rollback')} to continue without it"
    )


def _readable(paths: Paths, line: Line, data: bytes) -> Episode:
    try:
        return episode_file.read(data, UNLIMITED)
    except EpisodeError as error:  # the reader that trained on it was less strict
        found = f"{line['name']!a} of version {line['seq']} can no longer be read: {error}"
        raise LedgerError(str(paths.ledger), found, f"Use {command_lines.command('rollback')} to continue without it") from error


def _base(paths: Paths, line: Line, before: Checkpoint | None) -> Checkpoint:
    base = line["base"]
    made = widened_again(before, base.get("widened"), base["chain"])
    if made is not None:
        return made
    if base["chain"] == "":
        width, actions = line["sizes"]
        return checkpoint.untrained(width, registry.of_json(actions, UNLIMITED.max_actions), recorded_learning(line["learning"]))
    path = base_path(paths, base["chain"])
    try:
        data = model_store.read_bytes(path)
    except FileNotFoundError:
        found = f"the model of version {base['version']}, with which the history starts, is missing"
        raise LedgerError(str(path), found, f"Put the file back, or use {command_lines.command('rollback')}") from None
    return as_base(checkpoint.load(data, str(path)), base["chain"])


def widened_again(before: Checkpoint | None, steps: Any, chain: str) -> Checkpoint | None:
    """The version with this chain, rebuilt by widening the previous one; None if the result differs."""
    if before is None or not isinstance(steps, list) or not steps:
        return None
    made = before
    try:
        for step in steps:
            if step["from"] != made.version:
                return None
            made = checkpoint.widened(made, step)
    except (KeyError, TypeError, ValueError):
        return None
    return made if made.chain == chain else None


def as_base(model: Checkpoint, chain: str) -> Checkpoint:
    """The model as a base: history starts with it; its own commit record is ignored."""
    record = {"kind": checkpoint.BASE, "seq": model.version, "previous_chain": "", "chain": chain, "batch": []}
    return Checkpoint(model.state, model.version, {**model.manifest, "commit": record}, model.data)


def settings_of(present: Checkpoint) -> LearningSettings:
    """The learning settings that a version was trained with."""
    return recorded_learning(present.manifest["hyper_parameters"])


def _recorded_settings(line: Line, present: Checkpoint) -> dict[str, Any]:
    """The settings of a batch, under the names that its line or the version before it uses."""
    return dict(line["learning"] if "learning" in line else present.manifest["hyper_parameters"])


def _bare(line: Line) -> dict[str, Any]:
    """The line without what `successor` adds to it."""
    added = ("recent", "base", "sizes", "learning", "start", "refused")
    return {key: value for key, value in line.items() if key not in added}


Groups = list[tuple[int, list[Line]]]


@dataclass(frozen=True)
class ReplayStart:
    """The arguments of `replay` for the rest of a ledger.

    version: the last one that is not trained again; 0 if all are.
    groups, start, before: as for `replay`.
    all_of_it: whether this is the start of the ledger itself.
    """

    version: int
    groups: Groups
    start: Checkpoint | None = None
    before: Sequence[Line] = ()
    all_of_it: bool = True


def replay_start(paths: Paths, lines: Sequence[Line], to: int | None = None, *, nearest: bool = False) -> ReplayStart:
    """The oldest version, or the nearest one, from which the batches up to version `to` can be trained again.

    Only episodes that retention has recorded as deleted are skipped. `replay` fails on an episode that is missing for
    any other reason.

    Raises:
        LedgerError: there is no such version.
        OSError: the machine failed.
    """
    groups = [(version, group) for version, group in ledger_lines.groups(lines) if to is None or version <= to]
    deleted = ledger_lines.deleted_hashes(lines)
    candidates = _candidates(paths, groups)
    for version, index in reversed(candidates) if nearest else candidates:
        if any(line["sha256"] in deleted for line in needed_after(groups, version)):
            continue
        if (version, index) == candidates[0]:
            return ReplayStart(version, groups)
        if index is not None:
            if atomic_files.exists(base_path(paths, groups[index][1][0]["base"]["chain"])):
                return ReplayStart(version, groups[index:], all_of_it=False)
            continue
        start = kept(paths, groups, version)
        if start is not None:
            before = ledger_lines.since_base(line for seq, group in groups if seq <= version for line in group)
            return ReplayStart(version, [(seq, group) for seq, group in groups if seq > version], start, before, all_of_it=False)
    if not groups:
        return ReplayStart(0, [])
    found = (
        f"retention has deleted episodes of its versions up to {groups[-1][0]}, and no version between is kept to continue from"
    )
    raise LedgerError(str(paths.ledger), found, f"{command_lines.command('rollback')} goes back to a version of models/history")


def needed_after(groups: Iterable[tuple[int, Sequence[Line]]], version: int) -> list[Line]:
    """The lines whose episodes are needed to train the batches after a version again: those of the batches, and of the
    episodes that were replayed in them."""
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

    Of several starts only the last one counts; the lines before it are kept for the replayed episodes.
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


def kept(paths: Paths, groups: Groups, version: int) -> Checkpoint | None:
    """A version of the history, if it can be read and is on the chain of this ledger."""
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
        chain = ledger_lines.chain_after(chain, group)
    return chain
