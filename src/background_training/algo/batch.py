"""The input of one update: concatenated episodes with their metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from background_training.episodes.episode import Episode
from background_training.errors import EpisodeError
from background_training.spaces.action_space import ActionSpace
from background_training.spaces.discrete import Discrete

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Letters: T steps of all N episodes together, S features, A outputs of the policy, D numbers in an action."""

    states: Array
    """[T, S] float32, raw."""
    actions: Array
    """[T] int64, or [T, D] for other kinds of actions than Discrete"""
    rewards: Array
    """[T] float32"""
    behaviour_log_probs: Array | None
    """[T] float32; None when the episodes do not record them."""
    mask: Array | None
    """[T, A] bool, or None when every action is always legal."""
    lengths: Array
    """[N] int64, steps of each episode."""
    final_states: Array
    """[N, S] float32, raw, the state after the last step; the last state where the file does not record it."""
    terminated: Array
    """[N] bool, whether the game was over."""
    lags: Array
    """[N] int64, versions between the policy that played and the one being trained."""

    @property
    def steps(self) -> int:
        """T"""
        return len(self.actions)

    def per_step(self, values: Array) -> Array:
        """One value per episode [N], repeated for each of its steps [T]."""
        return np.repeat(values, self.lengths)


def check_fits(episode: Episode, state_width: int, actions: ActionSpace) -> None:
    """Reject an episode that does not fit the model.

    Raises:
        EpisodeError: with the reason "wrong-width", "wrong-action-kind", "action-out-of-range" or "wrong-shape" (of the
            actions or the mask).
    """
    if episode.state_width != state_width:
        raise EpisodeError("wrong-width", f"a state holds {episode.state_width} numbers", f"the model takes {state_width}")
    declared = episode.action_space or Discrete(1 + int(episode.actions.max()))
    if declared.kind != actions.kind:
        raise EpisodeError("wrong-action-kind", f"it holds {declared.words}", f"the model chooses {actions.words}")
    try:
        actions.checked(episode.actions, episode.steps)
        if episode.action_mask is not None:
            actions.check_legal(episode.action_mask, episode.actions)
    except EpisodeError as error:
        raise EpisodeError(error.reason, error.found, f"the model chooses {actions.words}") from None


def of_episodes(episodes: Sequence[Episode], trained_version: int, outputs: int) -> Batch:
    """Concatenate episodes; log-probabilities are used only if all record them.

    Args:
        trained_version: version of the policy that will be trained; lags count from it.
        outputs: A, of the policy.
    """
    recorded = [episode.log_probs for episode in episodes]
    played = [trained_version if episode.policy_version is None else episode.policy_version for episode in episodes]
    return Batch(
        states=np.concatenate([episode.states for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        behaviour_log_probs=None if any(part is None for part in recorded) else np.concatenate(recorded),  # type: ignore[arg-type]
        mask=_masks(episodes, outputs),
        lengths=np.array([episode.steps for episode in episodes], np.int64),
        final_states=np.stack([_after_last_step(episode) for episode in episodes]),
        terminated=np.array([episode.terminated for episode in episodes], bool),
        lags=np.maximum(trained_version - np.array(played, np.int64), 0),
    )


def _after_last_step(episode: Episode) -> Array:
    return np.asarray(episode.states[-1] if episode.final_state is None else episode.final_state)


def _masks(episodes: Sequence[Episode], outputs: int) -> Array | None:
    if all(episode.action_mask is None for episode in episodes):
        return None
    everything = [
        np.ones((episode.steps, outputs), bool) if episode.action_mask is None else episode.action_mask for episode in episodes
    ]
    return np.concatenate(everything)
