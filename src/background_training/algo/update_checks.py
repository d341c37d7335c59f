"""Whether a lesson may change the model: its numbers are finite, and neither its rewards nor its result jump."""

from __future__ import annotations

import math

import numpy as np

from background_training.algo import training_state
from background_training.algo.ppo_update import Tally
from background_training.algo.training_state import TrainingState
from background_training.episodes.episode import Episode
from background_training.settings import LearningSettings

EPISODES_UNTIL_USUAL = 10
"""Before so many, nothing is known of what is usual."""


def rewards_jump(state: TrainingState, episode: Episode, settings: LearningSettings) -> str:
    """Why an episode's rewards are in other units than all that was learnt from so far; empty if they are not.

    Wanted: max |reward| <= reject_reward_ratio * the largest |return-to-go| ever seen. Returns are normalised over the newest
    20,000 steps, so any scale is learnt from; but one episode in units a million times larger would make all others
    look like nothing for as long. Before ten episodes, or while all returns were 0, nothing is refused.
    """
    largest = float(max(abs(state.returns.lowest[0]), abs(state.returns.highest[0])))
    if settings.reject_reward_ratio == 0.0 or largest == 0.0 or state.episodes < EPISODES_UNTIL_USUAL:
        return ""
    reward = float(np.abs(episode.rewards).max())
    if reward <= settings.reject_reward_ratio * largest:
        return ""
    return "a reward was more than learning.reject_reward_ratio times the largest return so far"


def trouble_of(following: TrainingState, counted: Tally, settings: LearningSettings) -> str:
    """Why the result of a lesson must not be gone on from; empty if it may."""
    if not training_state.is_finite(following) or not math.isfinite(counted.surrogate + counted.value_loss):
        return "a number would have become infinite or NaN"
    if not counted.kl <= settings.reject_update_kl:
        return "the policy would have changed by more than learning.reject_update_kl"
    if weights_explode(following, settings):
        return "a weight would have become larger than learning.reject_update_weight"
    return ""


def weights_explode(state: TrainingState, settings: LearningSettings) -> bool:
    """Whether a weight of a network is beyond all measure."""
    largest = max(float(np.abs(part.weights).max()) for part in (state.actor, state.critic))
    return largest > settings.reject_update_weight
