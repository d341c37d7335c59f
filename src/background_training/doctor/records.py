"""Checks of model, ledger and fates: unreadable, damaged, mostly rejected, stale or duplicates; and the readings they need."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from background_training import command_lines
from background_training.algo import batch
from background_training.doctor.facts import DoctorFacts, FoundModel, Line, RecordFacts, ReplayFacts, Seen
from background_training.doctor.finding import Trouble
from background_training.episodes import alignment, buffer, episode_file
from background_training.episodes.buffer import DELETED, DUPLICATE, REJECTED, STALE, TRAINED
from background_training.errors import EpisodeError, LedgerError, ModelError, ModelMissingError
from background_training.monitor import humanize
from background_training.monitor.replays import REPLAY_SUFFIX, count_files
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.settings import LimitSettings, ReplaySettings
from background_training.spaces import layout as layouts
from background_training.storage import atomic_files, model_store

RECENT_FATES = 200
EPISODES_READ = 60
_BYTES_READ = 100_000_000
_ARCHIVE_LOOKED_FOR = 200
_REPLAYS_COUNTED = 100_000


def records(paths: Paths) -> RecordFacts:
    try:
        lines = list(ledger_lines.read_lines(paths.ledger))
    except (LedgerError, OSError) as error:
        return RecordFacts(trouble=str(error))
    chain, chains = "", {""}
    for _, group in ledger_lines.groups(lines):
        chain = ledger_lines.chain_after(chain, group)
        chains.add(chain)
    fates = [line for line in lines if line["fate"] not in (DELETED, *ledger_lines.OF_NO_FILE)]
    return RecordFacts(
        counts=ledger_lines.counts_of(lines),
        recent=fates[-RECENT_FATES:],
        chains=frozenset(chains),
        gone=tuple(_gone(paths, lines)),
    )


def _gone(paths: Paths, lines: Sequence[Line]) -> Iterable[str]:
    deleted = ledger_lines.deleted_hashes(lines)
    newest = [line for line in lines if line["fate"] == TRAINED and line["sha256"] not in deleted][-_ARCHIVE_LOOKED_FOR:]
    for line in newest:
        # A file that was committed a moment ago, or before a crash, may still be in the buffer.
        places = (paths.archive / line.get("archived_as", line["name"]), paths.buffer / line["name"])
        if not any(os.path.lexists(place) for place in places):
            yield str(line["name"])


def model(paths: Paths) -> FoundModel:
    try:
        found = model_store.read(paths.model)
    except ModelMissingError:
        return FoundModel(missing=True)
    except (ModelError, OSError) as error:
        return FoundModel(trouble=str(error))
    floats = {name: array for name, array in found.arrays.items() if array.dtype.kind == "f"}
    return FoundModel(
        version=found.version,
        state_width=found.state_width,
        actions=found.actions,
        manifest=found.manifest,
        not_finite=tuple(sorted(name for name, array in floats.items() if not np.isfinite(array).all())),
    )


def waiting_episodes(paths: Paths, limits: LimitSettings) -> tuple[Seen, ...]:
    """The newest files of the buffer, oldest first."""
    try:
        names = buffer.waiting_names(paths)
    except OSError:
        return ()
    return _read(paths.buffer, names, limits)


def trained_episodes(paths: Paths, found: RecordFacts, limits: LimitSettings) -> tuple[Seen, ...]:
    """The episodes trained on last, oldest first."""
    names = [line.get("archived_as", line["name"]) for line in found.recent if line["fate"] == TRAINED]
    return _read(paths.archive, names, limits)


def _read(folder: Path, names: Sequence[str], limits: LimitSettings) -> tuple[Seen, ...]:
    """The last of these files, a bounded number of bytes of them."""
    seen: list[Seen] = []
    room = _BYTES_READ
    for name in reversed(names[-EPISODES_READ:]):
        path = folder / name
        try:
            status = os.lstat(path)
            room -= status.st_size
            if room < 0:
                break
            data = atomic_files.read_regular_file(path, _BYTES_READ)
        except (OSError, OverflowError):
            continue  # moved on meanwhile, or another check's business
        try:
            seen.append(Seen(name, status.st_mtime, episode_file.read(data, limits)))
        except EpisodeError as error:
            seen.append(Seen(name, status.st_mtime, None, error.reason, str(error)))
    return tuple(reversed(seen))


def replays(paths: Paths, settings: ReplaySettings) -> ReplayFacts:
    if not settings.folder:
        return ReplayFacts()
    folder = Path(settings.folder).expanduser()
    counts = _replay_counts(paths)
    return ReplayFacts(
        folder_exists=folder.is_dir(),
        files=count_files(folder, REPLAY_SUFFIX, _REPLAYS_COUNTED),
        learnt=counts.get("learnt"),
        skipped=counts.get("skipped", {}),
    )


def _replay_counts(paths: Paths) -> dict[str, Any]:
    try:
        counts = json.loads(paths.build_orders.read_bytes())["counts"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    sound = isinstance(counts, dict) and isinstance(counts.get("learnt"), int) and isinstance(counts.get("skipped"), dict)
    return counts if sound else {}


_SHARE_OF_REJECTED = 0.1
_SHARE_OF_OTHERS = 0.5
_CODE = re.compile(r"\[([a-z-]+)\]\Z")
_MAY_BE_UNFINISHED = ("unfinished", "empty")
_UNFINISHED_SECONDS = 60.0
_CHECKS_OF_THEIR_OWN = ("wrong-width", "action-out-of-range", "not-finite")

_CURES = {
    "not-a-zip": "Write .npz files with numpy.savez, whole: under another name first, then renamed.",
    "bad-zip": "The file was damaged on its way: write under another name, close it, then os.replace it into the buffer.",
    "unfinished": "The writer stops within a file: write under another name, close it, then os.replace it into the buffer.",
    "empty": "The writer makes empty files: write under another name, close it, then os.replace it into the buffer.",
    "missing-array": "Every file needs states, actions and rewards under exactly these names.",
    "wrong-shape": "One of each per step: states (T, S), actions (T,) or as action_space in meta says, rewards (T,).",
    "wrong-dtype": "Actions are whole numbers (int64) unless action_space in meta says box; states and rewards are real ones.",
    "absurd-magnitude": "Scale states and rewards to about 1, or raise limits.max_magnitude.",
    "too-large": "Save an episode per game, not all games in one file; or raise limits.* in the settings.",
    "illegal-action": "The action that was taken must be True in action_mask at its step.",
    "bad-mask": "action_mask holds True (or 1) for each legal action and False (or 0) for each other; nothing to add to logits.",
    "unexpected-mask": "Leave action_mask out: only discrete and multi_discrete actions can be masked.",
    "other-names": f"Give the bot the model's names; or add what is new, or rename, with {command_lines.command('widen')}.",
    "wrong-action-kind": "One root holds one game with one kind of actions: use another --root.",
    "bad-meta": "meta must be the text of a JSON object: numpy.array(json.dumps({...})).",
}


def model_unreadable(facts: DoctorFacts) -> Trouble | None:
    """The model file is there, and can't be used."""
    if not facts.model.trouble:
        return None
    cure = "Start the learner: it keeps the file as .broken and continues from the newest valid one in models/history."
    return Trouble(f"the model can't be read: {humanize.visible(facts.model.trouble, 400)}.", cure)


def model_lost(facts: DoctorFacts) -> Trouble | None:
    """Episodes were trained on, and there is no model."""
    if not facts.model.missing or not facts.records.counts[TRAINED] or facts.learner.holder or facts.learner.worker_holder:
        return None
    cause = f"{facts.paths.model} is gone, though {humanize.plural(facts.records.counts[TRAINED], 'episode')} were trained on."
    return Trouble(
        cause, "Start the learner, or run it with --drain: it trains all of them again from the archive, to the same bytes."
    )


def model_not_finite(facts: DoctorFacts) -> Trouble | None:
    """Weights are NaN or infinite: every probability of such a policy is."""
    names = facts.model.not_finite
    if not names:
        return None
    cause = f"{', '.join(names[:3])} of the model hold NaN or infinity; no policy and no loss can come of it."
    return Trouble(
        cause,
        f"Go back to a sound version: {command_lines.command('rollback')}. A trainer of your own has written it; check that.",
    )


def loss_not_finite(facts: DoctorFacts) -> Trouble | None:
    """An update would have made a number NaN or infinite, and was thrown away."""
    refused = str(facts.model.last_batch.get("refused") or "")
    loss = facts.learner.stats.get("last_loss")
    broken = isinstance(loss, float) and loss != loss
    if not refused and not broken:
        return None
    cause = f"the last update was refused: {humanize.visible(refused)}." if refused else "the last loss is NaN."
    return Trouble(cause, "States or rewards are of absurd size: scale both to about 1. A learning_rate above 0.01 does it too.")


def ledger_damaged(facts: DoctorFacts) -> Trouble | None:
    """The ledger can't be read."""
    if not facts.records.trouble:
        return None
    cure = "Restore data/ledger.jsonl from a copy; else set it and the model aside, and drop data/archive into the buffer again."
    return Trouble(f"the ledger can't be read: {humanize.visible(facts.records.trouble, 400)}.", cure)


def another_history(facts: DoctorFacts) -> Trouble | None:
    """Model and ledger do not belong together."""
    commit, records = facts.model.commit, facts.records
    if records.trouble or commit.get("kind") != "batch" or not facts.model.version:
        return None
    begins = any("base" in line for line in commit.get("batch", []) if isinstance(line, dict))
    known = commit.get("chain") in records.chains or commit.get("previous_chain") in records.chains
    if begins or (known and (len(records.chains) > 1 or facts.model.version == 1)):
        return None
    cause = f"{facts.paths.model} and {facts.paths.ledger} have different histories: one of them was replaced or deleted by hand."
    return Trouble(
        cause,
        f"Put back the one that was replaced; or {command_lines.command('rebuild')}; or {command_lines.command('rollback')}.",
    )


def gone_from_the_archive(facts: DoctorFacts) -> Trouble | None:
    """Somebody has deleted trained episodes by hand."""
    gone = facts.records.gone
    if not gone:
        return None
    missing = humanize.plural(len(gone), "episode")
    cause = f"{missing} that were trained on are missing from data/archive, such as {humanize.name(gone[0])}."
    cure = "Let retention.* of the settings delete old ones instead; a model whose episodes are gone can't be rebuilt."
    return Trouble(cause, cure)


def wrong_width(facts: DoctorFacts) -> Trouble | None:
    """States are of another width than the model's."""
    example = _example(facts, "wrong-width", DOES_NOT_FIT_WIDTH)
    if not example:
        return None
    cause = f"states do not have the width that the model takes: {example}."
    return Trouble(
        cause, "One root holds one game. If the states have changed, use another --root, or move models/ and data/ away."
    )


def actions_outside(facts: DoctorFacts) -> Trouble | None:
    """Actions are outside the model's action space."""
    example = _example(facts, "action-out-of-range", DOES_NOT_FIT_ACTIONS)
    if not example:
        return None
    cause = f"actions are outside the model's action space: {example}."
    cure = (
        "Count actions from 0, and say in meta what there is (action_count, action_space) before the first batch; or use a new "
        "--root."
    )
    return Trouble(cause, cure)


def not_finite(facts: DoctorFacts) -> Trouble | None:
    """States or rewards hold NaN or infinity."""
    example = _example(facts, "not-finite", "")
    if not example:
        return None
    return Trouble(
        f"episodes hold NaN or infinity: {example}.", "Look for a division by zero, or an unset number, where the bot makes them."
    )


def many_rejected(facts: DoctorFacts) -> Trouble | None:
    """A good part of the files is unusable, for reasons that have no check of their own."""
    reasons = Counter(code for code in _rejected_codes(facts) if code not in _CHECKS_OF_THEIR_OWN)
    count = sum(reasons.values())
    if not count or count < _SHARE_OF_REJECTED * len(facts.records.recent):
        return _bound_to_be_rejected(facts)
    code, times = reasons.most_common(1)[0]
    example = next((_words_of(line) for line in reversed(facts.records.recent) if _code(line) == code), "")
    cause = f"{count} of the last {len(facts.records.recent)} files were rejected, {times} of them as '{code}'"
    cure = _CURES.get(code, "docs/reference/episode-format.md tells what a file must hold.")
    return Trouble(
        f"{cause}: {humanize.visible(example, 300)}.", f"{cure} Each has its reason beside it in {facts.paths.rejected}."
    )


def unusable_waiting(facts: DoctorFacts) -> list[Seen]:
    """Waiting files that will be rejected; those that may still be being written are given a minute."""
    fresh = facts.machine.now - _UNFINISHED_SECONDS
    return [seen for seen in facts.waiting if seen.reason and (seen.reason not in _MAY_BE_UNFINISHED or seen.modified < fresh)]


def _bound_to_be_rejected(facts: DoctorFacts) -> Trouble | None:
    """A good part of the waiting files is unusable."""
    bad = unusable_waiting(facts)
    reasons = Counter(seen.reason for seen in bad if seen.reason not in _CHECKS_OF_THEIR_OWN)
    count = sum(reasons.values())
    if not count or count < _SHARE_OF_REJECTED * len(facts.waiting):
        return None
    code, times = reasons.most_common(1)[0]
    example = next(seen for seen in reversed(bad) if seen.reason == code)
    cause = f"{count} of the {len(facts.waiting)} newest waiting files can't be trained on, {times} of them as '{code}'"
    cure = _CURES.get(code, "docs/reference/episode-format.md tells what a file must hold.")
    return Trouble(f"{cause}: {humanize.name(example.name)}: {humanize.visible(example.found, 300)}.", cure)


def mostly_stale(facts: DoctorFacts) -> Trouble | None:
    """Most files are stale."""
    stale = _share_of(facts, STALE)
    if not stale:
        return None
    lagging = sum("max_version_lag" in str(line.get("reason")) for line in stale)
    cause = (
        f"{len(stale)} of the last {len(facts.records.recent)} files were stale: {humanize.visible(stale[-1].get('reason', ''))}."
    )
    if 2 * lagging > len(stale):
        return Trouble(cause, "The games do not pick newer models up: call agent.refresh(), or raise learner.max_version_lag.")
    cure = (
        "Their times are old: collected while no learner ran, copied with their old times, or from a machine with another clock. "
    )
    return Trouble(
        cause, cure + "Move them back into the buffer and run --drain --max-file-age 0, or raise learner.max_file_age."
    )


def mostly_duplicates(facts: DoctorFacts) -> Trouble | None:
    """Most files are duplicates."""
    twins = _share_of(facts, DUPLICATE)
    if not twins:
        return None
    reason = humanize.visible(twins[-1].get("reason", ""))
    cause = f"{len(twins)} of the last {len(facts.records.recent)} files were duplicates: {reason}."
    cure = (
        "The bot delivers a file more than once, bears one episode_id in every game, or plays the very same game from one seed."
    )
    return Trouble(cause, cure)


DOES_NOT_FIT_WIDTH, DOES_NOT_FIT_ACTIONS = "width", "actions"


def _example(facts: DoctorFacts, code: str, unfit: str) -> str:
    """What was found in the newest file of this kind: rejected for it, or waiting and bound to be; "" if there is none."""
    model = facts.model
    for seen in reversed(facts.waiting):
        if seen.reason == code:
            return f"{humanize.name(seen.name)}: {humanize.visible(seen.found, 300)}"
        if seen.episode is None or model.actions is None:
            continue
        layout = layouts.of_model(model.manifest, model.state_width, model.actions)
        try:
            episode = alignment.aligned(seen.episode, layout)
        except EpisodeError:
            continue  # action or feature names, which have a reason of their own
        if unfit == DOES_NOT_FIT_WIDTH and episode.state_width != model.state_width:
            return f"{humanize.name(seen.name)} has states of {episode.state_width} numbers, the model takes {model.state_width}"
        if unfit == DOES_NOT_FIT_ACTIONS and episode.state_width == model.state_width:
            try:
                batch.check_fits(episode, model.state_width, model.actions)
            except EpisodeError as error:
                return f"{humanize.name(seen.name)}: {humanize.visible(str(error), 300)}"
    lines = [line for line in facts.records.recent if _code(line) == code]
    if not lines:
        return ""
    more = f" ({len(lines)} files of the last {len(facts.records.recent)} were rejected for that)"
    return f"{humanize.name(lines[-1]['name'])}: {humanize.visible(_words_of(lines[-1]), 300)}{more}"


def _share_of(facts: DoctorFacts, fate: str) -> Sequence[Line]:
    """The newest files of this fate, if they are the better part of all."""
    recent = facts.records.recent
    lines = [line for line in recent if line["fate"] == fate]
    return lines if len(lines) > _SHARE_OF_OTHERS * len(recent) else []


def _rejected_codes(facts: DoctorFacts) -> list[str]:
    return [_code(line) for line in facts.records.recent if line["fate"] == REJECTED]


def _code(line: Line) -> str:
    """The short word of a rejection, as its reason ends with it; "unusable" for those without."""
    if line["fate"] != REJECTED:
        return ""
    match = _CODE.search(str(line.get("reason", "")))
    return match.group(1) if match else "unusable"


def _words_of(line: Line) -> str:
    return _CODE.sub("", str(line.get("reason", ""))).strip()
