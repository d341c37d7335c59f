"""A wrapper of vector envs that deposits an episode file for every episode their envs have played."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from background_training.envs.batched_policy import BatchedChoice, BatchedPolicy
from background_training.envs.game_actions import GameActions
from background_training.episodes.outbox import Outbox
from background_training.errors import SettingsError
from background_training.paths import Paths
from background_training.plain_values import one_number, truth_values
from background_training.spaces import ActionSpace

Array = npt.NDArray[Any]


class EpisodeStream:
    """Collects one env's steps and splits them into episodes and segments."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Drop all steps and begin a new episode."""
        self._id = uuid.uuid4().hex
        self._segment = 0
        self._clear()

    def _clear(self) -> None:
        self._states: list[Array] = []
        self._actions: list[Any] = []
        self._rewards: list[float] = []
        self._log_probs: list[float | None] = []
        self._masks: list[Array | None] = []
        self._version: int | None = None

    def __len__(self) -> int:
        return len(self._actions)

    @property
    def total_reward(self) -> float:
        return sum(self._rewards)

    def add(
        self, state: Array, action: Any, reward: float, log_prob: float | None, mask: Array | None, version: int | None
    ) -> None:
        """Add a step that really happened."""
        if not self._actions:
            self._version = version  # the oldest that played; otherwise staleness would be understated
        self._states.append(state)
        self._actions.append(action)
        self._rewards.append(reward)
        self._log_probs.append(log_prob)
        self._masks.append(mask)

    def take(self, *, terminated: bool, final_state: Array | None, space: ActionSpace, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The steps so far as the arrays of an episode file; the stream continues with the next segment.

        Args:
            terminated: whether the game itself has ended.
            final_state: after the last step; needed unless terminated.
            space: what was chosen among.
            meta: further facts.
        """
        arrays: dict[str, Any] = {
            "states": np.stack(self._states),
            "actions": space.recorded(self._actions),
            "rewards": np.array(self._rewards, np.float32),
            "terminated": np.array(terminated),
            "episode_id": np.array(f"{self._id}-{self._segment}"),
            "meta": {**space.meta, "segment": self._segment, **meta},
        }
        if all(value is not None for value in self._log_probs):
            arrays["log_probs"] = np.array(self._log_probs, np.float32)
        if self._version is not None:
            arrays["policy_version"] = np.array(self._version, np.int64)
        if any(mask is not None for mask in self._masks):
            arrays["action_mask"] = np.array([np.ones(space.outputs, bool) if mask is None else mask for mask in self._masks])
        if final_state is not None:
            arrays["final_state"] = final_state
        self._segment += 1
        self._clear()
        return arrays


ResultOf = Callable[[str, float], str]

CUT_EPISODES = ("truncate", "drop")


def result_in_a_word(ending: str, episode_return: float) -> str:
    """The default result in a file's name: how the episode ended."""
    return ending.capitalize()


class EpisodeRecorder(VectorWrapper[Any, Any, Any, Any, Any]):
    """Records the episodes of the envs of any vector env, in any autoreset mode.

    Every recorded step really happened; the step of an autoreset is not recorded, nor is a row with `worker_restarted`. An
    episode that such a row cuts ends with its last real step. States, actions and rewards are those at this place in a stack
    of wrappers: record below wrappers that normalise if the learner should get raw numbers.

    Attributes:
        outbox: holds the episodes that could not be written yet.
        episodes: files made so far.

    Example: `choice = recorder.choose(policy, observations)`, then `recorder.step(choice.actions)`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        paths: Paths,
        *,
        segment_steps: int = 0,
        cut_episodes: str = "truncate",
        durable: bool = True,
        meta: Mapping[str, Any] | None = None,
        result_of: ResultOf = result_in_a_word,
    ) -> None:
        """Record `env` into the buffer of `paths`.

        Args:
            env: its observations must be one array per env, its actions of a kind that can be learnt.
            paths: of the root whose learner is to train on the episodes.
            segment_steps: longer episodes are delivered in segments of this many steps; 0: whole.
            cut_episodes: what becomes of episodes cut by a lost worker, by `reset` or `close`: "truncate" records them
                up to the last real step, "drop" discards them.
            durable: whether a file survives a power cut from the moment it exists.
            meta: added to every file's meta, e.g. {"game": "CartPole-v1"}.
            result_of: (ending, return) to the result in name and meta; ending: terminated, truncated, segment or cut.

        Raises:
            SettingsError: an unknown value of `cut_episodes`.
            TypeError: the env's spaces don't fit an episode file.
        """
        super().__init__(env)
        if cut_episodes not in CUT_EPISODES:
            raise SettingsError(
                "cut_episodes", cut_episodes, "one of " + ", ".join(CUT_EPISODES) + " is needed", "EpisodeRecorder"
            )
        try:
            self._actions = GameActions(env.single_action_space)
        except ValueError as error:
            raise TypeError(str(error)) from None
        if isinstance(env.single_observation_space, (spaces.Dict, spaces.Tuple)) or env.single_observation_space.shape is None:
            raise TypeError(f"the observation space is {env.single_observation_space}; an episode file needs one array")
        self.outbox = Outbox(paths, durable=durable)
        self.episodes = 0
        self._segment_steps = segment_steps
        self._drops_cut = cut_episodes == "drop"
        self._meta = dict(meta or {})
        self._result_of = result_of
        self._mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._streams = [EpisodeStream() for _ in range(env.num_envs)]
        self._between = np.ones(env.num_envs, bool)
        self._states: Array | None = None
        self._choice: BatchedChoice | None = None

    # --- choosing

    def choose(
        self, policy: BatchedPolicy, observations: Any, masks: Array | None = None, *, greedy: bool = False
    ) -> BatchedChoice:
        """Choose actions in one forward pass, and remember how likely they were for the next step."""
        choice = policy.choose(observations, masks, greedy=greedy)
        self.remember(choice)
        return choice

    def remember(self, choice: BatchedChoice) -> None:
        """Record how the actions of the next step were chosen, for callers with a policy of their own.

        Raises:
            EpisodeError: the masks hold anything but truth values.
        """
        # Checked here: in `step` the results of a step that was played would be lost.
        self._choice = choice if choice.masks is None else choice._replace(masks=truth_values(choice.masks))

    def to_game(self, actions: Array) -> Any:
        """Chosen actions [N] or [N, D] as the envs take them, for games that shape them, or do not count from 0."""
        return np.array([self._actions.to_game(action) for action in actions])

    # --- playing

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; episodes that were under way are cut."""
        mask = None if options is None else options.get("reset_mask")
        chosen = np.ones(self.num_envs, bool) if mask is None else np.array(mask, bool)
        before = self._states
        observations, infos = self.env.reset(seed=seed, options=options)
        self._states = np.array(observations)
        for index in np.flatnonzero(chosen).tolist():
            if before is not None:
                self._cut(index, before[index], "reset")
            self._begin(index)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and record what happened."""
        results = self.env.step(actions)
        observations, rewards, terminations, truncations, infos = results
        before, after = self._states, np.array(observations)
        assert before is not None, "step was called before reset"
        restarted = infos.get("worker_restarted")
        for index in range(self.num_envs):
            if restarted is not None and restarted[index]:
                self._after_restart(index, before[index])
            elif self._between[index]:
                # NEXT_STEP: this step was the reset. DISABLED: nothing counts until the caller resets the env.
                if self._mode is AutoresetMode.NEXT_STEP:
                    self._begin(index)
            else:
                self._add(index, before[index], self._actions.from_game(actions[index]), one_number(rewards[index]))
                self._end(index, after[index], bool(terminations[index]), bool(truncations[index]), infos)
        self._states, self._choice = after, None
        return results

    def _begin(self, index: int) -> None:
        self._streams[index].begin()
        self._between[index] = False

    def _after_restart(self, index: int, state: Array) -> None:
        self._cut(index, state, "worker restarted")
        self._streams[index].begin()
        self._between[index] = self._mode is not AutoresetMode.SAME_STEP

    def _add(self, index: int, state: Array, action: Any, reward: float) -> None:
        choice = self._choice
        if choice is not None and not np.array_equal(choice.actions[index], action):
            choice = None  # another action was played than was chosen
        log_prob = None if choice is None else float(choice.log_probs[index])
        mask = None if choice is None or choice.masks is None else np.array(choice.masks[index])
        version = None if choice is None else int(choice.policy_versions[index])
        self._streams[index].add(state, action, reward, log_prob, mask, version)

    def _end(self, index: int, after: Array, terminated: bool, truncated: bool, infos: dict[str, Any]) -> None:
        if terminated or truncated:
            final = infos["final_obs"][index] if self._mode is AutoresetMode.SAME_STEP else after
            self._deliver(index, "terminated" if terminated else "truncated", np.array(final), terminated=terminated)
            self._streams[index].begin()
            self._between[index] = self._mode is not AutoresetMode.SAME_STEP
        elif 0 < self._segment_steps <= len(self._streams[index]):
            self._deliver(index, "segment", after, terminated=False)

    def _cut(self, index: int, last_state: Array, cause: str) -> None:
        """The step after `last_state` never happened: that state is the last one."""
        if len(self._streams[index]) and not self._between[index] and not self._drops_cut:
            self._deliver(index, "cut", last_state, terminated=False, cause=cause)

    def _deliver(self, index: int, ending: str, final_state: Array, *, terminated: bool, **more: Any) -> None:
        stream = self._streams[index]
        episode_return = stream.total_reward
        result = self._result_of(ending, episode_return)
        meta = {**self._meta, "result": result, "ending": ending, "env": index, **more}
        arrays = stream.take(terminated=terminated, final_state=final_state, space=self._actions.space, meta=meta)
        self.outbox.deposit(arrays, result)
        self.episodes += 1

    def close(self, **kwargs: Any) -> None:
        """Cut the episodes under way, then close the envs."""
        if self._states is not None:
            for index in range(self.num_envs):
                self._cut(index, self._states[index], "closed")
            self._states = None
        super().close(**kwargs)
