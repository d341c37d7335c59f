"""RLAgent, the API for bots: it plays with the newest model and writes each finished game into the buffer."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training import command_lines, plain_values, settings_file
from background_training.agent_model import GUIDE_ACTIONS, AgentPolicy
from background_training.algo import policy
from background_training.episodes import episode, episode_file
from background_training.episodes.outbox import Outbox
from background_training.episodes.recorder import Recording, recorded_state, state_vector
from background_training.errors import BackgroundTrainingError, EpisodeError, SettingsError
from background_training.ipc.load_hints import LoadHints
from background_training.paths import MODEL_NAME, Paths
from background_training.records import status
from background_training.records.back_pressure import BackPressure, most_waiting
from background_training.settings import LearningSettings, Settings
from background_training.spaces import ActionSpace, Choice
from background_training.spaces import layout as layouts

__all__ = ["GUIDE_ACTIONS", "RLAgent"]

Array = npt.NDArray[Any]

logger = logging.getLogger(__name__)


_forks = 0
_LONGEST_EPISODE_ID = 200
_REPORT_SECONDS, _FREE_SECONDS = 60.0, 1.0
LEARNING_RATE, GAMMA = 0.001, 0.99
"""Defaults of RLAgent's own training."""
_LONGEST_NAMES = 60_000


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


def _this_process() -> tuple[int, int]:
    """Identify this process, to notice that the agent was forked or pickled.

    The fork count differs even where a child has its parent's pid, as in a container; the pid differs even if the fork was not
    Python's.
    """
    return os.getpid(), _forks


class RLAgent:
    """Plays with a policy, records its games for the learner, and loads newer models by itself.

    It promises that a missing or broken model file never stops a game: it logs the problem and continues with the policy that it
    has. Nor does unusable data: a NaN or oversized state or reward is logged with its feature, the step is played all the same
    (with the likeliest action in the last valid state of the game, or a random legal one), and that episode is not saved. With
    `strict` it raises EpisodeError at that place instead. In both modes an invalid mask, or one that leaves no action, raises
    EpisodeError, since any action would be one that the caller has ruled out.

    It does not learn while it plays; the background learner does that, from the files. It does not promise to save a game whose
    end is never reported. It is not thread-safe: one agent plays one game at a time. In a forked child it draws other random
    numbers than its parent, unless a seed was given, and drops the parent's unfinished game.

    >>> agent = RLAgent(root="my_bot", action_names=["left", "right"], strict=False)
    >>> agent.begin_episode()
    >>> action, name, probability = agent.get_action([0.5, -0.2], action_mask=[0, 1])
    >>> action, name, probability
    (1, 'right', 1.0)
    >>> agent.update_reward(1.0)
    >>> agent.end_episode(final_reward=1.0, meta={"map": Path("Süd")})["saved"]
    True

    A state with NaN costs that episode only; the game continues:

    >>> _ = agent.get_action([0.5, float("nan")])
    >>> ended = agent.end_episode()
    >>> ended["saved"], ended["fault"]
    (False, 'feature 1 of the state is nan; finite numbers of size 1e+06 at most are needed')
    """

    def __init__(
        self,
        learning_rate: float = LEARNING_RATE,
        gamma: float = GAMMA,
        model_path: str | os.PathLike[str] | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
        action_names: Sequence[str] | None = None,
        state_width: int | None = None,
        seed: int | None = None,
        settings: LearningSettings | None = None,
        action_space: ActionSpace | None = None,
        strict: bool | None = None,
        state_names: Sequence[str] | None = None,
        grow: bool = False,
        max_wait_seconds: float | None = None,
    ) -> None:
        """Load the model, if there is one.

        Args:
            learning_rate: step size, for `train_from_batch` only; the background learner has its own settings.
            gamma: discount per step, likewise.
            model_path: the model file; by default models/rl_agent_model.npz below the root. A path with that ending also sets the
                root.
            root: folder with data/, models/ and logs/; by default LOCAL_TRAINING_ROOT, else local_training/ of the
                checkout or of the current folder.
            action_names: the names of the actions, and so their number; by default the model's, else GUIDE_ACTIONS. A model with
                the same names in another order is matched by name; one with other names is not used.
            state_width: numbers in one state; by default the model's, else the first state's.
            seed: of this agent's random choices.
            settings: all settings of learning; by default those of the project.
            action_space: for actions that are no choice of one among several: MultiDiscrete, MultiBinary, Box. `action_names`
                then name the numbers in an action. By default the model's.
            strict: True raises EpisodeError for data that no episode can hold; False continues the game. By default True under
                pytest, else the setting `games.strict`.
            state_names: the names of the features, for the model, episodes and messages, and so their number. They are matched
                with the model's as `action_names` are.
            grow: if the model lacks some of `state_names` or `action_names`, play with a widened copy of it, and have the learner
                widen the model (docs/how-to/widen-a-model.md).
            max_wait_seconds: how long `end_episode` waits, at most, while too many episodes wait for the learner; 0: never. By
                default the setting `games.max_wait_seconds`, 5 s.

        Raises:
            SettingsError: a value is not allowed.
        """
        loaded = _settings()
        base = settings or loaded.learning
        self._strict = (loaded.games.strict or _under_pytest()) if strict is None else strict
        chosen = dataclasses.replace(base, learning_rate=float(learning_rate), gamma=float(gamma))
        self._paths = _paths(model_path, root, loaded.paths)
        _warn_of_other_settings(float(learning_rate), float(gamma), base, _learning_of_learner(self._paths))
        path = self._paths.model if model_path is None else Path(model_path).absolute()
        names = [plain_values.text_of(name) for name in action_names or ()]
        states = _state_names(state_names, state_width)
        width = len(states) or state_width
        self._policy = AgentPolicy(self._paths, path, chosen, names, width, action_space, states, grow)
        self.episode_count = 0
        games = loaded.games
        if max_wait_seconds is not None:
            games = loaded.with_values("RLAgent", games={"max_wait_seconds": max_wait_seconds}).games
        self._longest_wait_seconds = games.max_wait_seconds
        self._back_pressure = BackPressure(self._paths, most_waiting(games.max_episodes_ahead))
        self._has_announced_waiting = False
        self._reported_at = -math.inf
        self.outbox = Outbox(self._paths)
        self.voice = LoadHints(self._paths)
        self._rng = np.random.default_rng(seed)
        self._is_seeded = seed is not None
        self._process = _this_process()
        self._is_forked = False
        self._last_sound_state: Array | None = None
        self._start_recording()
        self._last_return = 0.0
        self._abandoned = self._unfinished = self._faulty = 0
        self.refresh()

    @property
    def buffer_path(self) -> Path:
        """The folder into which `end_episode` writes episodes."""
        return self._paths.buffer

    @property
    def model_path(self) -> Path:
        """The model file that this agent watches."""
        return self._policy.model_path

    @property
    def model_version(self) -> int:
        """The version of the model in use; 0 before the first."""
        return self._policy.version

    @property
    def action_labels(self) -> list[str]:
        """The names of the actions; empty before the first model or action."""
        return self._policy.action_labels

    @property
    def settings(self) -> LearningSettings:
        """How `train_from_batch` learns."""
        return self._policy.settings

    def get_action(
        self, state: Any, training: bool = True, action_mask: Sequence[bool] | Array | None = None
    ) -> tuple[Any, str, float]:
        """Choose an action.

        Args:
            state: [S] numbers, or more axes, which are flattened; uint8 is scaled by 1/255.
            training: True samples from the policy and records the step; False takes the likeliest action and records nothing.
            action_mask: [A], True or 1 where an action is legal now, False or 0 elsewhere; other numbers are refused, since
                0 means the opposite in an additive mask. For MultiDiscrete, the masks of all numbers, concatenated.

        Returns:
            The action, its name, and the probability with which the policy chooses it. The action is its number, or an
            array [D] for other kinds than Discrete; for Box the probability is a density.

        Raises:
            EpisodeError: the mask holds anything but truth values, or leaves no action. If `strict`, also a state of
                wrong width, or one that is not finite.
        """
        self._notice_fork()
        self.voice.register()
        if training and not len(self._recording):
            self.refresh()
        mask = None
        if action_mask is not None:
            mask = plain_values.truth_values(action_mask)
            self._policy.known_actions.check_mask(mask)
        own_mask, mask = mask, None if mask is None else self._policy.model_mask(mask)
        try:
            vector = state_vector(state, self._policy.state_names)
            ordered = self._policy.model_state(vector)
            network = self._policy.network(len(vector))
            choice = policy.choose(network, ordered, mask, self._rng, not training, self._policy.known_actions)
            self._last_sound_state = vector
        except EpisodeError as error:
            if self._strict:
                raise
            vector, choice = self._played_without(error, mask)
            fault = str(error)
        else:
            fault = ""
        own_action = self._policy.own_action(choice.action)
        if own_action is not choice.action:
            choice = choice._replace(action=own_action)
        self._is_recorded = training
        if training:
            self._recording.add_step(vector if fault else recorded_state(state, vector), choice, own_mask, self.model_version)
            if fault:
                self._recording.mark_fault(fault)
        name = self._policy.known_actions.name_of(choice.action, self.action_labels)
        return choice.action, name, choice.probability

    def _played_without(self, error: EpisodeError, mask: Array | None) -> tuple[Array, Choice]:
        """A state and an action for a step whose own state is unusable: the last sound one of this game and its likeliest
        action, else zeros and a random legal action."""
        self._log_fault(len(self._recording), f"{error}; played without it")
        space, state = self._policy.known_actions, self._last_sound_state
        if state is not None:
            try:
                ordered = self._policy.model_state(state)
                return state, policy.choose(self._policy.network(len(state)), ordered, mask, self._rng, True, space)
            except EpisodeError:  # the policy itself is unsound, or was replaced since that step
                pass
        return np.zeros(1, np.float32), space.choose(np.zeros(space.outputs, np.float32), mask, self._rng, False)

    def begin_episode(self) -> None:
        """Start a game; one that was not ended, since its bot crashed, is dropped, counted and logged.

        Calling it is optional: the first `get_action` after `end_episode` starts a game, too.

        >>> agent = RLAgent(root="my_bot", action_names=["left", "right"])
        >>> _ = agent.get_action([0.0, 1.0])    # ... and the game crashes
        >>> agent.begin_episode()
        >>> agent.get_stats()["episodes_unfinished"], agent.get_stats()["buffer_size"]
        (1, 0)
        """
        self._notice_fork()
        self._drop_unfinished("a new one started")

    def abandon_episode(self, reason: str = "") -> int:
        """Drop the game so far, as after a crash or a lost connection; returns the number of its steps.

        >>> agent = RLAgent(root="my_bot", action_names=["left", "right"])
        >>> _ = agent.get_action([0.0, 1.0])
        >>> agent.abandon_episode("the server is gone"), agent.abandon_episode()
        (1, 0)
        >>> agent.get_stats()["episodes_abandoned"]
        1

        Args:
            reason: for the log.
        """
        self._notice_fork()
        steps = len(self._recording)
        if steps:
            self._abandoned += 1
            logger.info("a game was abandoned after %d steps%s", steps, f": {reason}" if reason else "")
        self._start_recording()
        return steps

    def forget_last_step(self) -> bool:
        """Remove the newest step from the recording, since the bot played something else; True if there was one.

        Rewards that it was credited with are removed, too; later ones are credited to the step before. A second call before the
        next `get_action`, or one after an action that was not recorded (`training=False`), changes nothing.

        >>> agent = RLAgent(root="my_bot", action_names=["left", "right"])
        >>> _ = agent.get_action([0.0, 1.0])
        >>> agent.forget_last_step(), agent.forget_last_step(), agent.get_stats()["buffer_size"]
        (True, False, 0)
        """
        self._notice_fork()
        if not self._is_recorded:
            return False
        self._recording.forget_last_step()
        self._is_recorded = False
        return True

    def reseed(self, seed: int | Sequence[int] | None) -> None:
        """Seed the choices from here on, in forked children too; None makes them random again."""
        self._notice_fork()
        self._rng = np.random.default_rng(seed)
        self._is_seeded = seed is not None

    def update_reward(self, reward: Any) -> None:
        """Credit the action just taken; several calls add up.

        A reward before the first action of a game belongs to no step; it is ignored, and logged.

        >>> agent = RLAgent(root="my_bot", action_names=["left", "right"])
        >>> _ = agent.get_action([0.0, 1.0])
        >>> agent.update_reward(0.5)
        >>> agent.update_reward(np.array([0.25]))    # of any shape with one element
        >>> agent.end_episode(final_reward=1.0)["episode_return"]
        1.75

        Args:
            reward: a number, or an array that holds exactly one.

        Raises:
            EpisodeError: if `strict`, the reward is not a finite number.
        """
        self._notice_fork()
        self._credit(reward, "the reward")

    def _credit(self, reward: Any, name: str) -> float:
        """Add a reward to the newest step; the number that was added."""
        try:
            number = plain_values.one_number(reward, name)
            if not len(self._recording) and np.isfinite(number):
                logger.warning("a reward of %g came before the first action of the game; it is ignored", number)
                return 0.0
            self._recording.add_reward(number, name)
        except EpisodeError as error:
            if self._strict:
                raise
            self._recording.mark_fault(str(error))
            self._log_fault(max(len(self._recording) - 1, 0), f"{error}; left out")
            return 0.0
        return number

    def end_episode(
        self,
        final_reward: Any = 0.0,
        save_experience: bool = True,
        *,
        terminated: bool = True,
        final_state: Any = None,
        result: Any = None,
        episode_id: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """End the game: add the final reward to the last action, and write the episode into the buffer.

        While a learner of this root has more than `games.max_episodes_ahead` episodes to train on, it waits, for 5 s at most
        (`max_wait_seconds`); a learner that does not keep up is named in a warning, once a minute.

        Args:
            final_reward: the reward for the end of the game.
            save_experience: False drops the episode.
            terminated: False if the game was cut off, or continues in a further episode.
            final_state: the state after the last step, from which the value of the rest of a cut-off game is estimated.
            result: "Victory", "Defeat", an enum member, ...; by default the final reward's sign decides.
            episode_id: a unique text, for games that may play two identical episodes; otherwise the second counts as a duplicate.
            meta: anything a monitor may show: opponent, map, seed, ... Enum members, NumPy's values, paths, sets, dates and
                dataclasses become plain values; what JSON can't hold is left out with a warning.

        Returns:
            `steps`, `episode_return`, `avg_reward`, `episode`, `saved`, `fault` (why it was not saved; empty if nothing was
            wrong with its data) and, for old bots, `loss`, `epsilon` and `learning_rate`.

        Raises:
            EpisodeError: if `strict`, no episode can hold what was recorded (a reward beyond limits.max_magnitude, say), or JSON
                can't hold `meta`; the next game starts empty all the same.
        """
        self._notice_fork()
        steps = len(self._recording)
        saved, fault = False, ""
        try:
            if steps:
                final = self._credit(final_reward, "the final reward")
                self._last_return = self._recording.episode_return
                self.episode_count += 1
                ending = {"terminated": terminated, "final_state": final_state, "episode_id": episode_id}
                if save_experience:
                    saved, fault = self._save(ending, self._meta(result, final, meta))
        finally:
            self._start_recording()
        if saved:
            self._wait_for_learner()
        return {
            "episode": self.episode_count,
            "steps": steps,
            "episode_return": self._last_return if steps else 0.0,
            "avg_reward": self._last_return / steps if steps else 0.0,
            "saved": saved,
            "fault": fault,
            "model_version": self.model_version,
            "loss": 0.0,
            "epsilon": 0.0,
            "learning_rate": self.settings.learning_rate,
        }

    def _wait_for_learner(self) -> None:
        """Delay the next game if the learner has too many episodes to train on, and report one that does not keep up."""
        # With a hint meanwhile that training disturbs no game; otherwise one that was busy to its end would wait for nothing.
        free = functools.partial(self.voice.free, _FREE_SECONDS)
        reason = self._back_pressure.wait(self._longest_wait_seconds, self._announce_waiting, free)
        moment = time.monotonic()
        if reason and moment >= self._reported_at + _REPORT_SECONDS:
            self._reported_at = moment
            logger.warning("%s", reason)

    def _announce_waiting(self) -> None:
        if not self._has_announced_waiting:
            self._has_announced_waiting = True
            logger.warning(
                "the game is faster than the learner, so end_episode waits for it, for up to %g s a game "
                "(games.max_wait_seconds; RLAgent(max_wait_seconds=0) switches it off)",
                self._longest_wait_seconds,
            )

    def _save(self, ending: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[bool, str]:
        """Deposit the episode; whether it is in the buffer, and what was wrong with it."""
        faults = self._recording.faults
        fault = next(iter(faults.values()), "")
        saved = False
        if not fault:
            try:
                saved = self.outbox.deposit(self._arrays(meta=meta, **ending), str(meta["result"])) is not None
            except EpisodeError as error:
                if self._strict:
                    raise
                fault = str(error)
        if fault:
            self._faulty += 1
            where = f"step {next(iter(faults))} ({len(faults)} such steps): " if faults else ""
            logger.error("game %d is not saved: %s%s", self.episode_count, where, fault)
        return saved, fault

    def _meta(self, result: Any, final_reward: float, given: Any) -> dict[str, Any]:
        """The meta of the episode's file, of plain values."""
        meta, left_out = plain_values.json_values(given)
        word = {1: "Victory", -1: "Defeat"}.get(int(np.sign(final_reward)), "Unknown")
        if result is not None:
            plain, troubles = plain_values.json_values({"result": result}, longest=1000)
            left_out.update(troubles)
            if isinstance(plain.get("result"), (list, dict)):
                left_out["result"] = f"it is of type {type(result).__name__}"
            elif plain:
                word = plain_values.text_of(result) or word
        names = {"action_names", "state_names", "grow"} if self._policy.state_names else {"action_names"}
        own = {*self._policy.known_actions.meta, *names} & meta.keys()
        left_out.update((name, "the agent writes it itself") for name in own)
        if left_out:
            words = "; ".join(f"{name}: {why}" for name, why in left_out.items())
            if self._strict:
                raise EpisodeError(
                    "bad-meta", f"result or meta can't be written ({words})", "values that JSON can hold are needed"
                )
            logger.warning("left out of the meta of game %d: %s", self.episode_count, words)
        return {"result": word, **{name: value for name, value in meta.items() if name not in own}}

    def save_experience_data(self, path: str | os.PathLike[str]) -> bool:
        """Write the game so far as an episode file; True when it is there under its final name."""
        self._notice_fork()
        target = Path(path)
        if not len(self._recording):
            logger.warning("%s not written: no step has been played yet", target)
            return False
        for step, fault in self._recording.faults.items():
            logger.error("%s not written: step %d: %s", target, step, fault)
            return False
        try:
            os.makedirs(target.parent, exist_ok=True)
            episode_file.write(target, self._arrays(terminated=True, final_state=None, episode_id="", meta={}))
        except (OSError, EpisodeError) as error:
            logger.error("%s not written: %s", target, error)
            return False
        return True

    def train_from_batch(self, experiences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Train on episodes in this process, as the background learner does on files.

        Args:
            experiences: dicts with `states`, `actions`, `rewards` and, where known, the other arrays of the format.

        Returns:
            `loss`, `steps`, `games`, `mean_return` and the other fields of learning.BatchReport.

        Raises:
            EpisodeError: one of them is malformed, or does not fit the model.
        """
        episodes = [
            episode.from_arrays(self._policy.in_model_order(experience))
            for experience in experiences
            if len(experience["rewards"])
        ]
        if not episodes:
            return {"loss": 0.0, "steps": 0, "games": 0, "mean_return": 0.0}
        report = self._policy.train(episodes)
        return dataclasses.asdict(report) | {"adjusted_lr": report.learning_rate}

    def save_model(self, path: str | os.PathLike[str] | None = None) -> bool:
        """Write the model; True only if the file under the path can be loaded.

        The root's own model file belongs to the background learner: it is not written without training in this process, as there
        would be nothing newer, nor while a learner is running.
        """
        target = self.model_path if path is None else Path(path).absolute()
        try:
            return self._policy.save(target)
        except (OSError, BackgroundTrainingError, ModuleNotFoundError) as error:  # the last: the root's lock needs filelock
            logger.error("%s not written: %s", target, command_lines.missing_package(error) or error)
            return False

    def refresh(self) -> bool:
        """Load a newer model; True if there was one. Costs one stat() if there is not."""
        return self._policy.refresh()

    def frame(self, seconds: float) -> None:
        """Report how long the last frame took; the learner throttles itself when frames become slower than usual."""
        self._notice_fork()
        self.voice.frame(seconds)

    def busy(self, seconds: float = 5.0) -> None:
        """Ask the learner to pause for this time, or until the next hint."""
        self._notice_fork()
        self.voice.busy(seconds)

    def free(self, seconds: float = 5.0) -> None:
        """Report a good time to train: a menu, a loading screen."""
        self._notice_fork()
        self.voice.free(seconds)

    def get_stats(self) -> dict[str, Any]:
        """Count this agent's games.

        `episodes_abandoned`: by `abandon_episode`. `episodes_unfinished`: dropped by `begin_episode` or after a fork.
        `episodes_faulty`: not saved because of their data. `episodes_waiting`: that the buffer could not take so far.
        """
        self._notice_fork()
        return {
            "episode_count": self.episode_count,
            "model_version": self.model_version,
            "buffer_size": len(self._recording),
            "last_return": self._last_return,
            "episodes_waiting": self.outbox.waiting,
            "episodes_given_up": self.outbox.given_up,
            "episodes_abandoned": self._abandoned,
            "episodes_unfinished": self._unfinished,
            "episodes_faulty": self._faulty,
        }

    def _arrays(self, *, terminated: Any, final_state: Any, episode_id: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The recorded game as the arrays of a file.

        Raises:
            EpisodeError: an argument is not what a file can hold.
        """
        last = None if final_state is None else self._final_state(final_state)
        arrays = self._recording.arrays(
            self._policy.known_actions,
            self.action_labels,
            terminated=bool(plain_values.one_number(terminated, "terminated")),
            final_state=last,
            episode_id=self._episode_id(episode_id),
            meta=meta,
        )
        arrays = self._policy.in_model_order(arrays)
        if self._policy.grows:
            arrays["meta"] = {**arrays["meta"], "grow": True}
        return arrays

    def _final_state(self, state: Any) -> Array | None:
        """The state after the last step, or None where it is unusable: an episode is sound without it."""
        try:
            vector, width = state_vector(state, self._policy.state_names), len(self._recording.states[0])
            if len(vector) != width:
                raise EpisodeError("wrong-width", f"the final state holds {len(vector)} numbers", f"the others hold {width}")
        except EpisodeError as error:
            if self._strict:
                raise
            self._log_fault(len(self._recording), f"{error}; the final state is left out")
            return None
        return vector

    def _episode_id(self, given: Any) -> str:
        """The id for the file; forked children that repeat a seed get a random one, otherwise their episodes are duplicates."""
        text = "" if given is None else plain_values.text_of(given)
        if not text and self._is_forked and self._is_seeded:
            return secrets.token_hex(8)
        if len(text) > _LONGEST_EPISODE_ID:
            raise EpisodeError("too-large", f"episode_id has {len(text)} letters", f"at most {_LONGEST_EPISODE_ID} are allowed")
        return text

    def _start_recording(self) -> None:
        """Start an empty recording."""
        self._recording = Recording()
        self._last_sound_state = None
        self._is_recorded = False
        self._fault_logged = False

    def _drop_unfinished(self, cause: str) -> None:
        steps = len(self._recording)
        if steps:
            self._unfinished += 1
            if self._unfinished == 1:
                words = "a game of %d steps was not ended when %s: dropped; get_stats() counts further ones (episodes_unfinished)"
                logger.warning(words, steps, cause)
        self._start_recording()

    def _notice_fork(self) -> None:
        """In a forked child, leave the unfinished game and the waiting episodes to the parent."""
        process = _this_process()
        if process == self._process:
            return
        self._process, self._is_forked = process, True
        self.outbox = Outbox(self._paths)
        self.voice = LoadHints(self._paths)
        if not self._is_seeded:
            self._rng = np.random.default_rng()
        self._drop_unfinished("its process was forked")

    def _log_fault(self, step: int, words: str) -> None:
        """Log what is wrong with the data of a game, once in each; steps count from 0."""
        if not self._fault_logged:
            self._fault_logged = True
            logger.error("step %d of game %d: %s", step, self.episode_count + 1, words)


def _under_pytest() -> bool:
    """Whether this process runs tests, or was started by one."""
    return "pytest" in sys.modules or "PYTEST_CURRENT_TEST" in os.environ


def _state_names(given: Sequence[str] | None, state_width: int | None) -> list[str]:
    """The names of the features.

    Raises:
        SettingsError: they are not unique, too long together, or contradict `state_width`.
    """
    names = [plain_values.text_of(name) for name in given or ()]
    if len(set(layouts.shortened(names))) < len(names):
        raise SettingsError("state_names", names, "every feature needs a name of its own", "RLAgent")
    if names and state_width is not None and state_width != len(names):
        needed = f"state_width is {state_width}; the number of names must be the same"
        raise SettingsError("state_names", names, needed, "RLAgent")
    if (letters := len(json.dumps(names))) > _LONGEST_NAMES:
        found = f"{len(names)} names of {letters} letters together"
        raise SettingsError("state_names", found, f"an episode's meta has room for {_LONGEST_NAMES}", "RLAgent")
    return names


def _paths(model_path: str | os.PathLike[str] | None, root: str | os.PathLike[str] | None, usual: Paths) -> Paths:
    """The root's paths: of the root that is given, or of the model's, or the usual ones."""
    if root is not None:
        return Paths(Path(root).absolute())
    path = Path(model_path).absolute() if model_path is not None else None
    if path is not None and path.name == MODEL_NAME and path.parent.name == "models":
        return Paths(path.parent.parent)
    return usual


def _settings() -> Settings:
    """The settings of files and the environment; without PyYAML, which a bot can play without, the defaults."""
    try:
        return settings_file.load(environment=os.environ)
    except ModuleNotFoundError as error:
        logger.warning("no settings are read, as the package %s is not installed; defaults are used", error.name)
        root = os.environ.get(settings_file.ROOT_VARIABLE)
        return dataclasses.replace(Settings(), root=Path(root).expanduser().absolute()) if root else Settings()


def _learning_of_learner(paths: Paths) -> Mapping[str, Any]:
    """The settings of learning of the learner that runs on this root, whose files and flags may differ; {} without one."""
    content = status.read(paths) or {}
    if not status.is_running(content, status.writer_is_gone(content), time.time()):
        return {}
    sections: Any = content.get("settings")
    learning = sections.get("learning") if isinstance(sections, Mapping) else None
    return learning if isinstance(learning, Mapping) else {}


def _warn_of_other_settings(learning_rate: float, gamma: float, settings: LearningSettings, running: Mapping[str, Any]) -> None:
    """Say where the background learner's values come from, if the caller has given others.

    Args:
        settings: what a learner would use that is started with this process's settings.
        running: what the present learner uses; empty without one.
    """
    for name, given, own in (("learning_rate", learning_rate, LEARNING_RATE), ("gamma", gamma, GAMMA)):
        used = running.get(name)
        used = used if isinstance(used, (int, float)) else getattr(settings, name)
        if given not in (own, used):
            where = f"LOCAL_TRAINING_LEARNING_{name.upper()}, or learning.{name} of BackgroundParallelLearner(settings=...)"
            where += " or of the learner's --config"
            logger.warning(
                "RLAgent(%s=%g) is for train_from_batch only; the background learner uses %g. To change that, set %s",
                *(name, given, used, where),
            )
