"""Publish a version that was not trained: an earlier version of the model, or the present one, widened."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from background_training.algo import manifest
from background_training.algo.widening import PROBABILITY
from background_training.errors import LedgerError, ModelError, ModelMissingError, SettingsError
from background_training.learner import checkpoint, recovery, replay_log
from background_training.learner.checkpoint import Checkpoint
from background_training.paths import Paths
from background_training.records import ledger_lines
from background_training.records.ledger import Ledger
from background_training.records.ledger_lines import BY_HAND, Line
from background_training.settings import Settings
from background_training.spaces import Discrete
from background_training.spaces import layout as layouts
from background_training.storage import atomic_files, model_store


def version_of(paths: Paths, version: int) -> Checkpoint:
    """A version of the model: the present one, one of the history, or trained again from the archive.

    Raises:
        LedgerError: there never was such a version, or an episode it was trained on is missing.
    """
    for path in (paths.model, model_store.history_path(paths, version), *sorted(paths.history.glob("b*_*.npz"))):
        try:
            found = checkpoint.load(model_store.read_bytes(path), str(path))
        except (ModelMissingError, ModelError):
            continue
        if found.version == version:
            return found
    lines = list(ledger_lines.read_lines(paths.ledger))
    known = [seq for seq, _ in ledger_lines.groups(lines) if seq <= version]
    if version in known:
        begin = replay_log.replay_start(paths, lines, version, nearest=True)
        for made in replay_log.replay(paths, begin.groups, begin.start, begin.before):
            if made.version == version:
                return made
    sentence = f"it has no version {version}" + (f"; the versions before are {known[0]} to {known[-1]}" if known else "")
    raise LedgerError(str(paths.ledger), sentence, "Nothing has been changed")


def publish(paths: Paths, model: Checkpoint, reason: str, *, durable: bool) -> Checkpoint:
    """Commit these weights as the version after all others, a base with which the history starts again.

    The caller holds both locks of the root.
    """
    ledger = Ledger(paths.ledger, durable=durable)
    newest = ledger.newest_seq
    with contextlib.suppress(ModelMissingError, ModelError):  # an unreadable model is about to be replaced
        present = checkpoint.load(model_store.read_bytes(paths.model), str(paths.model))
        newest = max(newest, present.version)
        if present.version > ledger.last_seq:
            # The ledger has lost that model's batches; once the model is replaced, the loss could no longer be noticed.
            recovery.reconstruct_lines(paths, ledger, present.batch)
    return commit(paths, ledger, model, newest + 1, reason, BY_HAND, durable=durable)


def commit(paths: Paths, ledger: Ledger, model: Checkpoint, version: int, reason: str, by: str, *, durable: bool) -> Checkpoint:
    """Commit these weights as a new version, with a copy of them as its base model. The caller holds both locks."""
    published = checkpoint.republished(model, version, reason, manifest.life_of(paths), ledger.last_seq, by)
    atomic_files.write_atomically(replay_log.base_path(paths, published.chain), published.data, durable=durable)
    model_store.commit(paths, published.data, durable=durable)
    return published


@dataclass(frozen=True)
class Widening:
    """A request to widen a model.

    features, actions: names of the added ones, appended to the present ones.
    state_names, action_names: new names of the present ones, in the model's order; empty: unchanged.
    probability: at most this much goes to all added actions together; see widening.logit_offset.
    """

    features: Sequence[str] = ()
    actions: Sequence[str] = ()
    state_names: Sequence[str] = ()
    action_names: Sequence[str] = ()
    probability: float = PROBABILITY


def widen(paths: Paths, settings: Settings, widening: Widening, report: Callable[[str], None]) -> Checkpoint:
    """Recover the root, then commit the present model with further features and actions as the next version.

    Killed at any moment, the root has the old model or the new one: one rename decides, and the next start adds the
    ledger's line. The caller holds the learner's lock and the worker's.

    Raises:
        SettingsError: this can't be added to the model; nothing has been changed.
        ModelMissingError: there is no model yet.
        LedgerError: as `recovery.recover` does.
    """
    durable = settings.learner.durable
    ledger = Ledger(paths.ledger, durable=durable, remember_newest=settings.learning.replay_episodes)
    present = recovery.recover(paths, settings, ledger, report)
    if present is None:
        raise ModelMissingError(str(paths.model))
    return commit_widened(paths, settings, ledger, present, widening)[0]


def commit_widened(
    paths: Paths, settings: Settings, ledger: Ledger, present: Checkpoint, widening: Widening
) -> tuple[Checkpoint, Line | None]:
    """Commit the present version with further features and actions as the next one; return that and its line in the ledger,
    None while there is no other. The caller holds both locks.

    Raises:
        SettingsError: this can't be added to the model; nothing has been changed.
    """
    durable = settings.learner.durable
    step = widening_step(present, settings, widening, after=ledger.last_seq, version=max(ledger.newest_seq, present.version) + 1)
    made = checkpoint.widened(present, step)
    atomic_files.write_atomically(replay_log.base_path(paths, made.chain), made.data, durable=durable)
    model_store.commit(paths, made.data, durable=durable)
    return made, ledger.record_published(made.version, made.commit, made.data) if ledger.last_seq else None


def widening_step(present: Checkpoint, settings: Settings, widening: Widening, *, after: int, version: int) -> dict[str, Any]:
    """The argument of `checkpoint.widened`.

    Raises:
        SettingsError: a name that is taken or given twice, a wrong number of names, too many, or an action space to
            which no action can be added.
    """
    layout, limits = present.layout, settings.limits
    if widening.actions and not isinstance(layout.actions, Discrete):
        needed = f"the model chooses {layout.actions.words}; only to a choice among numbered actions can one be added"
        raise SettingsError("--add-action", " ".join(widening.actions), needed, "command line")
    states = _names("feature", layout.state_names, widening.state_names, layout.state_width, widening.features, "--state-names")
    count = layout.actions.name_count
    actions = _names("action", layout.action_names, widening.action_names, count, widening.actions, "--action-names")
    for flag, size, added, setting in (
        ("--add-feature", layout.state_width, len(widening.features), "max_state_width"),
        ("--add-action", layout.actions.outputs, len(widening.actions), "max_actions"),
    ):
        most = getattr(limits, setting)
        if added and size + added > most:
            needed = f"the model has {size} already, and {most} (limits.{setting}) is the most"
            raise SettingsError(flag, added, needed, "command line")
    parts = [
        f"{what} {', '.join(names)}" for what, names in (("feature", widening.features), ("action", widening.actions)) if names
    ]
    return {
        "from": present.version,
        "version": version,
        "after": after,
        "features": len(widening.features),
        "actions": len(widening.actions),
        "probability": widening.probability,
        "state_names": states,
        "action_names": actions,
        "reason": "widened: " + " and ".join(parts) if parts else "names of features and actions given",
    }


def _names(what: str, known: Sequence[str], given: Sequence[str], count: int, added: Sequence[str], flag: str) -> list[str]:
    """All names after the widening; none if those of the present ones are unknown."""
    if given and len(given) != count:
        raise SettingsError(flag, " ".join(given), f"{count} names are needed, one for each {what} of the model", "command line")
    present = list(given or known)
    names = layouts.names_in([*present, *added])
    if len(names) != len(present) + len(added):
        twice = sorted({name for name in [*present, *added] if [*present, *added].count(name) > 1})
        found = " ".join(twice) or " ".join([*present, *added])
        raise SettingsError(f"--add-{what}", found, f"every {what} needs a name of its own", "command line")
    return list(names) if present else []
