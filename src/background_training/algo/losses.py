"""Returns, advantages, importance weights, the losses of both networks and their gradients. Pure.

Episodes are concatenated along one axis [T]; `lengths` [N] are their numbers of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from background_training.spaces.action_space import ActionDistribution, ActionSpace

Array = npt.NDArray[Any]

LARGEST_LOG_RATIO = 20.0
"""exp(20) is far above any clip range and can't overflow."""


def discounted_sums(values: Array, carries: Array) -> Array:
    """Sum from the end: y[t] = values[t] + carries[t] * y[t + 1], with y[T] = 0.

    A carry of 0 ends an episode. Doubling scan: after pass k each y[t] holds the sum of the next 2^k terms; it never
    divides by a power of the discount, so nothing overflows however long an episode is. O(T log T), in float64.

    Args:
        values, carries: [T].

    Returns:
        [T] float64.

    Source: Hillis & Steele 1986, "Data parallel algorithms".
    """
    sums = values.astype(np.float64)
    carry = carries.astype(np.float64)
    reach = 1
    while reach < len(sums) and carry[:-reach].any():
        sums[:-reach] += carry[:-reach] * sums[reach:]
        carry[:-reach] *= carry[reach:]
        carry[-reach:] = 0.0
        reach *= 2
    return sums


def last_steps(lengths: Array) -> Array:
    """Index of the last step of each episode, [N]."""
    return np.cumsum(lengths) - 1


def returns_to_go(rewards: Array, discount: float, lengths: Array | None = None, final_values: Array | None = None) -> Array:
    """Sum the discounted rewards from each step to the end of its episode.

    G[t] = rewards[t] + discount * G[t + 1], with G[end] = final value of the episode.

    Args:
        rewards: [T], reward for the action of step t, in the game's own units.
        discount: per step, in [0, 1].
        lengths: [N], steps of each episode; None: a single episode.
        final_values: [N], value of the state after each episode's last step; None: 0.

    Returns:
        [T] float64.

    Source: Sutton & Barto 2018, eq. 3.9; Williams 1992.
    """
    last = last_steps(np.array([len(rewards)]) if lengths is None else lengths)
    carries = np.full(len(rewards), discount, np.float64)
    carries[last] = 0.0
    values = rewards.astype(np.float64)
    if final_values is not None:
        values[last] += discount * final_values
    return discounted_sums(values, carries)


def gae(rewards: Array, values: Array, lengths: Array, final_values: Array, discount: float, gae_lambda: float) -> Array:
    """Generalised advantage estimation.

    delta[t] = rewards[t] + discount * V[t + 1] - V[t];  A[t] = delta[t] + discount * gae_lambda * A[t + 1].
    V[end] is the episode's final value. gae_lambda 1: return-to-go minus value; gae_lambda 0: one step only.

    Args:
        rewards, values: [T].
        lengths, final_values: [N]; a final value is 0 when the game was over.

    Returns:
        [T] float64.

    Source: Schulman et al. 2016, eq. 16.
    """
    last = last_steps(lengths)
    next_values = np.empty(len(values), np.float64)
    next_values[:-1] = values[1:]
    next_values[last] = final_values
    carries = np.full(len(values), discount * gae_lambda, np.float64)
    carries[last] = 0.0
    return discounted_sums(rewards + discount * next_values - values, carries)


def importance_weights(log_probs: Array, behaviour_log_probs: Array) -> Array:
    """pi(a) / mu(a), the probability ratio to the policy that played; at most exp(20)."""
    difference = _between(log_probs - behaviour_log_probs, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return np.asarray(np.exp(difference))


def _between(values: Array, lowest: float, highest: float) -> Array:
    """np.clip without its overhead, which dominates for small arrays."""
    return np.asarray(np.minimum(np.maximum(values, lowest), highest))


def staleness_weights(lags: Array, half_life: float) -> Array:
    """0.5^(lag / half life): weight of an episode played `lag` versions ago. half_life 0: always 1."""
    if half_life == 0.0:
        return np.ones(len(lags))
    return np.asarray(0.5 ** (np.maximum(lags, 0) / half_life))


class Bounds(NamedTuple):
    """Bounds and weights of the policy loss."""

    clip_range: float
    """How far a ratio may differ from 1, in the direction of its advantage, before the step's gradient is cut off."""
    max_importance_weight: float
    """Upper bound on the importance weight of a step."""
    ent_coef: float
    """Weight of the entropy bonus."""


class PolicyLoss(NamedTuple):
    """Sums over the steps of a part, so that parts can be added."""

    surrogate: float
    """Sum of the policy-gradient loss."""
    entropy: float
    """Sum of the entropies, in nats."""
    clipped: int
    """Steps whose gradient was clipped to 0."""
    gradient: Array
    """[B, A], gradient of the loss by the policy's outputs."""


def policy_loss(
    distribution: ActionDistribution, actions: Array, advantages: Array, behaviour_log_probs: Array, bounds: Bounds
) -> PolicyLoss:
    """Clipped policy-gradient loss with entropy bonus, and its gradient by the policy's outputs.

    With ratio = pi(a) / mu(a), the importance weight, and A the advantage:
    loss = -sum min(w(ratio) * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A) - ent_coef * sum H(pi).
    w(ratio) is the ratio, above M = `max_importance_weight` only M * (1 + log(ratio / M)), so that the weight of a step's
    gradient, d w / d log pi = min(ratio, M), is bounded.
    Where ratio is 1 this is REINFORCE: the gradient is -A * d log pi(a).

    Args:
        distribution: pi, in B states.
        actions: [B] or [B, D].
        advantages: [B].
        behaviour_log_probs: [B], log mu of the actions, mu being the policy that played.

    Source: Williams 1992; Schulman et al. 2017, eq. 7; the bounded weight as in Espeholt et al. 2018, eq. 1.
    """
    ratio = importance_weights(distribution.log_probs(actions), behaviour_log_probs)
    weight = np.minimum(ratio, bounds.max_importance_weight)
    gain = weight * (1.0 + np.log(ratio / weight)) * advantages
    clipped_gain = _between(ratio, 1.0 - bounds.clip_range, 1.0 + bounds.clip_range) * advantages
    taken = gain <= clipped_gain
    gradient, entropies = distribution.gradient(actions, np.where(taken, weight * advantages, 0.0), bounds.ent_coef)
    surrogate = -float(np.minimum(gain, clipped_gain).sum(dtype=np.float64))
    return PolicyLoss(surrogate, float(entropies.sum(dtype=np.float64)), int(np.count_nonzero(~taken)), gradient)


def value_loss(predictions: Array, targets: Array) -> tuple[float, Array]:
    """sum (prediction - target)^2 / 2, and its gradient by the predictions, [B]."""
    errors = predictions - targets
    return float(0.5 * (errors * errors).sum(dtype=np.float64)), errors


def explained_variance(predictions: Array, targets: Array) -> float:
    """1 - Var(target - prediction) / Var(target): 1 is a perfect value network, 0 a constant; 0 for constant targets."""
    spread = float(np.var(targets, dtype=np.float64))
    if spread < 1e-12:
        return 0.0
    return 1.0 - float(np.var(targets - predictions, dtype=np.float64)) / spread


class Objective(Protocol):
    """The loss that a network is trained on."""

    def arrange(self, order: Array) -> None:
        """Prepare an epoch that takes the steps in this order, [T]."""

    def gradient(self, outputs: Array, start: int) -> Array:
        """The gradient of the loss by the outputs [B, A] of the steps start to start + B of the order, [B, A].

        Adds to the sums of statistics: call it once for each part, in order, as the last bits depend on the order.
        """


class ActorObjective:
    """The clipped policy-gradient loss with its entropy bonus, see `policy_loss`."""

    def __init__(
        self,
        space: ActionSpace,
        steps: Sequence[Array],
        mask: Array | None,
        bounds: Bounds,
    ) -> None:
        """`steps`: actions, advantages, and the actions' log-probabilities under the policy that played, each [T]."""
        self._space = space
        self._steps = steps
        self._mask = mask
        self._bounds = bounds
        self.surrogate = 0.0
        self.entropy = 0.0
        self.clipped = 0.0

    def arrange(self, order: Array) -> None:
        self._arranged = tuple(values[order] for values in self._steps)
        self._arranged_mask = None if self._mask is None else self._mask[order]

    def gradient(self, outputs: Array, start: int) -> Array:
        part = slice(start, start + len(outputs))
        actions, advantages, log_probs = (values[part] for values in self._arranged)
        mask = None if self._arranged_mask is None else self._arranged_mask[part]
        loss = policy_loss(self._space.distribution(outputs, mask), actions, advantages, log_probs, self._bounds)
        self.surrogate += loss.surrogate
        self.entropy += loss.entropy
        self.clipped += loss.clipped
        return loss.gradient


class CriticObjective:
    """Half the squared distance from the targets [T]."""

    def __init__(self, targets: Array) -> None:
        self._targets = targets
        self.loss = 0.0

    def arrange(self, order: Array) -> None:
        self._arranged = self._targets[order]

    def gradient(self, outputs: Array, start: int) -> Array:
        loss, errors = value_loss(outputs[:, 0], self._arranged[start : start + len(outputs)])
        self.loss += loss
        return errors[:, None]
