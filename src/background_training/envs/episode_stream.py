"""The steps of one env on their way to an episode file."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.spaces import ActionSpace

Array = npt.NDArray[Any]


class EpisodeStream:
    """Collects one env's steps and cuts them into episodes and segments."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget everything and begin a new episode."""
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
            self._version = version  # the oldest that played: staleness must not be understated
        self._states.append(state)
        self._actions.append(action)
        self._rewards.append(reward)
        self._log_probs.append(log_prob)
        self._masks.append(mask)

    def take(self, *, terminated: bool, final_state: Array | None, space: ActionSpace, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The steps so far as the arrays of an episode file; the stream goes on with the next segment.

        Args:
            terminated: whether the game itself has ended.
            final_state: after the last step; needed unless terminated.
            space: what was chosen among.
            meta: what else is worth knowing.
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
