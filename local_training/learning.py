"""One update: a batch of episodes makes the next training state from the last one, the same bits every time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from local_training import batch as batches
from local_training import normaliser, optimizer, policy, reinforce, training_state
from local_training.batch import Batch
from local_training.episode import Episode
from local_training.policy import Network
from local_training.settings import LearningSettings
from local_training.training_state import Trainable, TrainingState, from_arrays, new_state, to_arrays

__all__ = ["BatchReport", "TrainingState", "from_arrays", "learn", "new_state", "to_arrays"]

Array = npt.NDArray[Any]

PART_STEPS = 256
"""Gradients are made over parts of so many steps and added in order, so that several processes can share one."""

RETURNS_MEMORY = 20_000.0
"""Steps after which old returns fade: a policy that gets better earns other returns than it used to."""


@dataclass(frozen=True)
class BatchReport:
    """What one update saw and did. Means are over steps, those of games over the new episodes."""

    version: int
    games: int
    steps: int
    mean_return: float
    mean_length: float
    loss: float = 0.0
    policy_loss: float = 0.0
    value_loss: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    clipped_share: float = 0.0
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    staleness_versions: float = 0.0
    explained_variance: float = 0.0
    epochs: int = 0
    replayed_games: int = 0
    replayed_steps: int = 0
    plain_games: int = 0
    """New episodes without log-probabilities."""
    refused: str = ""
    """Why the update was thrown away; empty when it was not."""


def learn(
    state: TrainingState,
    episodes: Sequence[Episode],
    settings: LearningSettings,
    version: int,
    recent: Sequence[Episode] = (),
) -> tuple[TrainingState, BatchReport]:
    """Make the next training state from a batch of episodes.

    A pure function: the same arguments give the same bits. Episodes that record log-probabilities are gone through
    several times with importance weights (PPO); the others once, as plain REINFORCE with a baseline.

    Args:
        state: the state of version `version - 1`; it is not changed.
        episodes: the new episodes in their order, at least one.
        settings: how to learn.
        version: the version that the new state will be committed as.
        recent: the newest episodes already trained on, oldest first; those that `replayed` picks join the batch.

    Returns:
        The new state, and what happened. An update that would make a number infinite or NaN leaves the state as it
        is but for its counters, and the report says so in `refused`.

    Raises:
        EpisodeError: an episode of another game than the model's (see `batch.check_fits`).
    """
    assert episodes, "a batch holds at least one episode"
    for episode in episodes:
        batches.check_fits(episode, state.state_width, state.action_count)
    with np.errstate(all="ignore"):  # what overflows is found by the check of the result, and refused as a whole
        work = _Update(_with_batch_seen(state, episodes, settings, version), settings, version)
        work.train_all(episodes, replayed(episodes, recent, settings))
        trained = work.result()
    report = _report(work, episodes, version)
    if not training_state.is_finite(trained) or not math.isfinite(report.loss):
        report = dataclasses.replace(_report(None, episodes, version), refused="the update made a number infinite or NaN")
        trained = dataclasses.replace(state, refused_updates=state.refused_updates + 1)
    counted = dataclasses.replace(
        trained,
        updates=state.updates + 1,
        episodes=state.episodes + len(episodes),
        steps=state.steps + report.steps,
    )
    return counted, report


def replayed(episodes: Sequence[Episode], recent: Sequence[Episode], settings: LearningSettings) -> list[Episode]:
    """Which of the newest trained episodes join a batch again, oldest first.

    The newest `replay_episodes` that record log-probabilities and fit, from the newest backwards as long as they hold
    at most `replay_ratio` steps per new step, and `replay_steps` in all. So the work per new step is bounded, and the
    same however episodes fall into batches. None when the new episodes record no log-probabilities.
    """
    if settings.replay_episodes == 0 or all(episode.log_probs is None for episode in episodes):
        return []
    new_steps = sum(episode.steps for episode in episodes)
    room = min(settings.replay_steps, int(settings.replay_ratio * new_steps))
    chosen: list[Episode] = []
    for episode in reversed(recent[-settings.replay_episodes :]):
        if episode.steps > room:
            break
        if episode.log_probs is not None and episode.state_width == episodes[0].state_width:
            chosen.append(episode)
            room -= episode.steps
    return chosen[::-1]


def _with_batch_seen(
    state: TrainingState, episodes: Sequence[Episode], settings: LearningSettings, version: int
) -> TrainingState:
    """The state with the batch's observations and returns in its normalisers; the critic's predictions stay."""
    batch = batches.of_episodes(episodes, version - 1, state.action_count)
    seen = dataclasses.replace(
        state, observations=normaliser.merged(state.observations, normaliser.of_rows(batch.states))
    )
    final_values = _final_values(seen, batch)
    returns = reinforce.returns_to_go(batch.rewards, settings.gamma, batch.lengths, final_values)
    merged = normaliser.merged(state.returns, normaliser.of_rows(returns[:, None]))
    seen = dataclasses.replace(seen, returns=normaliser.faded(merged, RETURNS_MEMORY))
    return seen if state.returns.count == 0 else _with_critic_in_units(seen, state.returns)


def _units(returns: normaliser.Normaliser) -> tuple[float, float]:
    """Mean and scale of returns; the scale is 1 where they have always been the same."""
    deviation = math.sqrt(float(returns.variance[0]))
    mean = float(returns.mean[0])
    return mean, deviation if deviation > 1e-6 * abs(mean) and deviation > 0.0 else max(abs(mean), 1e-6)


def _with_critic_in_units(state: TrainingState, former: normaliser.Normaliser) -> TrainingState:
    """The state whose critic predicts in the new units what it predicted in the former ones.

    Source: van Hasselt et al. 2016 (Pop-Art), eq. 5.
    """
    old_mean, old_scale = _units(former)
    new_mean, new_scale = _units(state.returns)
    critic = state.critic.copied()
    network = state.critic_network(critic.weights)
    network.W3[...] *= old_scale / new_scale
    network.b3[...] = (old_mean - new_mean + old_scale * network.b3.astype(np.float64)) / new_scale
    return dataclasses.replace(state, critic=critic)


def _values(state: TrainingState, scaled_states: Array, network: Network | None = None) -> Array:
    """What the critic expects from scaled states [T, S], in the game's units, [T] float64."""
    mean, scale = _units(state.returns)
    outputs = policy.forward(network or state.critic_network(), scaled_states).outputs[:, 0]
    return np.asarray(mean + scale * outputs.astype(np.float64)) if state.returns.count else np.zeros(len(outputs))


def _final_values(state: TrainingState, batch: Batch) -> Array:
    values = _values(state, state.observations.scaled(batch.final_states))
    return np.where(batch.terminated, 0.0, values)


class _Update:
    """The weights on their way through one update, and what it counts; the state it began with stays as it is."""

    def __init__(self, begun: TrainingState, settings: LearningSettings, version: int) -> None:
        self.begun = begun
        self.settings = settings
        self.version = version
        self.rng = np.random.Generator(np.random.PCG64([settings.seed, version]))
        self.actor = begun.actor.copied()
        self.critic = begun.critic.copied()
        self.advantages = begun.advantages
        self.sums = dict.fromkeys(("policy", "value", "entropy", "clipped", "norm"), 0.0)
        self.samples = 0
        self.minibatches = 0
        self.epochs = 0
        self.kl = 0.0
        self.explained_variance = 0.0
        self.replayed_games = 0
        self.replayed_steps = 0

    def train_all(self, episodes: Sequence[Episode], old: Sequence[Episode]) -> None:
        """Train on the episodes without log-probabilities, then on the others together with old ones."""
        plain = [episode for episode in episodes if episode.log_probs is None]
        recorded = [episode for episode in episodes if episode.log_probs is not None]
        self.replayed_games, self.replayed_steps = len(old), sum(episode.steps for episode in old)
        if plain:
            self.train(batches.of_episodes(plain, self.version - 1, self.begun.action_count), epochs=1, trace=1.0)
        if recorded:
            batch = batches.of_episodes([*old, *recorded], self.version - 1, self.begun.action_count)
            self.train(batch, epochs=self.settings.epochs, trace=self.settings.trace)

    def train(self, batch: Batch, epochs: int, trace: float) -> None:
        """Go through a batch up to `epochs` times, fewer when the policy has changed enough."""
        lesson = self._lesson(batch, trace)
        for _ in range(epochs):
            for rows in self._minibatches(batch.steps):
                self._step(lesson, rows)
            self.epochs += 1
            self.kl = reinforce.kl_divergence(lesson.log_pi, self._log_pi(lesson.states, batch.mask))
            if not self.kl <= self.settings.kl_limit:
                break

    def result(self) -> TrainingState:
        """The state with the trained weights, and the policy made from them."""
        begun, observations = self.begun, self.begun.observations
        published = policy.folded(begun.actor_network(self.actor.weights), observations.mean, observations.inverse_scale)
        return dataclasses.replace(
            begun, policy=published, actor=self.actor, critic=self.critic, advantages=self.advantages
        )

    def _lesson(self, batch: Batch, trace: float) -> _Lesson:
        settings = self.settings
        states = self.begun.observations.scaled(batch.states)
        critic = self.begun.critic_network(self.critic.weights)
        values = _values(self.begun, states, critic)
        advantages = reinforce.gae(batch.rewards, values, batch.lengths, _final_values(self.begun, batch), settings.gamma, trace)
        mean, scale = _units(self.begun.returns)
        targets = advantages + values
        self.explained_variance = reinforce.explained_variance(values, targets)
        log_pi = self._log_pi(states, batch.mask)
        old_log_probs = log_pi[np.arange(batch.steps), batch.actions]
        weights = batch.per_step(reinforce.staleness_weights(batch.lags, settings.staleness_half_life))
        if batch.behaviour_log_probs is not None:
            weights = weights * reinforce.importance_weights(old_log_probs, batch.behaviour_log_probs, settings.largest_weight)
        return _Lesson(
            states=states,
            actions=batch.actions,
            mask=batch.mask,
            log_pi=log_pi,
            old_log_probs=old_log_probs,
            advantages=(self._scaled(advantages / scale) * weights).astype(np.float32),
            targets=((targets - mean) / scale).astype(np.float32),
        )

    def _scaled(self, advantages: Array) -> Array:
        """Advantages in units of their usual size: a small batch's own mean and spread say too little."""
        merged = normaliser.merged(self.advantages, normaliser.of_rows(advantages[:, None]))
        self.advantages = normaliser.faded(merged, RETURNS_MEMORY)
        usual = math.sqrt(float(self.advantages.variance[0] + self.advantages.mean[0] ** 2))
        return advantages / usual if usual > 1e-8 else advantages

    def _log_pi(self, states: Array, mask: Array | None) -> Array:
        network = self.begun.actor_network(self.actor.weights)
        return policy.log_softmax(policy.forward(network, states).outputs, mask)

    def _minibatches(self, steps: int) -> Iterator[Array]:
        """Row numbers of minibatches of about equal size, in an order that only seed and version decide."""
        order = self.rng.permutation(steps)
        yield from np.array_split(order, math.ceil(steps / self.settings.minibatch_steps))

    def _step(self, lesson: _Lesson, rows: Array) -> None:
        actor_gradient = np.zeros_like(self.actor.weights)
        critic_gradient = np.zeros_like(self.critic.weights)
        for start in range(0, len(rows), PART_STEPS):
            self._add_part(lesson, rows[start : start + PART_STEPS], actor_gradient, critic_gradient)
        actor_gradient /= len(rows)
        critic_gradient /= len(rows)
        self.sums["norm"] += optimizer.clip(actor_gradient, self.settings.gradient_norm)
        optimizer.clip(critic_gradient, self.settings.gradient_norm)
        self.actor = _stepped(self.actor, actor_gradient, self.settings.learning_rate)
        self.critic = _stepped(self.critic, critic_gradient, self.settings.learning_rate)
        self.samples += len(rows)
        self.minibatches += 1

    def _add_part(self, lesson: _Lesson, rows: Array, actor_gradient: Array, critic_gradient: Array) -> None:
        states = lesson.states[rows]
        mask = None if lesson.mask is None else lesson.mask[rows]
        actor, critic = self.begun.actor_network(self.actor.weights), self.begun.critic_network(self.critic.weights)
        acted, valued = policy.forward(actor, states), policy.forward(critic, states)
        loss = reinforce.policy_loss(
            acted.outputs,
            lesson.actions[rows],
            lesson.advantages[rows],
            lesson.old_log_probs[rows],
            mask,
            self.settings.clip,
            self.settings.entropy,
        )
        value_loss, errors = reinforce.value_loss(valued.outputs[:, 0], lesson.targets[rows])
        policy.backward(actor, states, acted, loss.gradient, self.begun.actor_network(actor_gradient))
        policy.backward(critic, states, valued, errors[:, None], self.begun.critic_network(critic_gradient))
        for name, value in zip(self.sums, (loss.surrogate, value_loss, loss.entropy, loss.clipped), strict=False):
            self.sums[name] += value


@dataclass(frozen=True)
class _Lesson:
    """What the gradient steps of one update read; nothing of it changes while they run."""

    states: Array
    """[T, S] float32, scaled."""
    actions: Array
    mask: Array | None
    log_pi: Array
    """[T, A], of the policy before the update."""
    old_log_probs: Array
    """[T], of the actions."""
    advantages: Array
    """[T] float32, scaled, times importance and staleness weight."""
    targets: Array
    """[T] float32, returns in units of the critic."""


def _stepped(trainable: Trainable, gradient: Array, learning_rate: float) -> Trainable:
    return Trainable(trainable.weights, optimizer.adam(trainable.weights, gradient, trainable.moments, learning_rate))


def _report(work: _Update | None, episodes: Sequence[Episode], version: int) -> BatchReport:
    steps = sum(episode.steps for episode in episodes)
    lags = [max(version - 1 - episode.policy_version, 0) for episode in episodes if episode.policy_version is not None]
    report = BatchReport(
        version=version,
        games=len(episodes),
        steps=steps,
        mean_return=math.fsum(episode.episode_return for episode in episodes) / len(episodes),
        mean_length=steps / len(episodes),
        staleness_versions=sum(lags) / max(len(lags), 1),
        plain_games=sum(episode.log_probs is None for episode in episodes),
    )
    if work is None:
        return report
    mean = {name: total / work.samples for name, total in work.sums.items()}
    return dataclasses.replace(
        report,
        loss=mean["policy"] + mean["value"] - work.settings.entropy * mean["entropy"],
        policy_loss=mean["policy"],
        value_loss=mean["value"],
        entropy=mean["entropy"],
        kl=work.kl,
        clipped_share=mean["clipped"],
        gradient_norm=work.sums["norm"] / work.minibatches,
        learning_rate=work.settings.learning_rate,
        explained_variance=work.explained_variance,
        epochs=work.epochs,
        replayed_games=work.replayed_games,
        replayed_steps=work.replayed_steps,
    )
