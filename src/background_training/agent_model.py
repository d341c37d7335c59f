"""The policy that an agent plays with: loaded from the model file when that is newer, trained and saved on request."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training import command_lines
from background_training.algo import manifest as manifests
from background_training.algo import train_step, widening
from background_training.algo.policy import Network
from background_training.algo.train_step import BatchReport, TrainingState
from background_training.episodes import alignment
from background_training.episodes.episode import Episode
from background_training.errors import AnotherLearnerError, EpisodeError, ModelError, ModelMissingError
from background_training.paths import Paths
from background_training.settings import LearningSettings, LimitSettings
from background_training.spaces import ActionSpace, Discrete
from background_training.spaces import layout as layouts
from background_training.storage import atomic_files, model_store
from background_training.storage.atomic_files import Signature, signature
from background_training.storage.model_store import POLICY_KEYS, Model

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

GUIDE_ACTIONS = ("ECONOMY", "AGGRESSIVE", "DEFENSIVE", "TECH", "ALL_IN")
"""The actions of the guides' bots, and the default of an agent that is given neither names nor a model."""

LONGEST_NAME = 100
"""Longer names of actions are shortened in a manifest."""


_MOST_ACTIONS = LimitSettings().max_actions
_NEW_GAME = "give the game a root of its own, or move the old model away to start a new one"


class AgentPolicy:
    """One agent's policy, with the mapping between the agent's order of actions and features and the model's.

    It promises that a missing, broken or unsuitable model file leaves the present policy in use. It does not promise that the
    result of its own training is kept: the next newer model file replaces it.

    Attributes:
        model_path: the file that is watched.
        settings: of learning, for `train` and for a new policy.
        actions: the action space; None until it is given or a model is loaded.
        action_labels: the names of the actions, or of the numbers in one, in the agent's order; empty while they are unknown. The
            model may have the same names in another order, see `model_labels`.
        state_names: the names of the features, in the agent's order; empty if they have none.
        version: of the model that the policy was loaded from; 0 for a new one.
    """

    def __init__(
        self,
        paths: Paths,
        model_path: Path,
        settings: LearningSettings,
        action_labels: Sequence[str],
        state_width: int | None,
        actions: ActionSpace | None = None,
        state_names: Sequence[str] = (),
        grow: bool = False,
    ) -> None:
        self.model_path = model_path
        self.state_names = tuple(state_names)
        self._may_grow = grow
        self._growth = (0, 0)
        self._state_order: Array | None = None
        self.settings = settings
        self.actions = Discrete(len(action_labels)) if actions is None and action_labels else actions
        self.action_labels = list(action_labels) or _unnamed(actions)
        self.version = 0
        self._has_own_names = bool(action_labels)
        self._model_index: Array | None = None
        self._paths = paths
        self._state_width = state_width
        self._network: Network | None = None
        self._training_state: TrainingState | None = None
        self._manifest: Mapping[str, Any] = {}
        self._unsaved_training = False
        self._signature: Signature | None = None

    def refresh(self) -> bool:
        """Load a newer model; True if there was one. Costs one stat() if there is not."""
        try:
            found = signature(self.model_path)
            if found is None or found == self._signature:
                return False
            self._adopt(model_store.read(self.model_path, POLICY_KEYS, self._check_sizes))
        except ModelError as error:
            # The file stays as it is, so it is read, and the warning logged, only once.
            self._signature = found
            logger.warning("continuing with version %d of the policy: %s", self.version, error)
            return False
        except (ModelMissingError, OSError, MemoryError) as error:
            logger.warning("continuing with version %d of the policy: %s", self.version, error)
            return False
        self._signature = found
        return True

    def network(self, width: int) -> Network:
        """The present policy; a new one for states of this width if there is none yet."""
        return self._network if self._network is not None else self._new_network(width)

    @property
    def known_actions(self) -> ActionSpace:
        """The action space; GUIDE_ACTIONS if there is none yet."""
        if self.actions is None:
            self.actions, self.action_labels = Discrete(len(GUIDE_ACTIONS)), list(GUIDE_ACTIONS)
        return self.actions

    @property
    def model_labels(self) -> list[str]:
        """The names of the actions, in the order of the model and of episode files."""
        if self._model_index is None:
            return list(self.action_labels)
        return [self.action_labels[own] for own in np.argsort(self._model_index)]

    def own_action(self, action: Any) -> Any:
        """Map the model's number of an action to the agent's."""
        return action if self._model_index is None else int(np.flatnonzero(self._model_index == action)[0])

    def model_mask(self, mask: Array) -> Array:
        """Reorder a mask [..., A] from the agent's order to the model's."""
        return mask if self._model_index is None else np.ascontiguousarray(mask[..., np.argsort(self._model_index)])

    def in_model_order(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays of an episode with states, actions and mask in the model's order of names, which its meta then records.

        Actions or states whose names in the meta are already the model's are left as they are.
        """
        return self._with_model_states(self._with_model_actions(arrays))

    def _with_model_actions(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        changed = dict(arrays)
        meta = changed.get("meta")
        recorded = meta.get("action_names") if isinstance(meta, Mapping) else None
        if self._model_index is None or recorded == self.model_labels:
            return changed
        count = len(self._model_index)
        actions, mask = np.asarray(changed["actions"]), np.asarray(changed.get("action_mask"))
        if actions.dtype.kind in "iu" and actions.size and int(actions.min()) >= 0 and int(actions.max()) < count:
            changed["actions"] = self._model_index[actions]
        if mask.ndim == 2 and mask.shape[1] == count:
            changed["action_mask"] = self.model_mask(mask)
        if isinstance(meta, Mapping) and recorded is not None:
            changed["meta"] = {**meta, "action_names": self.model_labels}
        return changed

    def model_state(self, state: Array) -> Array:
        """Reorder a state [S] from the agent's order to the model's.

        Raises:
            EpisodeError: the number of features differs from the number of names.
        """
        if self.state_names and len(state) != len(self.state_names):
            found = f"the state holds {len(state)} numbers"
            raise EpisodeError("wrong-width", found, f"{len(self.state_names)} are needed, one for each of state_names")
        return state if self._state_order is None else state[self._state_order]

    def _with_model_states(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        changed = dict(arrays)
        names, meta = self.model_state_names, changed.get("meta", {})
        recorded = meta.get("state_names") if isinstance(meta, Mapping) else None
        if self._state_order is not None and recorded != names:
            for name in ("states", "final_state"):
                values = np.asarray(changed.get(name))
                if values.ndim and values.shape[-1] == len(names):
                    changed[name] = values[..., self._state_order]
        if names and isinstance(meta, Mapping):
            changed["meta"] = {**meta, "state_names": names}
        return changed

    @property
    def model_state_names(self) -> list[str]:
        """The names of the features, in the order of the model and of episode files."""
        if self._state_order is None:
            return list(self.state_names)
        return [self.state_names[own] for own in self._state_order]

    @property
    def grows(self) -> bool:
        """Whether the policy has features or actions that the model still lacks."""
        return self._growth != (0, 0)

    def train(self, episodes: Sequence[Episode]) -> BatchReport:
        """Train on episodes in this process.

        Raises:
            EpisodeError: one does not fit the policy.
            ModelMissingError, ModelError: the training state can't be read from the model file that the policy was loaded from.
        """
        before = self._state_to_train(episodes[0].state_width)
        state, report = train_step.learn(before, episodes, self.settings, before.updates + 1)
        self._manifest = {**self._manifest, **manifests.after_batch(self._manifest, before, report)}
        self._training_state = state
        self._network = state.policy
        self._unsaved_training = True
        return report

    def save(self, target: Path) -> bool:
        """Write the model; False, with the reason in the log, if a running learner owns that file.

        Raises:
            OSError, BackgroundTrainingError: no loadable model was written.
        """
        if target == self._paths.model:
            return self._save_shared(target)
        return self._write(target, self.version)

    def _adopt(self, model: Model) -> None:
        """Play with this model from now on.

        Raises:
            ModelError: it does not fit this game.
        """
        model, growth = self._grown(model) if self._may_grow else (model, (0, 0))
        layout = model.layout
        if isinstance(layout.actions, Discrete) and isinstance(self.actions, Discrete) and self._has_own_names:
            self._check_names("actions", layouts.shortened(self.action_labels), layout.action_names)
        self._check_names("features", layouts.shortened(self.state_names), layout.state_names)
        needed_width = self._state_width
        if needed_width is not None and model.state_width != needed_width:
            found = f"its policy takes states of {model.state_width} numbers"
            names = (
                f"; {command_lines.command('widen')} --state-names names them, if only some were added"
                if self.state_names
                else ""
            )
            raise ModelError(str(self.model_path), found, f"this game's have {needed_width}{names}; {_NEW_GAME}")
        if self.actions is not None and model.actions != self.actions:
            found = f"its policy chooses {model.actions.words}"
            raise ModelError(str(self.model_path), found, f"this game has {self.actions.words}; {_NEW_GAME}")
        self._adopt_names(model)
        self._adopt_state_names(layout.state_names)
        self._growth = growth
        self.actions = model.actions
        self._state_width = model.state_width
        self._network = Network(*(np.asarray(model.arrays[key], np.float32) for key in POLICY_KEYS))
        self.version = model.version
        self._manifest = model.manifest
        self._training_state = None
        self._unsaved_training = False

    def _adopt_names(self, model: Model) -> None:
        """Match the agent's actions with the model's by their names.

        Raises:
            ModelError: the names differ, or are not unique and in another order.
        """
        own, theirs = self.action_labels, _labels(model)
        named = bool(model.given_action_names) and theirs != _unnamed(model.actions)
        if not own or not named or own == _unnamed(self.actions):
            self.action_labels = theirs if named or not own else own
            self._model_index = None
            return
        shortened = [name[:LONGEST_NAME] for name in own]  # as in the model's manifest
        if shortened == theirs:
            self._model_index = None
        elif isinstance(model.actions, Discrete) and sorted(shortened) == sorted(theirs) and len(set(theirs)) == len(theirs):
            self._model_index = np.array([theirs.index(name) for name in shortened])
            logger.info("the model's actions are in another order, matched by name: %s; here: %s", theirs, own)
        elif self._has_own_names:
            needed = f"this bot's are {own}: give them the same names, or {_NEW_GAME}"
            raise ModelError(str(self.model_path), f"its actions are {theirs}", needed)
        else:
            self.action_labels, self._model_index = theirs, None

    def _check_sizes(self, width: int, outputs: int) -> None:
        """Refuse a model of another game by its sizes, before memory is allocated for it.

        Raises:
            ModelError: states of another width, or far too many outputs.
        """
        needed = self._state_width
        # With names, a model of about this size is read, since the message can then name what differs, or the model can grow.
        if needed is not None and (width > 4 * needed if self.state_names else width != needed):
            found = f"its policy takes states of {width} numbers"
            raise ModelError(str(self.model_path), found, f"this game's have {needed}; {_NEW_GAME}")
        if self.actions is not None and outputs > max(self.actions.outputs, _MOST_ACTIONS):
            raise ModelError(str(self.model_path), f"its policy has {outputs} outputs", f"{self.actions.outputs} are needed")

    def _adopt_state_names(self, theirs: Sequence[str]) -> None:
        own = layouts.shortened(self.state_names)
        if not own or not theirs or own == tuple(theirs):
            self._state_order = None
            return
        position = {name: index for index, name in enumerate(own)}
        self._state_order = np.array([position[name] for name in theirs])
        logger.info("the model's features are in another order, matched by name: %s; here: %s", list(theirs), list(own))

    def _check_names(self, what: str, own: Sequence[str], theirs: Sequence[str]) -> None:
        """Refuse a model whose features or actions are not the bot's.

        Raises:
            ModelError: with both lists.
        """
        if not own or not theirs or set(own) == set(theirs) or layouts.are_placeholders(own):
            return
        added = [name for name in own if name not in set(theirs)]
        remedy = f"give them the same names, or {_NEW_GAME}"
        if set(theirs) < set(own):
            remedy = f"{alignment.command_adding(what, added)}, and so does RLAgent(grow=True); or {_NEW_GAME}"
        raise ModelError(str(self.model_path), f"its {what} are {list(theirs)}", f"this bot's are {list(own)}: {remedy}")

    def _grown(self, model: Model) -> tuple[Model, tuple[int, int]]:
        """The model widened by the features and actions that it lacks, as the learner will do it; and their numbers."""
        layout = model.layout
        features = layouts.added(layouts.shortened(self.state_names), layout.state_names)
        discrete = self._has_own_names and isinstance(layout.actions, Discrete)
        actions = layouts.added(layouts.shortened(self.action_labels), layout.action_names) if discrete else []
        if not features and not actions:
            return model, (0, 0)
        network = Network(*(np.asarray(model.arrays[key], np.float32) for key in POLICY_KEYS))
        network = widening.wider_policy(network, len(features), len(actions))
        manifest = {**model.manifest, "action_names": [*layout.action_names, *actions]}
        manifest |= {"state_names": [*layout.state_names, *features]} if layout.state_names else {}
        manifest |= {"action_count": len(network.b3)} if actions else {}
        arrays = dict(zip(POLICY_KEYS, network, strict=True))
        logger.info(
            "playing with version %d of the model, widened by features %s and actions %s", model.version, features, actions
        )
        return Model(arrays, model.version, manifest), (len(features), len(actions))

    def _new_network(self, width: int) -> Network:
        self._state_width = self._state_width or width
        self._training_state = train_step.new_state(self._state_width, self.known_actions, self.settings)
        self._network = self._training_state.policy
        return self._network

    def _state_to_train(self, width: int) -> TrainingState:
        self.network(width)
        if self._training_state is None:
            model = model_store.read(self.model_path)
            state = train_step.from_arrays(model.arrays, model.actions, str(self.model_path))
            self._training_state = widening.widened(state, *self._growth) if self.grows else state
        return self._training_state

    def _save_shared(self, target: Path) -> bool:
        if not self._unsaved_training and signature(target) is not None:
            model_store.read(target, POLICY_KEYS)
            return True
        for folder in (self._paths.root, self._paths.data, self._paths.models):
            os.makedirs(folder, exist_ok=True)
        from background_training.storage.file_lock import LearnerLock  # only here: filelock need not be there to play

        lock = LearnerLock(self._paths)
        try:
            lock.acquire()
        except AnotherLearnerError as error:
            logger.warning("%s not written: its learner trains on this agent's episodes (%s)", target, error)
            return False
        try:
            return self._write(target, self._next_version(target))
        finally:
            lock.release()

    def _next_version(self, target: Path) -> int:
        try:
            there = model_store.read(target, POLICY_KEYS).version
        except (ModelMissingError, ModelError):
            there = 0
        return max(there, self.version) + 1

    def _write(self, target: Path, version: int) -> bool:
        if self._network is None and self._state_width is None:
            # With a made-up state width, the learner would reject every real episode.
            logger.warning("%s not written: the width of a state is not known yet", target)
            return False
        self.network(self._state_width or 0)
        if self._training_state is None:
            data = model_store.read_bytes(self.model_path)
        else:
            known = {key: value for key, value in self._manifest.items() if key != "commit"}
            manifest = {**known, **manifests.facts(self._training_state, self.settings), "action_names": self.model_labels}
            manifest |= {"state_names": self.model_state_names} if self.state_names else {}
            data = model_store.pack(train_step.to_arrays(self._training_state), version, manifest)
        os.makedirs(target.parent, exist_ok=True)
        atomic_files.write_atomically(target, data, durable=True)
        model_store.read(target, POLICY_KEYS)
        if target == self.model_path:
            self._signature = signature(target)
            self.version = version
            self._unsaved_training = False
        return True


def _unnamed(actions: ActionSpace | None) -> list[str]:
    """The names of actions that were given none."""
    return [f"action_{number}" for number in range(actions.count)] if isinstance(actions, Discrete) else []


def _labels(model: Model) -> list[str]:
    if not model.given_action_names and model.actions == Discrete(len(GUIDE_ACTIONS)):
        return list(GUIDE_ACTIONS)
    return list(model.given_action_names) or _unnamed(model.actions)
