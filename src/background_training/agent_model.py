"""The policy that an agent plays with: picked up from the model file when that is newer, trained and saved on request."""

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
from background_training.storage.file_lock import LearnerLock
from background_training.storage.model_store import POLICY_KEYS, Model

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

GUIDE_ACTIONS = ("ECONOMY", "AGGRESSIVE", "DEFENSIVE", "TECH", "ALL_IN")
"""What the guides' bots can do; the actions of an agent to whom nobody names others."""

LONGEST_NAME = 100
"""Letters of an action's name in a manifest, at most."""


_MOST_ACTIONS = LimitSettings().max_actions
_NEW_GAME = "give the game a root of its own, or move the old model away to start a new one"


class PolicyHolder:
    """Holds one policy and knows whether a newer one lies in the model file.

    It promises that a missing, broken or foreign model never takes the present policy away. It does not promise that
    what it has trained is kept: the next newer model replaces it.

    Attributes:
        model_path: the file that is watched.
        settings: of learning, for `train` and for a policy made anew.
        actions: what is chosen among; None until somebody says so.
        action_labels: what the actions are called, or the numbers that make one, in the order of the agent's own numbers;
            empty until somebody says so. The model may have the same names in another order, see `model_labels`.
        state_names: what the numbers of a state are called, in the agent's own order; empty if nobody has said so.
        version: of the model that the policy came from; 0 for one made anew.
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
        self._named_by_the_bot = bool(action_labels)
        self._model_index: Array | None = None
        self._paths = paths
        self._state_width = state_width
        self._network: Network | None = None
        self._training_state: TrainingState | None = None
        self._manifest: Mapping[str, Any] = {}
        self._unsaved_training = False
        self._signature: Signature | None = None

    def refresh(self) -> bool:
        """Pick up a newer model; True if there was one. Costs one stat() if there is not."""
        try:
            found = signature(self.model_path)
            if found is None or found == self._signature:
                return False
            self._adopt(model_store.read(self.model_path, POLICY_KEYS, self._check_sizes))
        except ModelError as error:
            # It won't get better by itself: read, and complained about, once.
            self._signature = found
            logger.warning("going on with version %d of the policy: %s", self.version, error)
            return False
        except (ModelMissingError, OSError, MemoryError) as error:
            logger.warning("going on with version %d of the policy: %s", self.version, error)
            return False
        self._signature = found
        return True

    def network(self, width: int) -> Network:
        """The present policy; one made anew for states of this width if there is none yet."""
        return self._network if self._network is not None else self._new_network(width)

    @property
    def known_actions(self) -> ActionSpace:
        """What is chosen among; the guides' actions if nobody has said so yet."""
        if self.actions is None:
            self.actions, self.action_labels = Discrete(len(GUIDE_ACTIONS)), list(GUIDE_ACTIONS)
        return self.actions

    @property
    def model_labels(self) -> list[str]:
        """What the actions are called, in the order of the model and of episode files."""
        if self._model_index is None:
            return list(self.action_labels)
        return [self.action_labels[own] for own in np.argsort(self._model_index)]

    def own_action(self, action: Any) -> Any:
        """The agent's number of an action that the model has chosen."""
        return action if self._model_index is None else int(np.flatnonzero(self._model_index == action)[0])

    def model_mask(self, mask: Array) -> Array:
        """A mask [..., A] of the agent's own numbers, for the model."""
        return mask if self._model_index is None else np.ascontiguousarray(mask[..., np.argsort(self._model_index)])

    def as_model_has_it(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays of an episode with actions and mask in the model's order of names.

        A meta with `action_names` says which order they are in; without it they are in the agent's own.
        """
        changed = dict(arrays)
        meta = changed.get("meta")
        said = meta.get("action_names") if isinstance(meta, Mapping) else None
        if self._model_index is None or said == self.model_labels:
            return changed
        count = len(self._model_index)
        actions, mask = np.asarray(changed["actions"]), np.asarray(changed.get("action_mask"))
        if actions.dtype.kind in "iu" and actions.size and int(actions.min()) >= 0 and int(actions.max()) < count:
            changed["actions"] = self._model_index[actions]
        if mask.ndim == 2 and mask.shape[1] == count:
            changed["action_mask"] = self.model_mask(mask)
        if isinstance(meta, Mapping) and said is not None:
            changed["meta"] = {**meta, "action_names": self.model_labels}
        return changed

    def model_state(self, state: Array) -> Array:
        """A state [S] in the agent's own order, for the model.

        Raises:
            EpisodeError: it holds another number of features than have names.
        """
        if self.state_names and len(state) != len(self.state_names):
            found = f"the state holds {len(state)} numbers"
            raise EpisodeError("wrong-width", found, f"{len(self.state_names)} are needed, one for each of state_names")
        return state if self._state_order is None else state[self._state_order]

    def with_model_states(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """The arrays of an episode with states in the model's order of names, which its meta then records.

        A meta with these `state_names` says that they are already; otherwise they are in the agent's own order.
        """
        changed = dict(arrays)
        names, meta = self.model_state_names, changed.get("meta", {})
        said = meta.get("state_names") if isinstance(meta, Mapping) else None
        if self._state_order is not None and said != names:
            for name in ("states", "final_state"):
                values = np.asarray(changed.get(name))
                if values.ndim and values.shape[-1] == len(names):
                    changed[name] = values[..., self._state_order]
        if names and isinstance(meta, Mapping):
            changed["meta"] = {**meta, "state_names": names}
        return changed

    @property
    def model_state_names(self) -> list[str]:
        """What the numbers of a state are called, in the order of the model and of episode files."""
        if self._state_order is None:
            return list(self.state_names)
        return [self.state_names[own] for own in self._state_order]

    @property
    def grows(self) -> bool:
        """Whether the policy has features or actions that the model lacks so far."""
        return self._growth != (0, 0)

    def train(self, episodes: Sequence[Episode]) -> BatchReport:
        """Learn from episodes, here and now.

        Raises:
            EpisodeError: one is of another game than the policy's.
            ModelMissingError, ModelError: the policy came from a model file, and the rest of that can't be read now.
        """
        before = self._state_to_train(episodes[0].state_width)
        state, report = train_step.learn(before, episodes, self.settings, before.updates + 1)
        self._manifest = {**self._manifest, **manifests.after_batch(self._manifest, before, report)}
        self._training_state = state
        self._network = state.policy
        self._unsaved_training = True
        return report

    def save(self, target: Path) -> bool:
        """Write the model; False, and said why, if the learner of the root is the one who writes there.

        Raises:
            OSError, BackgroundTrainingError: nothing that a reader can load was written.
        """
        if target == self._paths.model:
            return self._save_shared(target)
        return self._write(target, self.version)

    def _adopt(self, model: Model) -> None:
        """Play with this model from now on.

        Raises:
            ModelError: it is of another game.
        """
        model, growth = self._grown(model) if self._may_grow else (model, (0, 0))
        layout = model.layout
        if isinstance(layout.actions, Discrete) and isinstance(self.actions, Discrete) and self._named_by_the_bot:
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
        """Find each of the agent's actions among those of the model, by their names.

        Raises:
            ModelError: the model has other names than the bot, or one name twice in another order.
        """
        own, theirs = self.action_labels, _labels(model)
        named = bool(model.given_action_names) and theirs != _unnamed(model.actions)
        if not own or not named or own == _unnamed(self.actions):
            self.action_labels = theirs if named or not own else own
            self._model_index = None
            return
        shortened = [name[:LONGEST_NAME] for name in own]  # as the learner writes them
        if shortened == theirs:
            self._model_index = None
        elif isinstance(model.actions, Discrete) and sorted(shortened) == sorted(theirs) and len(set(theirs)) == len(theirs):
            self._model_index = np.array([theirs.index(name) for name in shortened])
            logger.info("the model's actions are in another order, matched by name: %s; here: %s", theirs, own)
        elif self._named_by_the_bot:
            needed = f"this bot's are {own}: give them the same names, or {_NEW_GAME}"
            raise ModelError(str(self.model_path), f"its actions are {theirs}", needed)
        else:
            self.action_labels, self._model_index = theirs, None

    def _check_sizes(self, width: int, outputs: int) -> None:
        """Refuse by its sizes a model of another game, before any memory is taken for it.

        Raises:
            ModelError: the game has states of another width.
        """
        needed = self._state_width
        # Names say what differs, or the model grows; so a model of about this size is read first.
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
        """Refuse a model whose features or actions are others than the bot's.

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
        """The model with the features and actions that this bot has besides, as the learner will widen it; and how many."""
        layout = model.layout
        features = layouts.added(layouts.shortened(self.state_names), layout.state_names)
        discrete = self._named_by_the_bot and isinstance(layout.actions, Discrete)
        actions = layouts.added(layouts.shortened(self.action_labels), layout.action_names) if discrete else []
        if not features and not actions:
            return model, (0, 0)
        network = Network(*(np.asarray(model.arrays[key], np.float32) for key in POLICY_KEYS))
        network = widening.wider_policy(network, len(features), len(actions))
        manifest = {**model.manifest, "action_names": [*layout.action_names, *actions]}
        manifest |= {"state_names": [*layout.state_names, *features]} if layout.state_names else {}
        manifest |= {"action_count": len(network.b3)} if actions else {}
        arrays = dict(zip(POLICY_KEYS, network, strict=True))
        logger.info("playing version %d of the model with features %s and actions %s more", model.version, features, actions)
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
            # A model of invented sizes would make the learner refuse every real episode.
            logger.warning("%s not written: nobody has said yet how wide a state is", target)
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
    """What the actions of a space are called whose user gives them no names."""
    return [f"action_{number}" for number in range(actions.count)] if isinstance(actions, Discrete) else []


def _labels(model: Model) -> list[str]:
    if not model.given_action_names and model.actions == Discrete(len(GUIDE_ACTIONS)):
        return list(GUIDE_ACTIONS)
    return list(model.given_action_names) or _unnamed(model.actions)
