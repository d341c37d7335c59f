"""One lesson: the gradient steps that one new episode, and old ones beside it, take the networks through."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from local_training import batch as batches
from local_training import normaliser, optimizer, policy, reinforce, yield_point
from local_training.batch import Batch
from local_training.episode import Episode
from local_training.normaliser import Normaliser
from local_training.policy import Network
from local_training.settings import LearningSettings
from local_training.training_state import Trainable, TrainingState

Array = npt.NDArray[Any]

PART_STEPS = 256
"""Gradients are made over parts of so many steps and added in order, so that several processes can share one."""

MEMORY_STEPS = 20_000.0
"""Steps after which old returns and advantages fade: a policy that gets better earns others than it used to."""


@dataclass
class Tally:
    """What lessons did, as sums, so that those of a batch can be added."""

    lessons: int = 0
    epochs: int = 0
    minibatches: int = 0
    samples: int = 0
    """Steps gone through, each as often as it was."""
    surrogate: float = 0.0
    value_loss: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    gradient_norm: float = 0.0
    kl: float = 0.0
    explained_variance: float = 0.0
    replayed_games: int = 0
    replayed_steps: int = 0

    def add(self, other: Tally) -> None:
        """Add another's sums to this one's."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True)
class Material:
    """What the gradient steps of one lesson read; nothing of it changes while they run."""

    states: Array
    """[T, S] float32, scaled."""
    actions: Array
    """[T] int64"""
    mask: Array | None
    """[T, A] bool"""
    log_pi: Array
    """[T, A], of the policy before the lesson."""
    behaviour_log_probs: Array
    """[T], of the actions, from the policy that played; from the one before the lesson where no file says."""
    advantages: Array
    """[T] float32, scaled, times staleness weight."""
    targets: Array
    """[T] float32, returns in units of the critic."""


def learnt(
    state: TrainingState, episode: Episode, old: Sequence[Episode], settings: LearningSettings, version: int, number: int
) -> tuple[TrainingState, Tally]:
    """The state after learning from one new episode, with old ones beside it; numbers may overflow.

    Args:
        old: trained episodes that join, each with log-probabilities; none beside an episode without.
        version: the version that will be committed; lags count from the one before it.
        number: of the lesson within the batch; with seed and version it decides the order of the steps.
    """
    trained_version = version - 1
    begun = _with_episode_seen(state, batches.of_episodes([episode], trained_version, state.action_count), settings)
    lesson = _Lesson(begun, settings, np.random.Generator(np.random.PCG64([settings.seed, version, number])))
    batch = batches.of_episodes([*old, episode], trained_version, state.action_count)
    lesson.train(batch, _plan(settings, recorded=batch.behaviour_log_probs is not None))
    lesson.tally.replayed_games = len(old)
    lesson.tally.replayed_steps = batch.steps - episode.steps
    return lesson.result(), lesson.tally


class _Plan(NamedTuple):
    """How a lesson goes through its steps."""

    epochs: int
    trace: float
    minibatch_steps: int
    learning_rate: float


def _plan(settings: LearningSettings, recorded: bool) -> _Plan:
    """PPO's way with log-probabilities; else REINFORCE's.

    Without them nothing could correct a second pass, or tell how far the policy has moved from the one that played:
    there is one pass, and its steps are small.
    """
    if recorded:
        return _Plan(settings.epochs, settings.trace, settings.minibatch_steps, settings.learning_rate)
    return _Plan(1, 1.0, settings.plain_minibatch_steps, settings.learning_rate * settings.plain_rate_share)


def _with_episode_seen(state: TrainingState, batch: Batch, settings: LearningSettings) -> TrainingState:
    """The state with a new episode's observations and returns in its normalisers; the critic's predictions stay."""
    observations = normaliser.merged(state.observations, normaliser.of_rows(batch.states))
    seen = dataclasses.replace(state, observations=observations)
    returns = reinforce.returns_to_go(batch.rewards, settings.gamma, batch.lengths, _final_values(seen, batch))
    merged = normaliser.merged(state.returns, normaliser.of_rows(returns[:, None]))
    seen = dataclasses.replace(seen, returns=normaliser.faded(merged, MEMORY_STEPS))
    return seen if state.returns.count == 0 else _with_critic_in_units(seen, state.returns)


def _units(returns: Normaliser) -> tuple[float, float]:
    """Mean and scale of returns; the scale is 1 where they have always been the same."""
    deviation = math.sqrt(float(returns.variance[0]))
    mean = float(returns.mean[0])
    return mean, deviation if deviation > 1e-6 * abs(mean) and deviation > 0.0 else max(abs(mean), 1e-6)


def _with_critic_in_units(state: TrainingState, former: Normaliser) -> TrainingState:
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


class _Lesson:
    """The weights on their way through one lesson, and what it counts; the state it began with stays as it is."""

    def __init__(self, begun: TrainingState, settings: LearningSettings, rng: np.random.Generator) -> None:
        self.begun = begun
        self.settings = settings
        self.bounds = reinforce.Bounds(settings.clip, settings.largest_weight, settings.entropy)
        self.rng = rng
        self.actor = begun.actor.copied()
        self.critic = begun.critic.copied()
        self.advantages = begun.advantages
        self.tally = Tally(lessons=1)

    def train(self, batch: Batch, plan: _Plan) -> None:
        """Go through it all as often as planned, fewer times when the policy has changed enough."""
        material = self._material(batch, plan.trace)
        for _ in range(plan.epochs):
            for rows in self._minibatches(batch.steps, plan.minibatch_steps):
                self._step(material, rows, plan.learning_rate)
            self.tally.epochs += 1
            self.tally.kl = reinforce.kl_divergence(material.log_pi, self._log_pi(material.states, batch.mask))
            if not self.tally.kl <= self.settings.kl_limit:
                break

    def result(self) -> TrainingState:
        """The state with the trained weights, and the policy made from them."""
        begun, observations = self.begun, self.begun.observations
        published = policy.folded(begun.actor_network(self.actor.weights), observations.mean, observations.inverse_scale)
        return dataclasses.replace(begun, policy=published, actor=self.actor, critic=self.critic, advantages=self.advantages)

    def _material(self, batch: Batch, trace: float) -> Material:
        settings = self.settings
        states = self.begun.observations.scaled(batch.states)
        critic = self.begun.critic_network(self.critic.weights)
        values = _values(self.begun, states, critic)
        advantages = reinforce.gae(batch.rewards, values, batch.lengths, _final_values(self.begun, batch), settings.gamma, trace)
        mean, scale = _units(self.begun.returns)
        targets = advantages + values
        self.tally.explained_variance = reinforce.explained_variance(values, targets)
        log_pi = self._log_pi(states, batch.mask)
        weights = batch.per_step(reinforce.staleness_weights(batch.lags, settings.staleness_half_life))
        recorded = batch.behaviour_log_probs
        return Material(
            states=states,
            actions=batch.actions,
            mask=batch.mask,
            log_pi=log_pi,
            behaviour_log_probs=log_pi[np.arange(batch.steps), batch.actions] if recorded is None else recorded,
            advantages=(self._scaled(advantages / scale) * weights).astype(np.float32),
            targets=((targets - mean) / scale).astype(np.float32),
        )

    def _scaled(self, advantages: Array) -> Array:
        """Advantages in units of their usual size: a small batch's own mean and spread say too little."""
        merged = normaliser.merged(self.advantages, normaliser.of_rows(advantages[:, None]))
        self.advantages = normaliser.faded(merged, MEMORY_STEPS)
        usual = math.sqrt(float(self.advantages.variance[0] + self.advantages.mean[0] ** 2))
        return advantages / usual if usual > 1e-8 else advantages

    def _log_pi(self, states: Array, mask: Array | None) -> Array:
        network = self.begun.actor_network(self.actor.weights)
        return policy.log_softmax(policy.forward(network, states).outputs, mask)

    def _minibatches(self, steps: int, size: int) -> Iterator[Array]:
        """Row numbers of minibatches of about equal size, in an order that only seed and version decide."""
        order = self.rng.permutation(steps)
        yield from np.array_split(order, math.ceil(steps / size))

    def _step(self, material: Material, rows: Array, learning_rate: float) -> None:
        actor_gradient = np.zeros_like(self.actor.weights)
        critic_gradient = np.zeros_like(self.critic.weights)
        for start in range(0, len(rows), PART_STEPS):
            self._add_part(material, rows[start : start + PART_STEPS], actor_gradient, critic_gradient)
        actor_gradient /= len(rows)
        critic_gradient /= len(rows)
        self.tally.gradient_norm += optimizer.clip(actor_gradient, self.settings.gradient_norm)
        optimizer.clip(critic_gradient, self.settings.gradient_norm)
        self.actor = _stepped(self.actor, actor_gradient, learning_rate)
        self.critic = _stepped(self.critic, critic_gradient, learning_rate)
        self.tally.samples += len(rows)
        self.tally.minibatches += 1

    def _add_part(self, material: Material, rows: Array, actor_gradient: Array, critic_gradient: Array) -> None:
        yield_point.reached()
        states = material.states[rows]
        mask = None if material.mask is None else material.mask[rows]
        actor, critic = self.begun.actor_network(self.actor.weights), self.begun.critic_network(self.critic.weights)
        acted, valued = policy.forward(actor, states), policy.forward(critic, states)
        loss = reinforce.policy_loss(
            acted.outputs,
            material.actions[rows],
            material.advantages[rows],
            material.behaviour_log_probs[rows],
            mask,
            self.bounds,
        )
        value_loss, errors = reinforce.value_loss(valued.outputs[:, 0], material.targets[rows])
        policy.backward(actor, states, acted, loss.gradient, self.begun.actor_network(actor_gradient))
        policy.backward(critic, states, valued, errors[:, None], self.begun.critic_network(critic_gradient))
        self.tally.surrogate += loss.surrogate
        self.tally.value_loss += value_loss
        self.tally.entropy += loss.entropy
        self.tally.clipped += loss.clipped


def _stepped(trainable: Trainable, gradient: Array, learning_rate: float) -> Trainable:
    return Trainable(trainable.weights, optimizer.adam(trainable.weights, gradient, trainable.moments, learning_rate))
