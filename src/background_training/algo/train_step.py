"""One training step: a batch of episodes turns a training state into the next one, deterministically bit for bit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from background_training.algo import batch as batches
from background_training.algo import ppo_update, training_state
from background_training.algo.ppo_update import UpdateTotals
from background_training.algo.training_state import TrainingState, from_arrays, new_state, to_arrays
from background_training.episodes.episode import Episode
from background_training.settings import LearningSettings

__all__ = ["BatchReport", "TrainingState", "from_arrays", "learn", "new_state", "replayed", "to_arrays"]


@dataclass(frozen=True)
class BatchReport:
    """Statistics of one training step, as recorded in the manifest (`last_batch`)."""

    version: int
    """The version that was made."""
    games: int
    """New episodes."""
    steps: int
    """Their steps."""
    mean_return: float
    """Of the new episodes, undiscounted."""
    mean_length: float
    """Of the new episodes, in steps."""
    loss: float = 0.0
    """policy_loss + value_loss - entropy bonus."""
    policy_loss: float = 0.0
    """Mean per step of the clipped policy-gradient loss; its sign says nothing, as advantages have both."""
    value_loss: float = 0.0
    """Mean per step of the value network's squared error / 2, in units of the usual deviation of returns."""
    entropy: float = 0.0
    """Mean per step, in nats: log A for a policy that prefers nothing, 0 for one that is certain."""
    kl: float = 0.0
    """KL divergence in nats by the update of one new episode, the mean over the batch."""
    clipped_share: float = 0.0
    """Share of the steps whose gradient was clipped to 0."""
    gradient_norm: float = 0.0
    """Mean norm of the policy's gradient before clipping."""
    learning_rate: float = 0.0
    staleness_versions: float = 0.0
    """Mean lag of the new episodes that record their policy version."""
    explained_variance: float = 0.0
    """Explained variance of the value network before the update: 1 is perfect, 0 none."""
    epochs: float = 0.0
    """Mean number of epochs over the batch."""
    replayed_games: int = 0
    replayed_steps: int = 0
    """Replayed steps, counted once per update."""
    plain_games: int = 0
    """New episodes without log-probabilities."""
    refused: str = ""
    """Rejected updates and why; empty if none."""
    refused_games: tuple[int, ...] = ()
    """Indices of the new episodes whose updates were rejected."""


def learn(
    state: TrainingState,
    episodes: Sequence[Episode],
    settings: LearningSettings,
    version: int,
    recent: Sequence[Episode] = (),
) -> tuple[TrainingState, BatchReport]:
    """Make the next training state from a batch of episodes, with one PPO update per episode, in order.

    A pure function: the same arguments give the same bits. One update per episode makes the number of gradient
    steps independent of how files fall into batches. Episodes with log-probabilities are trained on for several epochs with
    importance weights, together with replayed ones; the others for one epoch, as REINFORCE with a baseline.

    Args:
        state: the state of version `version - 1`; it is not changed.
        episodes: the new episodes in their order, at least one.
        settings: how to learn.
        version: the version that the new state will be committed as.
        recent: the newest trained episodes, oldest first; `replayed` selects from them.

    Returns:
        The new state, and what happened. A update that is not sound (see `soundness`) leaves the state as it was
        before it but for the counters, and the report says so in `refused`.

    Raises:
        EpisodeError: an episode of another game than the model's (see `batch.check_fits`).
    """
    assert episodes, "a batch holds at least one episode"
    for episode in episodes:
        batches.check_fits(episode, state.state_width, state.actions)
    # An episode whose update was rejected must not be replayed either.
    history = [old for old in recent if not rewards_jump(state, old, settings)]
    totals, refused = UpdateTotals(), {}
    for number, episode in enumerate(episodes):
        trouble = rewards_jump(state, episode, settings)
        if not trouble:
            old = replayed(episode, history, settings)
            with np.errstate(all="ignore"):  # overflows are found by the check of the result
                following, counted = ppo_update.updated(state, episode, old, settings, version, number)
            trouble = trouble_of(following, counted, settings)
        if trouble:
            refused[number] = trouble
        else:
            state = following
            totals.add(counted)
            history.append(episode)
    report = _report(episodes, settings, version, totals, refused)
    return _counted(state, report), report


def replayed(episode: Episode, recent: Sequence[Episode], settings: LearningSettings) -> list[Episode]:
    """Select the trained episodes to replay with a new one, oldest first.

    From the newest backwards, as long as they hold at most `replay_ratio` steps per new step, and `replay_steps` in
    all, among the newest `replay_episodes`. So the work per new step is bounded. None when the new episode records no
    log-probabilities; an old one without them is passed over.
    """
    if settings.replay_episodes == 0 or episode.log_probs is None:
        return []
    room = min(settings.replay_steps, int(settings.replay_ratio * episode.steps))
    chosen: list[Episode] = []
    for old in reversed(recent[-settings.replay_episodes :]):
        if old.steps > room:
            break
        if old.log_probs is not None and old.state_width == episode.state_width:
            chosen.append(old)
            room -= old.steps
    return chosen[::-1]


def _counted(state: TrainingState, report: BatchReport) -> TrainingState:
    return dataclasses.replace(
        state,
        updates=state.updates + 1,
        episodes=state.episodes + report.games,
        steps=state.steps + report.steps,
        refused_updates=state.refused_updates + len(report.refused_games),
    )


def _report(
    episodes: Sequence[Episode], settings: LearningSettings, version: int, totals: UpdateTotals, refused: Mapping[int, str]
) -> BatchReport:
    steps = sum(episode.steps for episode in episodes)
    lags = [max(version - 1 - episode.policy_version, 0) for episode in episodes if episode.policy_version is not None]
    samples, updates = max(totals.samples, 1), max(totals.updates, 1)
    policy_loss, value_loss, entropy = totals.surrogate / samples, totals.value_loss / samples, totals.entropy / samples
    return BatchReport(
        version=version,
        games=len(episodes),
        steps=steps,
        mean_return=float(np.mean([episode.episode_return for episode in episodes])),
        mean_length=steps / len(episodes),
        loss=policy_loss + value_loss - settings.ent_coef * entropy,
        policy_loss=policy_loss,
        value_loss=value_loss,
        entropy=entropy,
        kl=totals.kl / updates,
        clipped_share=totals.clipped / samples,
        gradient_norm=totals.gradient_norm / max(totals.minibatches, 1),
        learning_rate=ppo_update.learning_rate(settings, version - 1),
        staleness_versions=sum(lags) / max(len(lags), 1),
        explained_variance=totals.explained_variance / updates,
        epochs=totals.epochs / updates,
        replayed_games=totals.replayed_games,
        replayed_steps=totals.replayed_steps,
        plain_games=sum(episode.log_probs is None for episode in episodes),
        refused=f"{len(refused)} of {len(episodes)} games: {'; '.join(sorted(set(refused.values())))}" if refused else "",
        refused_games=tuple(refused),
    )


EPISODES_UNTIL_USUAL = 10
"""Number of episodes before which no reward is rejected."""


def rewards_jump(state: TrainingState, episode: Episode, settings: LearningSettings) -> str:
    """Why an episode's rewards are of another magnitude than all before; empty if they are not.

    Required: max |reward| <= reject_reward_ratio * the largest |return-to-go| ever seen. Returns are normalised over the newest
    20,000 steps, so any scale works; but one episode in units a million times larger would dwarf all others
    for as long. Before ten episodes, or while all returns were 0, nothing is rejected.
    """
    largest = float(max(abs(state.returns.lowest[0]), abs(state.returns.highest[0])))
    if settings.reject_reward_ratio == 0.0 or largest == 0.0 or state.episodes < EPISODES_UNTIL_USUAL:
        return ""
    reward = float(np.abs(episode.rewards).max())
    if reward <= settings.reject_reward_ratio * largest:
        return ""
    return "a reward was more than learning.reject_reward_ratio times the largest return so far"


def trouble_of(following: TrainingState, counted: UpdateTotals, settings: LearningSettings) -> str:
    """Why the result of an update must be rejected; empty if it is sound. The texts are part of a version's bytes."""
    if not training_state.is_finite(following) or not math.isfinite(counted.surrogate + counted.value_loss):
        return "a number would have become infinite or NaN"
    if not counted.kl <= settings.reject_update_kl:
        return "the policy would have changed by more than learning.reject_update_kl"
    if weights_explode(following, settings):
        return "a weight would have become larger than learning.reject_update_weight"
    return ""


def weights_explode(state: TrainingState, settings: LearningSettings) -> bool:
    """Whether a weight of a network exceeds reject_update_weight."""
    largest = max(float(np.abs(part.weights).max()) for part in (state.actor, state.critic))
    return largest > settings.reject_update_weight
