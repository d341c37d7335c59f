"""One update: a batch of episodes makes the next training state from the last one, the same bits every time."""

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
    """What one update saw and did."""

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
    """How far one new episode moved the policy, in nats; the mean over the batch."""
    clipped_share: float = 0.0
    """Share of the steps whose gradient the clip took away."""
    gradient_norm: float = 0.0
    """Mean length of the policy's gradient before it was shortened."""
    learning_rate: float = 0.0
    staleness_versions: float = 0.0
    """Mean lag of the new episodes that record their policy version."""
    explained_variance: float = 0.0
    """How well the value network knew the returns beforehand: 1 perfectly, 0 not at all."""
    epochs: float = 0.0
    """How often each step was gone through, the mean over the batch."""
    replayed_games: int = 0
    replayed_steps: int = 0
    """Old steps that joined, each as often as it did."""
    plain_games: int = 0
    """New episodes without log-probabilities."""
    refused: str = ""
    """What was thrown away, and why; empty when nothing was."""
    refused_games: tuple[int, ...] = ()
    """Which of the new episodes taught nothing, counted from 0."""


def learn(
    state: TrainingState,
    episodes: Sequence[Episode],
    settings: LearningSettings,
    version: int,
    recent: Sequence[Episode] = (),
) -> tuple[TrainingState, BatchReport]:
    """Make the next training state from a batch of episodes, one update per episode in their order.

    A pure function: the same arguments give the same bits. A update per episode, so that the number of gradient steps
    does not depend on how files happened to fall into batches. Episodes that record log-probabilities are gone through
    several times with importance weights, together with old ones; the others once, as plain REINFORCE with a baseline.

    Args:
        state: the state of version `version - 1`; it is not changed.
        episodes: the new episodes in their order, at least one.
        settings: how to learn.
        version: the version that the new state will be committed as.
        recent: the newest episodes already trained on, oldest first; those that `replayed` picks join in.

    Returns:
        The new state, and what happened. A update that is not sound (see `soundness`) leaves the state as it was
        before it but for the counters, and the report says so in `refused`.

    Raises:
        EpisodeError: an episode of another game than the model's (see `batch.check_fits`).
    """
    assert episodes, "a batch holds at least one episode"
    for episode in episodes:
        batches.check_fits(episode, state.state_width, state.actions)
    # What was refused when it was new must not come in by the back door, among the old ones.
    history = [old for old in recent if not rewards_jump(state, old, settings)]
    totals, refused = UpdateTotals(), {}
    for number, episode in enumerate(episodes):
        trouble = rewards_jump(state, episode, settings)
        if not trouble:
            old = replayed(episode, history, settings)
            with np.errstate(all="ignore"):  # what overflows is found by the check of the result
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
    """Which of the newest trained episodes join the update of a new one, oldest first.

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


def trouble_of(following: TrainingState, counted: UpdateTotals, settings: LearningSettings) -> str:
    """Why the result of a update must not be gone on from; empty if it may."""
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
