"""One version of the model with everything that training continues from, and the pure step to the next one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from background_training.algo import manifest as manifests
from background_training.algo import train_step, widening
from background_training.algo.train_step import TrainingState
from background_training.episodes.episode import Episode
from background_training.errors import ModelError
from background_training.records import ledger_lines
from background_training.records.ledger_lines import BY_HAND, Line, next_chain
from background_training.settings import LearningSettings, in_recorded_names
from background_training.spaces import ActionSpace, Discrete
from background_training.spaces import layout as layouts
from background_training.spaces.layout import ModelLayout
from background_training.storage import model_store

BATCH, BASE = "batch", "base"


@dataclass(frozen=True)
class Checkpoint:
    """The content of one model file, and its bytes; equal inputs give equal bytes.

    recent: the newest episodes trained on, oldest first, that may join the next batch again.
    """

    state: TrainingState
    version: int
    manifest: Mapping[str, Any]
    data: bytes
    recent: tuple[Episode, ...] = ()

    @property
    def commit(self) -> Mapping[str, Any]:
        """The record of what made this version: kind, seq, previous_chain, chain, batch."""
        commit: Mapping[str, Any] = self.manifest["commit"]
        return commit

    @property
    def layout(self) -> ModelLayout:
        """The names of its features and actions, and the sizes it had before it was widened."""
        return layouts.of_model(self.manifest, self.state.state_width, self.state.actions)

    @property
    def chain(self) -> str:
        return str(self.commit["chain"])

    @property
    def batch(self) -> Sequence[Line]:
        """The ledger lines of the episodes this version was trained on; none for a base."""
        lines: Sequence[Line] = self.commit["batch"]
        return lines

    @property
    def report(self) -> Mapping[str, Any]:
        """The last batch's BatchReport, as a dict."""
        report: Mapping[str, Any] = self.manifest["last_batch"]
        return report


def load(data: bytes, file: str) -> Checkpoint:
    """The checkpoint in the bytes of a model file.

    Raises:
        ModelError: they hold none that training can continue from.
    """
    model = model_store.unpack(data, file)
    manifest = dict(model.manifest)
    try:
        state = train_step.from_arrays(model.arrays, model.actions, file)
        if manifest.get("commit") is None:
            manifest["commit"] = base_record(model.version, data)
        else:
            _check_commit(manifest, model.version, file)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # the boundary of a parser: whatever foreign bytes make Python raise becomes a ModelError
        found = f"training can't continue from it ({type(error).__name__}: {ascii(str(error))[1:-1][:100]})"
        raise ModelError(file, found, "a model committed by this project is needed") from error
    return Checkpoint(state, model.version, manifest, data)


def _check_commit(manifest: Mapping[str, Any], version: int, file: str) -> None:
    """Refuse a malformed commit record; otherwise recovery would fail on it at every start.

    Raises:
        ModelError: a value is missing, or of another type than this project writes.
    """
    commit = manifest["commit"]
    texts = all(type(commit.get(name)) is str for name in ("chain", "previous_chain"))
    texts = texts and all(type(commit.get(name, "")) is str for name in ("reason", "by"))
    batch = commit.get("batch")
    lines = isinstance(batch, list) and all(
        isinstance(line, dict) and ledger_lines.is_sound({"fate": "", **line}) for line in batch
    )
    numbers = type(commit.get("seq")) is int and commit["seq"] == version and model_store.is_count(commit.get("after", 0))
    sound = texts and lines and numbers
    if commit.get("kind") == BATCH:
        known = isinstance(manifest.get("hyper_parameters"), dict) and isinstance(manifest.get("last_batch"), dict)
        sound = sound and bool(batch) and known  # the first models had no samples_trained
    elif commit.get("kind") != BASE:
        sound = False
    if not sound:
        raise ModelError(file, "the record of its commit is damaged", "one as the learner writes it is needed")


def untrained(state_width: int, actions: ActionSpace, settings: LearningSettings) -> Checkpoint:
    """Version 0: the policy before any episode. It is never written, since the settings determine it."""
    state = train_step.new_state(state_width, actions, settings)
    manifest = {
        **manifests.facts(state, settings),
        "commit": {"kind": BASE, "seq": 0, "chain": "", "previous_chain": "", "batch": []},
    }
    return Checkpoint(state, 0, manifest, b"")


def successor(
    previous: Checkpoint,
    lines: Sequence[dict[str, Any]],
    episodes: Sequence[Episode],
    settings: LearningSettings,
    recorded: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Train the next version: a pure function, so that any version can be made again from the archive.

    Args:
        previous: the version to continue from.
        lines: the ledger line of each episode. This function adds to the first one: the learning settings where they have
            changed, the base where the history starts, and how many episodes were replayed; and a mark to each episode
            whose update was refused.
        episodes: those of the lines, in the same order.
        recorded: the settings as they were recorded when this version was trained first; None for a new version. They may
            have former names, which are part of the bytes of such a version.
    """
    version = previous.version + 1
    state, report = train_step.learn(previous.state, episodes, settings, version, previous.recent)
    batch = [{**line, "seq": version} for line in lines]
    for number in report.refused_games:
        batch[number]["refused"] = True
    recorded = dataclasses.asdict(settings) if recorded is None else recorded
    if report.refused:
        report = dataclasses.replace(report, refused=in_recorded_names(report.refused, recorded))
    batch[0].update(_group_facts(previous, recorded))
    chain = next_chain(previous.chain, version, batch)
    record = {"kind": BATCH, "seq": version, "previous_chain": previous.chain, "chain": chain, "batch": batch}
    manifest = {
        **previous.manifest,
        **manifests.facts(state, settings),
        "hyper_parameters": dict(recorded),
        "action_names": _action_names(previous, episodes),
        **_state_names(previous, episodes),
        **manifests.after_batch(previous.manifest, previous.state, report),
        "commit": record,
    }
    data = model_store.pack(train_step.to_arrays(state), version, manifest)
    return Checkpoint(state, version, manifest, data, kept_recent((*previous.recent, *episodes), settings))


def republished(
    model: Checkpoint, version: int, reason: str, life: Mapping[str, Any], after: int = 0, by: str = BY_HAND
) -> Checkpoint:
    """The same weights as a new base version, with which the history starts again; for rollbacks and imported models.

    Args:
        life: how much was trained in this root (`manifest.life_of`); the weights may be from before some of it.
        after: the newest version in the ledger, so that recovery notices when the ledger's end has been lost.
        by: BY_GUARD, BY_HAND or BY_ANOTHER_PROGRAM of ledger_lines.
    """
    text = json.dumps([BASE, version, hashlib.sha256(model.data).hexdigest(), reason])
    chain = hashlib.sha256(text.encode()).hexdigest()
    record = {"kind": BASE, "seq": version, "previous_chain": "", "chain": chain, "batch": [], "after": after}
    record |= {"reason": reason, "by": by}
    manifest = {**manifests.with_life(model.manifest, life), "commit": record}
    return Checkpoint(model.state, version, manifest, model_store.pack(train_step.to_arrays(model.state), version, manifest))


def widened(previous: Checkpoint, step: Mapping[str, Any]) -> Checkpoint:
    """The next version: the same model with further features and actions, a base with which the history starts again.

    A pure function, as `successor` is: the same version and step give the same bytes.

    Args:
        step: `from` and `version`, the numbers of both versions; how many `features` and `actions` are added;
            `probability`, see widening.logit_offset; `state_names` and `action_names`, all of them, empty where they are
            not known; `after`, the newest version in the ledger; `reason`, in words.
    """
    state = widening.widened(previous.state, step["features"], step["actions"], step["probability"])
    version, reason = step["version"], step["reason"]
    text = json.dumps([BASE, version, hashlib.sha256(previous.data).hexdigest(), reason, step], sort_keys=True)
    record = {"kind": BASE, "seq": version, "previous_chain": "", "chain": hashlib.sha256(text.encode()).hexdigest(), "batch": []}
    record |= {"after": step["after"], "reason": reason, "by": BY_HAND}
    record |= {"widened": [*previous.commit.get("widened", ()), dict(step)]}
    former = [previous.state.state_width, previous.state.actions.outputs]
    sizes = [list(pair) for pair in previous.layout.former_sizes]
    manifest = {
        **previous.manifest,
        "state_width": state.state_width,
        **state.actions.meta,
        "action_names": list(step["action_names"]),
        **({"state_names": list(step["state_names"])} if step["state_names"] else {}),
        "former_sizes": sizes if former in (*sizes, [state.state_width, state.actions.outputs]) else [*sizes, former],
        "commit": record,
    }
    return Checkpoint(state, version, manifest, model_store.pack(train_step.to_arrays(state), version, manifest))


def base_record(version: int, data: bytes) -> dict[str, Any]:
    """The commit record of a model that another program wrote: its past is unknown."""
    return {"kind": BASE, "seq": version, "previous_chain": "", "chain": hashlib.sha256(data).hexdigest(), "batch": []}


def kept_recent(episodes: Sequence[Episode], settings: LearningSettings) -> tuple[Episode, ...]:
    """The newest episodes that `learning.replayed` may still pick; no others are kept in memory."""
    kept: list[Episode] = []
    room = settings.replay_steps
    for episode in reversed(episodes[-settings.replay_episodes :] if settings.replay_episodes else ()):
        if episode.steps > room:
            break
        room -= episode.steps if episode.log_probs is not None else 0
        kept.append(episode)
    return tuple(reversed(kept))


def _group_facts(previous: Checkpoint, settings: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"recent": len(previous.recent)}
    if previous.commit["kind"] == BASE:
        facts["base"] = {"version": previous.version, "chain": previous.chain}
        facts["base"] |= {"widened": previous.commit["widened"]} if "widened" in previous.commit else {}
        facts["sizes"] = [previous.state.state_width, previous.state.actions.as_json()]
    if previous.commit["kind"] == BASE or previous.manifest["hyper_parameters"] != settings:
        facts["learning"] = dict(settings)
    return facts


def _action_names(previous: Checkpoint, episodes: Sequence[Episode]) -> list[str]:
    """The action names of the newest episode that has them; otherwise those of the previous version.

    The same names in another order change nothing: the outputs of the network keep the previous order.
    """
    known: list[str] = list(previous.manifest.get("action_names", []))
    for episode in reversed(episodes):
        names = episode.meta.get("action_names")
        if (
            isinstance(names, list)
            and len(names) == previous.state.actions.name_count
            and all(isinstance(name, str) for name in names)
        ):
            found = [name[:100] for name in names]
            return known if sorted(found) == sorted(known) else found
    return known


def _state_names(previous: Checkpoint, episodes: Sequence[Episode]) -> dict[str, list[str]]:
    """The feature names of the newest episode that has them; otherwise those of the previous version, if any."""
    for episode in reversed(episodes):
        names = layouts.names_in(episode.meta.get("state_names"), previous.state.state_width)
        if names:
            return {"state_names": list(names)}
    known = previous.layout.state_names
    return {"state_names": list(known)} if known else {}


def sizes_of(episodes: Sequence[Episode], settings: LearningSettings) -> tuple[int, ActionSpace]:
    """State width and actions that a new model needs for these episodes.

    The width and the kind of actions of the majority, so that one odd file at the start does not decide; the number of
    actions from the settings or the episodes' declarations, otherwise from the highest action seen.
    """
    width = _most_common(Counter(episode.state_width for episode in episodes))
    fitting = [episode for episode in episodes if episode.state_width == width]
    kind = _most_common(Counter(_kind(episode) for episode in fitting))
    fitting = [episode for episode in fitting if _kind(episode) == kind]
    if settings.action_count and kind == Discrete.kind:
        return width, Discrete(settings.action_count)
    declared = Counter(episode.action_space for episode in fitting if episode.action_space is not None)
    if declared:
        return width, max(declared, key=lambda space: (declared[space], -space.outputs))
    return width, Discrete(max(2, 1 + max(int(episode.actions.max()) for episode in fitting)))


def _kind(episode: Episode) -> str:
    return Discrete.kind if episode.action_space is None else episode.action_space.kind


def _most_common(counts: Counter[Any]) -> Any:
    """The most frequent one; of several the smallest."""
    return max(sorted(counts), key=counts.__getitem__)
