"""RLAgent: what a bot talks to. It plays with the newest model and drops each finished game into the buffer."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from local_training import atomic_files, episode, episode_file, learning, model_store, policy, settings_file
from local_training.episode import Episode
from local_training.errors import AnotherLearnerError, BackgroundTrainingError, EpisodeError, ModelError, ModelMissingError
from local_training.learning import TrainingState
from local_training.model_store import FORMAT, POLICY_KEYS, Model
from local_training.outbox import Outbox
from local_training.paths import MODEL_NAME, Paths
from local_training.policy import Network
from local_training.recording import Recording
from local_training.root_lock import LearnerLock
from local_training.settings import LearningSettings

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)

GUIDE_ACTIONS = ("ECONOMY", "AGGRESSIVE", "DEFENSIVE", "TECH", "ALL_IN")
"""What the guides' bots can do; the actions of an agent to whom nobody names others."""


class RLAgent:
    """A policy that plays, records what it lives through, and picks newer models up by itself.

    It promises never to stop a game over a missing or broken model file: it says so and goes on with the policy it
    has. It does not learn while it plays; the background learner does, from the files.

    Not for several threads at a time: one agent plays one game.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        gamma: float = 0.99,
        model_path: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        action_names: Sequence[str] | None = None,
        state_width: int | None = None,
        seed: int | None = None,
        settings: LearningSettings | None = None,
    ) -> None:
        """Prepare to play with the model that lies under `model_path`, if there is one.

        Args:
            learning_rate: step size, for `train_from_batch` only; the background learner has its own settings.
            gamma: discount per step, likewise.
            model_path: the model file. By default models/rl_agent_model.npz below the root. A path that ends so also
                says which root is meant.
            root: folder with data/, models/ and logs/; by default LOCAL_TRAINING_ROOT, else this package's folder.
            action_names: what the actions are called; also says how many there are. By default the model's, else
                those of the guides.
            state_width: numbers in one state; by default the model's, else the first state's.
            seed: makes this agent's choices repeatable.
            settings: all settings of learning; by default those of the project.

        Raises:
            SettingsError: a value is not allowed.
        """
        base = settings or settings_file.load(environment=os.environ).learning
        self.settings = dataclasses.replace(base, learning_rate=float(learning_rate), gamma=float(gamma))
        self._paths = _paths(model_path, root)
        self.model_path = self._paths.model if model_path is None else Path(model_path).absolute()
        self.action_labels: list[str] = list(action_names or ())
        self.episode_count = 0
        self.model_version = 0
        self.outbox = Outbox(self._paths)
        self._state_width = state_width
        self._rng = np.random.default_rng(seed)
        self._recording = Recording()
        self._policy: Network | None = None
        self._training_state: TrainingState | None = None
        self._unsaved_training = False
        self._signature: model_store.Signature | None = None
        self._last_return = 0.0
        self.refresh()

    @property
    def buffer_path(self) -> Path:
        """The folder into which `end_episode` drops episodes."""
        return self._paths.buffer

    def get_action(
        self, state: Any, training: bool = True, action_mask: Sequence[bool] | Array | None = None
    ) -> tuple[int, str, float]:
        """Choose an action.

        Args:
            state: [S] numbers, or more axes, which are flattened; uint8 is scaled by 1/255.
            training: True draws from the policy and records the step; False takes the likeliest action, unrecorded.
            action_mask: [A], true where an action is legal now.

        Returns:
            The action's number, its name, and the probability with which the policy chooses it.

        Raises:
            EpisodeError: a state of another width, not finite, or a mask that leaves no action.
        """
        if training and not len(self._recording):
            self.refresh()
        vector = _state_vector(state)
        mask = None if action_mask is None else np.asarray(action_mask, bool)
        network = self._policy if self._policy is not None else self._new_policy(len(vector))
        if mask is not None and mask.shape != (len(self.action_labels),):
            found = f"the mask has shape {mask.shape}"
            raise EpisodeError("wrong-shape", found, f"({len(self.action_labels)},), one per action, is needed")
        choice = policy.choose(network, vector, mask, self._rng, greedy=not training)
        if training:
            self._recording.add_step(vector, choice, mask, self.model_version)
        return choice.action, self.action_labels[choice.action], choice.probability

    def update_reward(self, reward: float) -> None:
        """Credit the action just taken; several calls add up.

        A reward before the first action of a game has earned nothing that could be learnt; it is left out, and said.

        Raises:
            EpisodeError: the reward is not a finite number.
        """
        if not len(self._recording) and np.isfinite(reward):
            logger.warning("a reward of %g came before the first action of the game; it is left out", reward)
            return
        self._recording.add_reward(reward)

    def end_episode(
        self,
        final_reward: float = 0.0,
        save_experience: bool = True,
        *,
        terminated: bool = True,
        final_state: Any = None,
        result: str | None = None,
        episode_id: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """End the game: add the final reward to the last action, and drop the episode into the buffer.

        Args:
            final_reward: what the end of the game is worth.
            save_experience: False forgets the episode.
            terminated: False when the game was cut off, or goes on in a further episode.
            final_state: the state after the last step, to judge what a cut-off game would still have earned.
            result: "Victory", "Defeat", ...; by default the final reward's sign decides.
            episode_id: a unique text, for games that may play two identical episodes.
            meta: anything a monitor may show: opponent, map, seed, ...

        Returns:
            `steps`, `episode_return`, `avg_reward`, `episode`, `saved` and, for old bots, `loss`, `epsilon` and
            `learning_rate`.
        """
        steps = len(self._recording)
        saved = False
        if steps:
            self._recording.add_reward(final_reward)
            word = result or {1: "Victory", -1: "Defeat"}.get(int(np.sign(final_reward)), "Unknown")
            if save_experience:
                arrays = self._arrays(terminated, final_state, episode_id, {"result": word, **(meta or {})})
                saved = self.outbox.deposit(arrays, word) is not None
            self._last_return = self._recording.episode_return
            self.episode_count += 1
        stats = {
            "episode": self.episode_count,
            "steps": steps,
            "episode_return": self._last_return if steps else 0.0,
            "avg_reward": self._last_return / steps if steps else 0.0,
            "saved": saved,
            "model_version": self.model_version,
            "loss": 0.0,
            "epsilon": 0.0,
            "learning_rate": self.settings.learning_rate,
        }
        self._recording = Recording()
        return stats

    def save_experience_data(self, path: str | os.PathLike[str]) -> bool:
        """Write the game so far as an episode file; True when it is there under its final name."""
        target = Path(path)
        if not len(self._recording):
            logger.warning("%s not written: no step has been played yet", target)
            return False
        try:
            os.makedirs(target.parent, exist_ok=True)
            episode_file.write(target, self._arrays(True, None, "", {}))
        except OSError as error:
            logger.error("%s not written: %s", target, error)
            return False
        return True

    def train_from_batch(self, experiences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Learn from episodes at hand, here and now, as the background learner does from files.

        Args:
            experiences: dicts with `states`, `actions`, `rewards` and, where known, the other arrays of the format.

        Returns:
            `loss`, `steps`, `games`, `mean_return` and the other fields of learning.BatchReport.

        Raises:
            EpisodeError: one of them is no episode, or of another game than the model's.
        """
        episodes = [episode.from_arrays(experience) for experience in experiences if len(experience["rewards"])]
        if not episodes:
            return {"loss": 0.0, "steps": 0, "games": 0, "mean_return": 0.0}
        state = self._state_to_train(episodes)
        state, report = learning.learn(state, episodes, self.settings, state.updates + 1)
        self._training_state = state
        self._policy = state.policy
        self._unsaved_training = True
        return dataclasses.asdict(report) | {"adjusted_lr": report.learning_rate}

    def save_model(self, path: str | os.PathLike[str] | None = None) -> bool:
        """Write the model; True only when a reader can load what lies under the path.

        Under the path the background learner commits to, this agent does not undo the learner's work: without
        training of its own there is nothing newer to write, and while a learner is at work it is refused.
        """
        target = self.model_path if path is None else Path(path).absolute()
        try:
            if target == self._paths.model:
                return self._save_shared(target)
            return self._write_model(target, self.model_version)
        except (OSError, BackgroundTrainingError) as error:
            logger.error("%s not written: %s", target, error)
            return False

    def refresh(self) -> bool:
        """Pick up a newer model; True if there was one. Costs one stat() if there is not."""
        try:
            found = model_store.signature(self.model_path)
            if found is None or found == self._signature:
                return False
            model = model_store.read(self.model_path, POLICY_KEYS)
            self._adopt(model)
        except (ModelError, ModelMissingError, OSError) as error:
            logger.warning("going on with version %d of the policy: %s", self.model_version, error)
            return False
        self._signature = found
        return True

    def get_stats(self) -> dict[str, Any]:
        """How far this agent has come."""
        return {
            "episode_count": self.episode_count,
            "model_version": self.model_version,
            "buffer_size": len(self._recording),
            "last_return": self._last_return,
            "episodes_waiting": self.outbox.waiting,
            "episodes_given_up": self.outbox.given_up,
        }

    def _adopt(self, model: Model) -> None:
        """Play with this model from now on.

        Raises:
            ModelError: it is of another game.
        """
        needed_width = self._state_width
        if needed_width is not None and model.state_width != needed_width:
            found = f"its policy takes states of {model.state_width} numbers"
            raise ModelError(str(self.model_path), found, f"this game's have {needed_width}; {_NEW_GAME}")
        if self.action_labels and model.action_count != len(self.action_labels):
            found = f"its policy knows {model.action_count} actions"
            raise ModelError(str(self.model_path), found, f"this game has {len(self.action_labels)}; {_NEW_GAME}")
        self.action_labels = self.action_labels or _labels(model)
        self._state_width = model.state_width
        self._policy = Network(*(np.asarray(model.arrays[key], np.float32) for key in POLICY_KEYS))
        self.model_version = model.version
        self._training_state = None
        self._unsaved_training = False

    def _new_policy(self, width: int) -> Network:
        self.action_labels = self.action_labels or list(GUIDE_ACTIONS)
        self._state_width = self._state_width or width
        self._training_state = learning.new_state(self._state_width, len(self.action_labels), self.settings)
        self._policy = self._training_state.policy
        return self._policy

    def _state_to_train(self, episodes: Sequence[Episode]) -> TrainingState:
        if self._training_state is None and self._policy is None:
            self._new_policy(episodes[0].state_width)
        if self._training_state is None:
            model = model_store.read(self.model_path)
            self._training_state = learning.from_arrays(model.arrays, str(self.model_path))
        return self._training_state

    def _arrays(self, terminated: bool, final_state: Any, episode_id: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        last = None if final_state is None else _state_vector(final_state)
        return self._recording.arrays(
            self.action_labels, terminated=terminated, final_state=last, episode_id=episode_id, meta=meta
        )

    def _save_shared(self, target: Path) -> bool:
        if not self._unsaved_training and model_store.signature(target) is not None:
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
            return self._write_model(target, self._next_version(target))
        finally:
            lock.release()

    def _next_version(self, target: Path) -> int:
        try:
            there = model_store.read(target, POLICY_KEYS).version
        except (ModelMissingError, ModelError):
            there = 0
        return max(there, self.model_version) + 1

    def _write_model(self, target: Path, version: int) -> bool:
        if self._training_state is None and self._policy is None:
            self._new_policy(self._state_width or 15)
        if self._training_state is None:
            data = model_store.read_bytes(self.model_path)
        else:
            manifest = {"format": FORMAT, "activation": policy.ACTIVATION, "action_names": self.action_labels}
            manifest["hyper_parameters"] = dataclasses.asdict(self.settings)
            data = model_store.pack(learning.to_arrays(self._training_state), version, manifest)
        os.makedirs(target.parent, exist_ok=True)
        atomic_files.write_atomically(target, data, durable=True)
        model_store.read(target, POLICY_KEYS)
        if target == self.model_path:
            self._signature = model_store.signature(target)
            self.model_version = version
            self._unsaved_training = False
        return True


_NEW_GAME = "give the game a root of its own, or move the old model away to start a new one"


def _paths(model_path: str | os.PathLike[str] | None, root: str | os.PathLike[str] | None) -> Paths:
    if root is not None:
        return Paths(Path(root).absolute())
    path = Path(model_path).absolute() if model_path is not None else None
    if path is not None and path.name == MODEL_NAME and path.parent.name == "models":
        return Paths(path.parent.parent)
    return settings_file.load(environment=os.environ).paths


def _labels(model: Model) -> list[str]:
    if not model.manifest.get("action_names") and model.action_count == len(GUIDE_ACTIONS):
        return list(GUIDE_ACTIONS)
    return list(model.action_names)


def _state_vector(state: Any) -> Array:
    raw = np.asarray(state)
    if raw.dtype == np.uint8:
        return np.asarray(raw.reshape(-1).astype(np.float32) / np.float32(255))
    return raw.reshape(-1).astype(np.float32, copy=True)
