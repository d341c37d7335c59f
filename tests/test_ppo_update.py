"""One network's way through a lesson."""

from __future__ import annotations

import numpy as np
import pytest

from background_training.algo import adam, network, policy
from background_training.algo import losses as reinforce
from background_training.algo.losses import CriticObjective
from background_training.algo.network import PART_STEPS, Sizes
from background_training.algo.ppo_update import NetworkTraining, StepSettings
from background_training.algo.training_state import Trainable

SIZES = Sizes(3, 5, 1)


def case(steps, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=policy.size_of(*SIZES)).astype(np.float32)
    states = rng.normal(size=(steps, SIZES.inputs)).astype(np.float32)
    return Trainable(weights, adam.new_moments(len(weights))), states, rng.normal(size=steps).astype(np.float32), rng


def plain_step(trainable, states, targets, step_settings):
    """One step along the gradient of the whole minibatch, by way of the plain formulas."""
    vector, gradient = trainable.weights.copy(), np.empty_like(trainable.weights)
    both, layers, rows = network.Passes(SIZES), network.layers_of(vector, SIZES), network.with_ones(states)
    total = np.zeros_like(gradient)
    for start in range(0, len(rows), PART_STEPS):
        part = slice(start, start + PART_STEPS)
        _, errors = reinforce.value_loss(both.forward(layers, rows[part])[:, 0], targets[part])
        both.backward(layers, rows[part], errors[:, None], network.layers_of(gradient, SIZES))
        total += gradient
    total /= len(rows)
    adam.clip(total, step_settings.max_grad_norm)
    first, second, steps = trainable.moments
    moments = adam.adam(vector, total, adam.Moments(first.copy(), second.copy(), steps), step_settings.learning_rate)
    return Trainable(vector, moments)


@pytest.mark.parametrize("steps", [1, 7, PART_STEPS, 3 * PART_STEPS + 5])
def test_an_epoch_of_one_minibatch_is_one_step_along_the_gradient_of_all_its_parts(steps):
    """Parts have fixed borders and are added in order; what is made of them is their mean."""
    begun, states, targets, rng = case(steps)
    step_settings = StepSettings(minibatch_size=steps, learning_rate=0.01, max_grad_norm=0.5)
    before = begun.weights.copy()
    training = NetworkTraining(begun, SIZES, network.with_ones(states), CriticObjective(targets), step_settings)
    order = rng.permutation(steps)

    training.epoch(order)

    expected = plain_step(begun, states[order], targets[order], step_settings)
    assert training.present.weights == pytest.approx(expected.weights, rel=1e-5, abs=1e-7)
    assert training.present.moments.steps == 1
    assert (training.samples, training.minibatches) == (steps, 1)
    assert (begun.weights == before).all()


def test_every_step_is_gone_through_once_an_epoch():
    """Minibatches share the steps among them; none is left out, none comes twice."""
    begun, states, targets, rng = case(1000)
    seen = []

    class Counting(CriticObjective):
        def gradient(self, outputs, start):
            seen.extend(range(start, start + len(outputs)))
            return super().gradient(outputs, start)

    step_settings = StepSettings(minibatch_size=300, learning_rate=0.01, max_grad_norm=0.5)
    training = NetworkTraining(begun, SIZES, network.with_ones(states), Counting(targets), step_settings)

    training.epoch(rng.permutation(1000))

    assert seen == list(range(1000))
    assert training.minibatches == 4


def test_a_network_learns_a_line():
    """The loss falls: what is put together here is a training."""
    begun, states, _, rng = case(2000)
    targets = (states @ np.array([0.5, -1.0, 0.25], np.float32)).astype(np.float32)
    objective = CriticObjective(targets)
    step_settings = StepSettings(minibatch_size=100, learning_rate=0.01, max_grad_norm=0.5)
    training = NetworkTraining(begun, SIZES, network.with_ones(states), objective, step_settings)
    losses = []
    for _ in range(8):
        before = objective.loss
        training.epoch(rng.permutation(2000))
        losses.append(objective.loss - before)

    assert losses[-1] < 0.05 * losses[0]
