"""Record the episode that is being played, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.episodes import episode
from background_training.errors import EpisodeError
from background_training.settings import LimitSettings
from background_training.spaces.action_space import ActionSpace, Choice

Array = npt.NDArray[Any]

_LARGEST, _WIDEST = LimitSettings().max_magnitude, LimitSettings().max_state_width


class Recording:
    """Collects the steps of one game; a reward belongs to the preceding action.

    Attributes:
        faults: invalid data by step; a game with faults is not saved.
    """

    def __init__(self) -> None:
        self.states: list[Array] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self._log_probs: list[float] = []
        self._masks: list[Array | None] = []
        self._policy_version = 0
        self.faults: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def episode_return(self) -> float:
        return math.fsum(self.rewards)

    def add_step(self, state: Array, choice: Choice, mask: Array | None, policy_version: int) -> None:
        """Add a step; `state` is [S], as `recorded_state` returns it."""
        if not self.actions:
            self._policy_version = policy_version
        self.states.append(state)
        self.actions.append(choice.action)
        self.rewards.append(0.0)
        self._log_probs.append(choice.log_prob)
        self._masks.append(mask)

    def mark_fault(self, found: str) -> None:
        """Record that the newest step's data are invalid."""
        self.faults.setdefault(max(len(self.actions) - 1, 0), found)

    def forget_last_step(self) -> None:
        """Remove the newest step with its rewards and faults."""
        for steps in (self.states, self.actions, self.rewards, self._log_probs, self._masks):
            steps.pop()
        self.faults.pop(len(self.actions), None)

    def add_reward(self, reward: float, name: str = "the reward") -> None:
        """Credit the newest action.

        Raises:
            EpisodeError: there is no action yet, or the reward is no number that an episode file may hold.
        """
        if not math.isfinite(reward):
            raise EpisodeError("not-finite", f"{name} is {reward}", "a finite number is needed")
        if abs(reward) > _LARGEST:
            raise EpisodeError(
                "absurd-magnitude", f"{name} is {reward:g}", f"at most {_LARGEST:g} (limits.max_magnitude) is allowed"
            )
        if not self.actions:
            raise EpisodeError("no-action", "a reward came before the first action", "call get_action first")
        if abs(total := self.rewards[-1] + float(reward)) > _LARGEST:
            needed = f"at most {_LARGEST:g} (limits.max_magnitude) is allowed"
            raise EpisodeError("absurd-magnitude", f"the rewards of one step add up to {total:g}", needed)
        self.rewards[-1] = total

    def arrays(
        self,
        space: ActionSpace,
        action_names: Sequence[str],
        *,
        terminated: bool,
        final_state: Array | None,
        episode_id: str,
        meta: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The episode as the arrays of a file."""
        named = {"action_names": list(action_names)} if action_names else {}
        arrays: dict[str, Any] = {
            "states": _stacked(self.states),
            "actions": space.recorded(self.actions),
            "rewards": np.array(self.rewards, np.float32),
            "log_probs": np.array(self._log_probs, np.float32),
            "policy_version": np.array(self._policy_version, np.int64),
            "terminated": np.array(terminated),
            "meta": {**named, **space.meta, **meta},
        }
        if any(mask is not None for mask in self._masks):
            arrays["action_mask"] = np.array([np.ones(space.outputs, bool) if mask is None else mask for mask in self._masks])
        if final_state is not None:
            arrays["final_state"] = final_state
        if episode_id:
            arrays["episode_id"] = np.array(episode_id)
        return arrays


def _stacked(states: Sequence[Array]) -> Array:
    """[T, S]: uint8 if all states are, else float32."""
    pixels = [state.dtype == np.uint8 for state in states]
    if any(pixels) and not all(pixels):
        states = [episode.scaled_pixels(state) for state in states]
    return np.stack(states)


def recorded_state(state: Any, vector: Array) -> Array:
    """The form of a state in a file; `vector` is its `state_vector`. Pixels stay uint8, a quarter of the size."""
    raw = np.asarray(state)
    return raw.reshape(-1).copy() if raw.dtype == np.uint8 else vector


def state_vector(state: Any, names: Sequence[str] = ()) -> Array:
    """The state as [S] float32.

    Args:
        names: of the features, for messages, where they are known.

    Raises:
        EpisodeError: it is empty or invalid in an episode file; found now rather than at the end of the game.
    """
    try:
        raw = np.asarray(state)
        if raw.dtype == object and raw.ndim:
            raw = raw.astype(np.float64)  # None becomes NaN, Decimal a number
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; a tensor that needs a gradient or lies on a GPU
        raise EpisodeError("wrong-shape", f"the state is no array of numbers ({error})", "[S] numbers are needed") from None
    if raw.size > _WIDEST:
        found = f"the state holds {raw.size} numbers"
        raise EpisodeError("too-large", found, f"at most {_WIDEST} (limits.max_state_width) are allowed")
    if raw.dtype == np.uint8 and raw.size:
        return np.asarray(episode.scaled_pixels(raw.reshape(-1)))
    if raw.size == 0 or raw.dtype.kind not in "fiub":
        found = f"the state has shape {raw.shape} and type {raw.dtype}"
        raise EpisodeError("wrong-shape", found, "at least one number is needed")
    if not max(-float(raw.min()), float(raw.max())) <= _LARGEST:
        raise _unusable_features(raw.reshape(-1), names)
    return raw.reshape(-1).astype(np.float32, copy=True)


def _unusable_features(state: Array, names: Sequence[str]) -> EpisodeError:
    """Describe the invalid numbers of a state [S]: the first one and how many more."""
    with np.errstate(invalid="ignore"):
        bad = np.flatnonzero(~(np.abs(state.astype(np.float64)) <= _LARGEST))
    first = int(bad[0])
    name = f" ({names[first]})" if len(names) == len(state) else ""
    more = f", and {len(bad) - 1} more are unusable" if len(bad) > 1 else ""
    finite = bool(np.isfinite(state[first]))
    found = f"feature {first}{name} of the state is {float(state[first]):g}{more}"
    needed = f"finite numbers of size {_LARGEST:g} at most are needed"
    return EpisodeError("absurd-magnitude" if finite else "not-finite", found, needed)
