"""The formulas of learning from rewards against slow oracles, finite differences and known cases."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from background_training.algo import losses, policy
from background_training.algo.losses import Bounds
from background_training.spaces import discrete
from background_training.spaces.discrete import Categorical
from tests.networks import gradient_through

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=8)
DISCOUNTS = st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])


def episodes(lengths, seed):
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    return rng.normal(size=steps), rng.normal(size=steps), np.array(lengths), rng.normal(size=len(lengths))


@settings(deadline=None)
@given(LENGTHS, DISCOUNTS, st.integers(0, 1000))
def test_returns_to_go_equal_the_slow_oracle(lengths, discount, seed):
    """Episodes behind one another do not leak into each other, whatever their lengths."""
    rewards, _, lengths, final_values = episodes(lengths, seed)

    fast = losses.returns_to_go(rewards, discount, lengths, final_values)

    assert fast == pytest.approx(oracles.returns_to_go(rewards, discount, lengths, final_values), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(LENGTHS, DISCOUNTS, st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.integers(0, 1000))
def test_gae_equals_the_slow_oracle(lengths, discount, trace, seed):
    """Advantages are those of the recursion, with each episode's own final value."""
    rewards, values, lengths, final_values = episodes(lengths, seed)

    fast = losses.gae(rewards, values, lengths, final_values, discount, trace)

    assert fast == pytest.approx(oracles.gae(rewards, values, lengths, final_values, discount, trace), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("discount", [0.9, 0.99, 0.9999, 1.0])
def test_returns_stay_exact_over_a_very_long_episode(discount):
    """200,000 steps: dividing by powers of the discount would have overflowed long ago."""
    rewards = np.random.default_rng(0).normal(size=200_000)
    lengths = np.array([150_000, 50_000])

    fast = losses.returns_to_go(rewards, discount, lengths, np.array([3.0, 0.0]))

    slow = np.array(oracles.returns_to_go(rewards, discount, lengths, [3.0, 0.0]))
    assert np.abs(fast - slow).max() < 1e-9


def test_returns_of_one_episode_by_hand():
    """1, 2, 4 with discount 0.5: 3, 4, 4."""
    assert losses.returns_to_go(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]


def test_trace_one_is_return_minus_value():
    """GAE with lambda 1 is plain REINFORCE's return-to-go with a baseline."""
    rewards, values, lengths, final_values = episodes([5, 1, 9], 3)

    advantages = losses.gae(rewards, values, lengths, final_values, 0.97, 1.0)

    returns = losses.returns_to_go(rewards, 0.97, lengths, final_values)
    assert advantages == pytest.approx(returns - values, rel=1e-12)


CASES = [
    pytest.param(None, 0.0, id="plain"),
    pytest.param(None, 0.3, id="entropy"),
    pytest.param("mask", 0.0, id="mask"),
    pytest.param("mask", 0.3, id="mask and entropy"),
]


def loss_case(mask):
    """Ratios well inside and well outside the clip, with advantages of both signs."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(12, 4))
    actions = rng.integers(0, 4, 12)
    legal = None
    if mask:
        legal = rng.random((12, 4)) < 0.6
        legal[np.arange(12), actions] = True
        legal[0] = np.arange(4) == actions[0]
    log_pi = discrete.log_softmax(logits, legal)[np.arange(12), actions]
    old = log_pi - np.tile([-0.7, -0.05, 0.0, 0.05, 0.7, 1.5], 2)
    return logits, actions, np.repeat([1.3, -0.8], 6) * rng.uniform(0.5, 1.5, 12), old, legal


@pytest.mark.parametrize(("mask", "entropy"), CASES)
def test_policy_loss_equals_the_slow_oracle(mask, entropy):
    """Loss, entropy and the count of clipped steps are those of the formula, row by row."""
    logits, actions, advantages, old, legal = loss_case(mask)

    loss = losses.policy_loss(Categorical(logits, legal), actions, advantages, old, Bounds(0.2, 2.0, entropy))

    surrogate, entropies, clipped = oracles.policy_loss(logits, actions, advantages, old, legal, Bounds(0.2, 2.0, entropy))
    assert (loss.surrogate, loss.entropy) == pytest.approx((surrogate, entropies), rel=1e-12)
    assert loss.clipped == clipped > 0


@pytest.mark.parametrize(("mask", "entropy"), CASES)
def test_policy_gradient_equals_finite_differences(mask, entropy):
    """The gradient is that of the whole loss: clip, mask, and the entropy bonus really taken."""
    logits, actions, advantages, old, legal = loss_case(mask)

    def whole_loss():
        surrogate, entropies, _ = oracles.policy_loss(logits, actions, advantages, old, legal, Bounds(0.2, 2.0, entropy))
        return surrogate - entropy * entropies

    gradient = losses.policy_loss(Categorical(logits, legal), actions, advantages, old, Bounds(0.2, 2.0, entropy)).gradient

    assert gradient == pytest.approx(oracles.finite_difference(whole_loss, logits), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", policy.Network._fields)
def test_gradient_through_the_whole_policy_equals_finite_differences(name):
    """Loss and network together, by every weight."""
    _, actions, advantages, old, legal = loss_case("mask")
    rng = np.random.default_rng(6)
    network = policy.Network(*(rng.normal(size=shape) for shape in policy.shapes(3, 5, 4)))
    states = rng.normal(size=(12, 3))

    def whole_loss():
        logits = policy.forward(network, states)
        surrogate, entropies, _ = oracles.policy_loss(logits, actions, advantages, old, legal, Bounds(0.2, 2.0, 0.1))
        return surrogate - 0.1 * entropies

    def by_logits(logits):
        return losses.policy_loss(Categorical(logits, legal), actions, advantages, old, Bounds(0.2, 2.0, 0.1)).gradient

    gradient = gradient_through(network, states, by_logits)

    slope = oracles.finite_difference(whole_loss, getattr(network, name))
    assert getattr(gradient, name) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", policy.Network._fields)
def test_gradient_of_the_value_network_equals_finite_differences(name):
    """Squared error and network together, by every weight."""
    rng = np.random.default_rng(7)
    network = policy.Network(*(rng.normal(size=shape) for shape in policy.shapes(3, 5, 1)))
    states, targets = rng.normal(size=(9, 3)), rng.normal(size=9)

    loss, _ = losses.value_loss(policy.forward(network, states)[:, 0], targets)
    gradient = gradient_through(network, states, lambda outputs: losses.value_loss(outputs[:, 0], targets)[1][:, None])

    def slow_loss():
        pairs = zip(states, targets, strict=True)
        return sum(0.5 * (oracles.outputs(network, state)[0] - target) ** 2 for state, target in pairs)

    assert loss == pytest.approx(slow_loss(), rel=1e-12)
    slope = oracles.finite_difference(slow_loss, getattr(network, name))
    assert getattr(gradient, name) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_gradient_at_ratio_one_is_reinforce():
    """Fresh data: -A (onehot - pi), Williams' formula."""
    logits, actions = np.random.default_rng(0).normal(size=(3, 4)), np.array([0, 3, 1])
    log_pi = discrete.log_softmax(logits)
    advantages = np.array([2.0, -1.0, 0.5])

    loss = losses.policy_loss(Categorical(logits), actions, advantages, log_pi[np.arange(3), actions], Bounds(0.2, 2.0, 0.0))

    assert loss.gradient == pytest.approx(-advantages[:, None] * (np.eye(4)[actions] - np.exp(log_pi)), rel=1e-12)
    assert loss.clipped == 0


def test_entropy_bonus_pulls_towards_equal_chances():
    """With nothing to gain, the loss falls when the likely action gets less likely."""
    logits = np.array([[2.0, 0.0, 0.0]])

    gradient = losses.policy_loss(Categorical(logits), np.array([0]), np.zeros(1), np.zeros(1), Bounds(0.2, 2.0, 0.1)).gradient

    assert gradient[0, 0] > 0 > gradient[0, 1]


def test_importance_weights_by_hand_and_never_infinite():
    """The ratio of probabilities; an action that was all but impossible can't overflow."""
    weights = losses.importance_weights(np.log([0.6, 0.2, 1.0]), np.array([math.log(0.5), math.log(0.4), -1e6]))

    assert weights == pytest.approx([1.2, 0.5, math.exp(20.0)])
    assert losses.importance_weights(np.array([-1e6]), np.array([0.0]))[0] == pytest.approx(0.0, abs=1e-8)


def test_no_step_counts_more_than_the_largest_weight():
    """A bad action that has become 90 times likelier than when it was played pulls as hard as one twice as likely."""
    logits, bounds = np.array([[3.0, 0.0]]), Bounds(0.2, 2.0, 0.0)
    log_pi = discrete.log_softmax(logits)[:, 0]

    far, near = (
        losses.policy_loss(Categorical(logits), np.array([0]), np.array([-1.0]), log_pi - math.log(ratio), bounds).gradient
        for ratio in (90.0, 2.0)
    )

    assert far == pytest.approx(near) and np.abs(far).max() > 0.0


def test_staleness_weights_halve_every_half_life():
    """Smoothly less, never nothing; 0 switches it off."""
    lags = np.array([0, 4, 8, 16, -3])

    assert losses.staleness_weights(lags, 8.0) == pytest.approx([1.0, 0.5**0.5, 0.5, 0.25, 1.0])
    assert (losses.staleness_weights(lags, 0.0) == 1.0).all()


def test_kl_divergence_by_hand():
    """Nothing for equal policies, masked actions count nothing, and the known value otherwise."""
    p, q = np.log(np.array([[0.5, 0.5]])), np.log(np.array([[0.25, 0.75]]))
    masked = Categorical(np.array([[1.0, 2.0, 3.0]]), np.array([[True, True, False]]))

    assert Categorical(p).kl_divergence(Categorical(p)) == 0.0
    assert Categorical(p).kl_divergence(Categorical(q)) == pytest.approx(0.5 * math.log(2.0) + 0.5 * math.log(2 / 3))
    assert masked.kl_divergence(masked) == 0.0


def test_explained_variance_by_hand():
    """1 for a perfect prediction, 0 for a constant one or constant targets."""
    targets = np.array([1.0, 2.0, 3.0])

    assert losses.explained_variance(targets, targets) == 1.0
    assert losses.explained_variance(np.full(3, 9.0), targets) == pytest.approx(0.0)
    assert losses.explained_variance(targets, np.ones(3)) == 0.0
