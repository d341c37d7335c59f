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

from local_training import episode, episode_file, policy, settings_file
from local_training.actions import ActionSpace
from local_training.errors import BackgroundTrainingError
from local_training.game_voice import GameVoice
from local_training.outbox import Outbox
from local_training.paths import MODEL_NAME, Paths
from local_training.plain_values import truth_values
from local_training.policy_holder import GUIDE_ACTIONS, PolicyHolder
from local_training.recording import Recording, recorded_state, state_vector
from local_training.settings import LearningSettings

__all__ = ["GUIDE_ACTIONS", "RLAgent"]

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)


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
        action_space: ActionSpace | None = None,
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
            action_space: of another kind than one of some named actions: MultiDiscrete, MultiBinary, Box. Then
                `action_names` are those of the numbers in an action. By default the model's.

        Raises:
            SettingsError: a value is not allowed.
        """
        base = settings or settings_file.load(environment=os.environ).learning
        chosen = dataclasses.replace(base, learning_rate=float(learning_rate), gamma=float(gamma))
        self._paths = _paths(model_path, root)
        path = self._paths.model if model_path is None else Path(model_path).absolute()
        self._holder = PolicyHolder(self._paths, path, chosen, action_names or (), state_width, action_space)
        self.episode_count = 0
        self.outbox = Outbox(self._paths)
        self.voice = GameVoice(self._paths)
        self._rng = np.random.default_rng(seed)
        self._recording = Recording()
        self._last_return = 0.0
        self.refresh()

    @property
    def buffer_path(self) -> Path:
        """The folder into which `end_episode` drops episodes."""
        return self._paths.buffer

    @property
    def model_path(self) -> Path:
        """The model file that this agent watches."""
        return self._holder.model_path

    @property
    def model_version(self) -> int:
        """The version that the present policy came from; 0 before the first."""
        return self._holder.version

    @property
    def action_labels(self) -> list[str]:
        """What the actions are called; empty before the first model or action."""
        return self._holder.action_labels

    @property
    def settings(self) -> LearningSettings:
        """How `train_from_batch` learns."""
        return self._holder.settings

    def get_action(
        self, state: Any, training: bool = True, action_mask: Sequence[bool] | Array | None = None
    ) -> tuple[Any, str, float]:
        """Choose an action.

        Args:
            state: [S] numbers, or more axes, which are flattened; uint8 is scaled by 1/255.
            training: True draws from the policy and records the step; False takes the likeliest action, unrecorded.
            action_mask: [A], True or 1 where an action is legal now, False or 0 elsewhere; other numbers are refused, since
                0 means the opposite in an additive mask. For MultiDiscrete those of all numbers behind one another.

        Returns:
            The action, its name, and the probability with which the policy chooses it. The action is its number, or an
            array [D] for other kinds than Discrete; for Box the probability is a density.

        Raises:
            EpisodeError: a state of another width, not finite, or a mask that leaves no action, or can't be.
        """
        if training and not len(self._recording):
            self.refresh()
        vector = state_vector(state)
        mask = None if action_mask is None else truth_values(action_mask)
        network = self._holder.network(len(vector))
        actions = self._holder.known_actions
        if mask is not None:
            actions.check_mask(mask)
        choice = policy.choose(network, vector, mask, self._rng, not training, actions)
        if training:
            self._recording.add_step(recorded_state(state, vector), choice, mask, self.model_version)
        return choice.action, actions.name_of(choice.action, self.action_labels), choice.probability

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Make the choices from here on repeatable, whatever was chosen before."""
        self._rng = np.random.default_rng(seed)

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

        Raises:
            EpisodeError: what was recorded makes no episode, by a reward beyond limits.max_magnitude, say; the next
                game begins anew all the same.
        """
        steps = len(self._recording)
        saved = False
        try:
            if steps:
                self._recording.add_reward(final_reward)
                self._last_return = self._recording.episode_return
                self.episode_count += 1
                word = result or {1: "Victory", -1: "Defeat"}.get(int(np.sign(final_reward)), "Unknown")
                if save_experience:
                    arrays = self._arrays(terminated, final_state, episode_id, {"result": word, **(meta or {})})
                    saved = self.outbox.deposit(arrays, word) is not None
        finally:
            self._recording = Recording()
        return {
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
        report = self._holder.train(episodes)
        return dataclasses.asdict(report) | {"adjusted_lr": report.learning_rate}

    def save_model(self, path: str | os.PathLike[str] | None = None) -> bool:
        """Write the model; True only when a reader can load what lies under the path.

        Under the path the background learner commits to, this agent does not undo the learner's work: without
        training of its own there is nothing newer to write, and while a learner is at work it is refused.
        """
        target = self.model_path if path is None else Path(path).absolute()
        try:
            return self._holder.save(target)
        except (OSError, BackgroundTrainingError) as error:
            logger.error("%s not written: %s", target, error)
            return False

    def refresh(self) -> bool:
        """Pick up a newer model; True if there was one. Costs one stat() if there is not."""
        return self._holder.refresh()

    def frame(self, seconds: float) -> None:
        """Tell the learner how long the last frame took; it gives way when frames get slower than they usually are."""
        self.voice.frame(seconds)

    def busy(self, seconds: float = 5.0) -> None:
        """Ask the learner to stand still for so long, or until another word."""
        self.voice.busy(seconds)

    def free(self, seconds: float = 5.0) -> None:
        """Tell the learner that now is a good time to train: a menu, a loading screen."""
        self.voice.free(seconds)

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

    def _arrays(self, terminated: bool, final_state: Any, episode_id: str, meta: Mapping[str, Any]) -> dict[str, Any]:
        last = None if final_state is None else state_vector(final_state)
        space, names = self._holder.known_actions, self.action_labels
        return self._recording.arrays(space, names, terminated=terminated, final_state=last, episode_id=episode_id, meta=meta)


def _paths(model_path: str | os.PathLike[str] | None, root: str | os.PathLike[str] | None) -> Paths:
    if root is not None:
        return Paths(Path(root).absolute())
    path = Path(model_path).absolute() if model_path is not None else None
    if path is not None and path.name == MODEL_NAME and path.parent.name == "models":
        return Paths(path.parent.parent)
    return settings_file.load(environment=os.environ).paths
