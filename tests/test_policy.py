"""The policy's forward and backward pass, its masks, its folding, and the choice of one action."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from background_training.algo import policy
from background_training.errors import EpisodeError
from background_training.spaces import discrete

WIDTH, HIDDEN, ACTIONS = 3, 5, 4


def network_in_float64(seed=0, outputs=ACTIONS, gain=1.0):
    rng = np.random.default_rng(seed)
    network = policy.new_network(rng, WIDTH, HIDDEN, outputs, gain)
    return policy.Network(*(part.astype(np.float64) + 0.1 * rng.normal(size=part.shape) for part in network))


def test_forward_equals_the_slow_oracle():
    """Each output is the sum that the formula says."""
    network = network_in_float64()
    states = np.random.default_rng(1).normal(size=(6, WIDTH))

    fast = policy.forward(network, states)

    assert fast == pytest.approx(np.array([oracles.outputs(network, state) for state in states]), rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.data())
def test_log_softmax_equals_the_slow_oracle(logits, data):
    """Probabilities are positive where legal, zero elsewhere, and sum to one."""
    legal = data.draw(st.lists(st.booleans(), min_size=len(logits), max_size=len(logits)).filter(any))

    chances = np.exp(discrete.log_softmax(np.array([logits]), np.array([legal])))[0]

    assert chances == pytest.approx(oracles.softmax(logits, legal), abs=1e-12)
    assert chances.sum() == pytest.approx(1.0)
    assert (chances[~np.array(legal)] == 0.0).all()


def test_probabilities_take_one_state_or_several():
    """A single state gives a row, several give one row each, and they agree."""
    network = policy.new_network(np.random.default_rng(0), WIDTH, HIDDEN, ACTIONS, 1.0)
    states = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)

    together = policy.probabilities(network, states)

    assert together.shape == (3, ACTIONS)
    assert policy.probabilities(network, states[1]) == pytest.approx(together[1], abs=1e-6)


def test_new_network_starts_with_every_action_about_equally_likely():
    """With the small last layer of a policy, no action is preferred at first, whatever the state's scale."""
    network = policy.new_network(np.random.default_rng(0), WIDTH, 64, ACTIONS, 0.01)

    chances = policy.probabilities(network, np.array([[0.0, 1.0, -1.0], [1e4, -1e4, 1e4]], np.float32))

    assert chances == pytest.approx(np.full((2, ACTIONS), 1 / ACTIONS), abs=0.02)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 1)])
def test_first_weights_are_orthogonal(shape):
    """No direction of the input is stretched more than another."""
    W1 = policy.new_network(np.random.default_rng(0), shape[0], shape[1], 2, 1.0).W1.astype(np.float64)

    square = W1.T @ W1 if shape[0] >= shape[1] else W1 @ W1.T

    assert square == pytest.approx(2.0 * np.eye(min(shape)), abs=1e-5)


def test_network_of_a_vector_is_a_view():
    """What the optimiser changes in the vector is changed in the network."""
    network = policy.new_network(np.random.default_rng(0), WIDTH, HIDDEN, ACTIONS, 1.0)
    vector = policy.flattened(network)
    view = policy.network_of(vector, WIDTH, HIDDEN, ACTIONS)

    vector += 1.0

    assert len(vector) == policy.size_of(WIDTH, HIDDEN, ACTIONS)
    for before, after in zip(network, view, strict=True):
        assert (after == before + np.float32(1.0)).all()


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 1000.0]), st.sampled_from([1e-3, 1.0, 1e3]))
def test_folded_network_takes_raw_states(seed, mean_size, scale):
    """Scaling the states first, or folding the scaling into the first layer, gives the same logits."""
    rng = np.random.default_rng(seed)
    network = network_in_float64(seed)
    mean, inverse_scale = mean_size * rng.normal(size=WIDTH), 1.0 / (scale * rng.uniform(0.5, 2.0, WIDTH))
    scaled = rng.normal(size=(4, WIDTH))

    raw = policy.forward(policy.folded(network, mean, inverse_scale), scaled / inverse_scale + mean)

    assert raw == pytest.approx(policy.forward(network, scaled), rel=1e-6, abs=1e-6)


def test_choice_equals_the_batched_probabilities():
    """The fast path of a game and the learner's pass say the same about an action."""
    network = policy.new_network(np.random.default_rng(0), WIDTH, HIDDEN, ACTIONS, 1.0)
    state = np.array([0.3, -2.0, 1.0], np.float32)
    mask = np.array([True, False, True, True])
    expected = policy.probabilities(network, state, mask)

    choice = policy.choose(network, state, mask, np.random.default_rng(0))

    assert choice.probability == pytest.approx(expected[choice.action], rel=1e-5)
    assert choice.log_prob == pytest.approx(math.log(choice.probability), abs=1e-6)


def test_drawn_actions_follow_the_probabilities():
    """Over many draws each action comes as often as the policy says, an illegal one never."""
    network = policy.new_network(np.random.default_rng(0), WIDTH, HIDDEN, ACTIONS, 1.0)
    state, mask = np.array([0.3, -2.0, 1.0], np.float32), np.array([True, True, False, True])
    rng = np.random.default_rng(3)

    counts = np.bincount([policy.choose(network, state, mask, rng).action for _ in range(20_000)], minlength=ACTIONS)

    assert counts / 20_000 == pytest.approx(policy.probabilities(network, state, mask), abs=0.015)
    assert counts[2] == 0


def test_greedy_choice_is_the_likeliest_legal_action():
    """Greedy play draws nothing: the best action among the legal ones."""
    network = policy.new_network(np.random.default_rng(0), WIDTH, HIDDEN, ACTIONS, 1.0)
    state = np.array([0.3, -2.0, 1.0], np.float32)
    best = int(policy.probabilities(network, state).argmax())
    mask = np.arange(ACTIONS) != best
    rng = np.random.default_rng(0)

    assert policy.choose(network, state, None, rng, greedy=True).action == best
    second = policy.choose(network, state, mask, rng, greedy=True).action
    assert second == int(policy.probabilities(network, state, mask).argmax())
    assert rng.random() == np.random.default_rng(0).random()


def test_one_legal_action_is_certain():
    """With one action left its probability is 1 and its log-probability 0."""
    network = policy.new_network(np.random.default_rng(0), WIDTH, HIDDEN, ACTIONS, 1.0)

    choice = policy.choose(network, np.ones(WIDTH, np.float32), np.arange(ACTIONS) == 2, np.random.default_rng(0))

    assert choice == (2, 1.0, 0.0)


@pytest.mark.parametrize("greedy", [False, True])
def test_unusable_states_and_masks_are_refused_by_name(greedy):
    """A game learns what is wrong: the width, the mask or a NaN; never a silent wrong action."""
    network = policy.new_network(np.random.default_rng(0), WIDTH, HIDDEN, ACTIONS, 1.0)
    rng = np.random.default_rng(0)

    with pytest.raises(EpisodeError, match="a state holds 2 numbers; the policy takes 3"):
        policy.choose(network, np.ones(2, np.float32), None, rng, greedy)
    with pytest.raises(EpisodeError, match="allows no action"):
        policy.choose(network, np.ones(3, np.float32), np.zeros(ACTIONS, bool), rng, greedy)
    with pytest.raises(EpisodeError, match="NaN"):
        policy.choose(network, np.array([1, np.nan, 1], np.float32), None, rng, greedy)
    with pytest.raises(EpisodeError, match="a state holds 2 numbers"):
        policy.probabilities(network, np.ones((1, 2)))
    with pytest.raises(EpisodeError, match="allows no action"):
        policy.probabilities(network, np.ones(3), np.zeros(ACTIONS, bool))
