"""One PPO update: the gradient steps from one new episode, and the replayed ones that join it.

Policy and value network meet only before an update and after it, so each can be trained in a thread of its own. The gradient
of a minibatch is the sum of parts with fixed borders, added in their order: the bits of a model depend on both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from background_training.algo import adam, losses, network, normalizer
from background_training.algo import batch as batches
from background_training.algo.batch import Batch
from background_training.algo.losses import ActorObjective, CriticObjective, Objective
from background_training.algo.network import PART_STEPS, Layers, Passes, Sizes
from background_training.algo.normalizer import Normalizer
from background_training.algo.training_state import Trainable, TrainingState
from background_training.episodes.episode import Episode
from background_training.settings import LearningSettings

Array = npt.NDArray[Any]

_rest: Callable[[], float] | None = None
_rested_seconds = 0.0
_lock = threading.Lock()


def set_rest(rest: Callable[[], float] | None) -> None:
    """Set the function to call at every yield point of this process; it returns the seconds it slept. None: never sleep.

    Set per process, as its priority is, and not passed through the arithmetic: results do not depend on it (a test compares
    the bits). Both threads of an update call it; while one sleeps, the other waits for the lock."""
    global _rest
    _rest = rest


def yield_point() -> None:
    """Sleep if this process is throttled; costs next to nothing otherwise."""
    global _rested_seconds
    if _rest is not None:
        with _lock:
            _rested_seconds += _rest()


def rested_seconds() -> float:
    """Total seconds slept at yield points, to be subtracted from measured durations."""
    return _rested_seconds


@dataclass(frozen=True)
class StepSettings:
    """Settings of gradient steps."""

    minibatch_size: int
    learning_rate: float
    max_grad_norm: float


class NetworkTraining:
    """Train one network in one update; the initial weights are not changed.

    The same order of steps gives the same bits, in any thread. Only one thread at a time may call it, except for `abandon`.
    """

    def __init__(
        self, initial: Trainable, sizes: Sizes, states: Array, objective: Objective, step_settings: StepSettings
    ) -> None:
        """`states`: [T, S + 1] float32, scaled, with ones at the end (see `network.with_ones`)."""
        self.present = initial.copied()
        self.gradient_norm = 0.0
        self.samples = 0
        self.minibatches = 0
        self._abandoned = False
        self._sizes = sizes
        self._states = states
        self._objective = objective
        self._step_settings = step_settings
        self._passes = Passes(sizes)
        self._rows = np.empty((min(PART_STEPS, len(states)), states.shape[1]), states.dtype)
        self._layers = network.layers_of(self.present.weights, sizes)
        self._gradient, self._part, self._scratch = (np.empty_like(self.present.weights) for _ in range(3))
        self._gradient_layers, self._part_layers = (network.layers_of(vector, sizes) for vector in (self._gradient, self._part))

    def epoch(self, order: Array) -> None:
        """Train on all steps once, in this order [T], in minibatches of about equal size."""
        self._objective.arrange(order)
        for start, stop in _equal_shares(len(order), math.ceil(len(order) / self._step_settings.minibatch_size)):
            if self._abandoned:
                return
            self._step(order[start:stop], start)

    def abandon(self) -> None:
        """Stop an epoch in another thread at its next minibatch; its result is invalid then."""
        self._abandoned = True

    def outputs(self) -> Array:
        """The network's current outputs for all states, [T, A]."""
        return self._passes.outputs_of(self._layers, self._states)

    def _step(self, minibatch: Array, start: int) -> None:
        """Take one gradient step; `minibatch` holds indices of states, `start` is its position in the epoch's order."""
        for part in network.parts_of(len(minibatch), self._sizes.hidden):
            if part.start == 0:
                self._write_gradient(minibatch[part], start, self._gradient_layers)
            else:
                self._write_gradient(minibatch[part], start + part.start, self._part_layers)
                self._gradient += self._part
        self._gradient *= 1.0 / len(minibatch)
        self.gradient_norm += adam.clip(self._gradient, self._step_settings.max_grad_norm)
        weights, moments = self.present.weights, self.present.moments
        moments = adam.adam(weights, self._gradient, moments, self._step_settings.learning_rate, self._scratch)
        self.present = Trainable(weights, moments)
        self.samples += len(minibatch)
        self.minibatches += 1

    def _write_gradient(self, steps: Array, start: int, into: Layers) -> None:
        """Write the gradient summed over these steps, which start at position `start` of the epoch's order."""
        yield_point()
        states = self._rows[: len(steps)]
        # With the default mode take() checks the indices first and uses a temporary array.
        np.take(self._states, steps, axis=0, out=states, mode="clip")
        outputs = self._passes.forward(self._layers, states)
        self._passes.backward(self._layers, states, self._objective.gradient(outputs, start), into)


def _equal_shares(count: int, shares: int) -> Iterator[tuple[int, int]]:
    """Bounds of about equal shares, the first ones larger by one, as in np.array_split."""
    size, larger = divmod(count, shares)
    start = 0
    for number in range(shares):
        stop = start + size + (number < larger)
        yield start, stop
        start = stop


MEMORY_STEPS = 20_000.0
"""Steps after which old returns and advantages fade: they change as the policy improves."""

THREAD_HIDDEN = 256
"""Number of hidden units from which the value network is trained in a second thread. In smaller networks the matrix products,
during which NumPy releases the GIL, are too short for a gain."""


@dataclass
class UpdateTotals:
    """Statistics of updates as sums, which can be added over a batch."""

    updates: int = 0
    epochs: int = 0
    minibatches: int = 0
    samples: int = 0
    """Steps trained on, counted once per epoch."""
    surrogate: float = 0.0
    value_loss: float = 0.0
    entropy: float = 0.0
    clipped: float = 0.0
    gradient_norm: float = 0.0
    kl: float = 0.0
    explained_variance: float = 0.0
    replayed_games: int = 0
    replayed_steps: int = 0

    def add(self, other: UpdateTotals) -> None:
        """Add the other's sums."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def updated(
    state: TrainingState, episode: Episode, old: Sequence[Episode], settings: LearningSettings, version: int, number: int
) -> tuple[TrainingState, UpdateTotals]:
    """The state after an update from one new episode and replayed ones; numbers may overflow.

    Args:
        old: replayed episodes, each with log-probabilities; none for a new episode without.
        version: the version that will be committed; lags count from the one before it.
        number: index of the update within the batch; with seed and version it determines the order of the steps.
    """
    trained_version = version - 1
    initial = _with_episode_seen(state, batches.of_episodes([episode], trained_version, state.actions.outputs), settings)
    update = _PPOUpdate(initial, settings, np.random.Generator(np.random.PCG64([settings.seed, version, number])))
    batch = batches.of_episodes([*old, episode], trained_version, state.actions.outputs)
    update.train(batch, _plan(settings, trained_version, recorded=batch.behaviour_log_probs is not None))
    update.totals.replayed_games = len(old)
    update.totals.replayed_steps = batch.steps - episode.steps
    return update.result(), update.totals


class _Plan(NamedTuple):
    """Epochs, lambda, minibatch size and learning rate of an update."""

    epochs: int
    gae_lambda: float
    minibatch_size: int
    learning_rate: float


def learning_rate(settings: LearningSettings, trained_version: int) -> float:
    """The learning rate for a model of this version: halved every `learning_rate_half_life` versions."""
    if settings.learning_rate_half_life == 0:
        return settings.learning_rate
    return float(settings.learning_rate * 0.5 ** (trained_version / settings.learning_rate_half_life))


def _plan(settings: LearningSettings, trained_version: int, recorded: bool) -> _Plan:
    """PPO with log-probabilities; REINFORCE with a baseline without.

    Without them there are no importance weights for a second epoch and no KL divergence from the policy that played:
    there is one epoch with a small learning rate.
    """
    rate = learning_rate(settings, trained_version)
    if recorded:
        return _Plan(settings.n_epochs, settings.gae_lambda, settings.minibatch_size, rate)
    return _Plan(1, 1.0, settings.no_log_probs_minibatch_size, rate * settings.no_log_probs_rate_share)


def _with_episode_seen(state: TrainingState, batch: Batch, settings: LearningSettings) -> TrainingState:
    """Merge a new episode's observations and returns into the normalizers; the critic's predictions do not change."""
    observations = normalizer.merged(state.observations, normalizer.of_rows(batch.states))
    seen = dataclasses.replace(state, observations=observations)
    returns = losses.returns_to_go(batch.rewards, settings.gamma, batch.lengths, _final_values(seen, batch))
    merged = normalizer.merged(state.returns, normalizer.of_rows(returns[:, None]))
    seen = dataclasses.replace(seen, returns=normalizer.faded(merged, MEMORY_STEPS))
    return seen if state.returns.count == 0 else _with_critic_in_units(seen, state.returns)


def _units(returns: Normalizer) -> tuple[float, float]:
    """Mean and scale of returns.

    The scale is at least a hundredth of the mean: the returns of a bot that always wins become equal, and with a vanishing
    scale the value network's weights would grow without bound.
    """
    mean = float(returns.mean[0])
    return mean, max(math.sqrt(float(returns.variance[0])), 0.01 * abs(mean), 1e-6)


def _with_critic_in_units(state: TrainingState, former: Normalizer) -> TrainingState:
    """Rescale the critic's output layer so that its predictions are unchanged (Pop-Art).

    Source: van Hasselt et al. 2016 (Pop-Art), eq. 5.
    """
    old_mean, old_scale = _units(former)
    new_mean, new_scale = _units(state.returns)
    critic = state.critic.copied()
    weights = state.critic_network(critic.weights)
    weights.W3[...] *= old_scale / new_scale
    weights.b3[...] = (old_mean - new_mean + old_scale * weights.b3.astype(np.float64)) / new_scale
    return dataclasses.replace(state, critic=critic)


def _values(state: TrainingState, states: Array) -> Array:
    """The critic's values of scaled states [T, S + 1], in the game's units, [T] float64."""
    if state.returns.count == 0:
        return np.zeros(len(states))
    mean, scale = _units(state.returns)
    outputs = _outputs(state.critic.weights, _critic_sizes(state), states)[:, 0]
    return np.asarray(mean + scale * outputs.astype(np.float64))


def _final_values(state: TrainingState, batch: Batch) -> Array:
    values = _values(state, network.with_ones(state.observations.scaled(batch.final_states)))
    return np.where(batch.terminated, 0.0, values)


def _outputs(weights: Array, sizes: Sizes, states: Array) -> Array:
    return Passes(sizes).outputs_of(network.layers_of(weights, sizes), states)


def _actor_sizes(state: TrainingState) -> Sizes:
    return Sizes(state.state_width, state.hidden, state.actions.outputs)


def _critic_sizes(state: TrainingState) -> Sizes:
    return Sizes(state.state_width, state.hidden, 1)


_CriticAfter = Callable[[int], tuple[Trainable, float]]
"""Returns the value network after this many epochs and its loss summed over their steps; call it once."""


@contextlib.contextmanager
def _trained_afterwards(critic: NetworkTraining, objective: CriticObjective, orders: Sequence[Array]) -> Iterator[_CriticAfter]:
    """Train the value network in this thread, on demand."""
    yield lambda epochs: [_after_epoch(critic, objective, order) for order in orders[:epochs]][-1]


@contextlib.contextmanager
def _trained_ahead(critic: NetworkTraining, objective: CriticObjective, orders: Sequence[Array]) -> Iterator[_CriticAfter]:
    """Train the value network in a thread that does not synchronise with the policy after each epoch, which would halve the gain.

    Exceptions of the thread are raised here. Leaving the context stops it at its next minibatch.
    """
    with ThreadPoolExecutor(1, "value-network") as pool:
        try:
            futures = [pool.submit(_after_epoch, critic, objective, order) for order in orders]
            yield lambda epochs: [future.result() for future in futures[:epochs]][-1]
        finally:
            critic.abandon()


def _after_epoch(critic: NetworkTraining, objective: CriticObjective, order: Array) -> tuple[Trainable, float]:
    with np.errstate(all="ignore"):  # errstate is per thread; see `train_step.learn`
        critic.epoch(order)
    return critic.present.copied(), objective.loss


class _PPOUpdate:
    """The weights during one update, and its statistics; the initial state is not changed."""

    def __init__(self, initial: TrainingState, settings: LearningSettings, rng: np.random.Generator) -> None:
        self.initial = initial
        self.settings = settings
        self.rng = rng
        self.actor = initial.actor
        self.critic = initial.critic
        self.advantages = initial.advantages
        self.totals = UpdateTotals(updates=1)

    def train(self, batch: Batch, plan: _Plan) -> None:
        """Train for the planned number of epochs, fewer when the policy has changed by target_kl."""
        settings = self.settings
        states = network.with_ones(self.initial.observations.scaled(batch.states))
        space = self.initial.actions
        before = space.distribution(_outputs(self.initial.actor.weights, _actor_sizes(self.initial), states), batch.mask)
        advantages, targets = self._estimates(batch, states, plan.gae_lambda)
        played = before.log_probs(batch.actions) if batch.behaviour_log_probs is None else batch.behaviour_log_probs
        bounds = losses.Bounds(settings.clip_range, settings.max_importance_weight, settings.ent_coef)
        actor_objective, critic_objective = (
            ActorObjective(space, (batch.actions, advantages, played), batch.mask, bounds),
            CriticObjective(targets),
        )
        step_settings = StepSettings(plan.minibatch_size, plan.learning_rate, settings.max_grad_norm)
        orders = [self.rng.permutation(batch.steps) for _ in range(plan.epochs)]
        critic = NetworkTraining(self.initial.critic, _critic_sizes(self.initial), states, critic_objective, step_settings)
        actor = NetworkTraining(self.initial.actor, _actor_sizes(self.initial), states, actor_objective, step_settings)
        train = _trained_ahead if self.initial.hidden >= THREAD_HIDDEN else _trained_afterwards
        with train(critic, critic_objective, orders) as critic_after:
            for order in orders:
                actor.epoch(order)
                self.totals.epochs += 1
                self.totals.kl = before.kl_divergence(space.distribution(actor.outputs(), batch.mask))
                if not self.totals.kl <= settings.target_kl:
                    break
            self.critic, self.totals.value_loss = critic_after(self.totals.epochs)
        self.actor = actor.present
        self._count(actor, actor_objective)

    def result(self) -> TrainingState:
        """The state with the trained weights and the published policy."""
        initial, observations = self.initial, self.initial.observations
        published = network.folded(initial.actor_network(self.actor.weights), observations.mean, observations.inverse_scale)
        return dataclasses.replace(initial, policy=published, actor=self.actor, critic=self.critic, advantages=self.advantages)

    def _estimates(self, batch: Batch, states: Array, gae_lambda: float) -> tuple[Array, Array]:
        """Advantages [T], normalized and weighted by staleness, and targets [T] in units of the critic."""
        values = _values(self.initial, states)
        final_values = _final_values(self.initial, batch)
        advantages = losses.gae(batch.rewards, values, batch.lengths, final_values, self.settings.gamma, gae_lambda)
        mean, scale = _units(self.initial.returns)
        targets = advantages + values
        self.totals.explained_variance = losses.explained_variance(values, targets)
        weights = batch.per_step(losses.staleness_weights(batch.lags, self.settings.staleness_half_life))
        weighted = (self._scaled(advantages / scale) * weights).astype(np.float32)
        return weighted, ((targets - mean) / scale).astype(np.float32)

    def _scaled(self, advantages: Array) -> Array:
        """Advantages divided by their running root mean square: the statistics of a small batch are too noisy."""
        merged = normalizer.merged(self.advantages, normalizer.of_rows(advantages[:, None]))
        self.advantages = normalizer.faded(merged, MEMORY_STEPS)
        usual = math.sqrt(float(self.advantages.variance[0] + self.advantages.mean[0] ** 2))
        return advantages / usual if usual > 1e-8 else advantages

    def _count(self, actor: NetworkTraining, actor_objective: ActorObjective) -> None:
        totals = self.totals
        totals.samples, totals.minibatches, totals.gradient_norm = actor.samples, actor.minibatches, actor.gradient_norm
        totals.surrogate, totals.entropy, totals.clipped = (
            actor_objective.surrogate,
            actor_objective.entropy,
            actor_objective.clipped,
        )
