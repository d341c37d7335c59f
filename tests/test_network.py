"""Forward and backward passes in arrays that are used again: right, whatever was in them before."""

from __future__ import annotations

import numpy as np
import oracles
import pytest

from background_training.algo import network as passes
from background_training.algo import policy
from background_training.algo.network import PART_STEPS, Passes, Sizes
from tests.networks import gradient_through

SIZES = Sizes(3, 5, 4)


def network_in_float64(seed=0):
    rng = np.random.default_rng(seed)
    return policy.Network(*(rng.normal(size=shape) for shape in policy.shapes(*SIZES)))


def test_forward_equals_the_slow_oracle():
    """Each output is the sum that the formula says, biases and all."""
    network = network_in_float64()
    states = np.random.default_rng(1).normal(size=(6, SIZES.inputs))

    fast = Passes(SIZES, np.float64).forward(passes.layers_of(policy.flattened(network), SIZES), passes.with_ones(states))

    assert fast == pytest.approx(np.array([oracles.outputs(network, state) for state in states]), rel=1e-12)


@pytest.mark.parametrize("name", policy.Network._fields)
def test_backward_equals_finite_differences(name):
    """The gradient by each array of weights is the slope of the loss."""
    network = network_in_float64()
    rng = np.random.default_rng(2)
    states, pull = rng.normal(size=(7, SIZES.inputs)), rng.normal(size=(7, SIZES.outputs))

    gradient = gradient_through(network, states, lambda outputs: pull)

    slope = oracles.finite_difference(lambda: float((policy.forward(network, states) * pull).sum()), getattr(network, name))
    assert getattr(gradient, name) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_arrays_that_are_used_again_remember_nothing():
    """Passes of many sizes, one after the other, give the bits that a new room gives: nothing is left of the last one."""
    rng = np.random.default_rng(3)
    vector = rng.normal(size=policy.size_of(*SIZES)).astype(np.float32)
    layers, used = passes.layers_of(vector, SIZES), Passes(SIZES)
    for count in [*rng.integers(1, PART_STEPS, 30), PART_STEPS, 1, PART_STEPS]:
        rows = passes.with_ones(rng.normal(size=(count, SIZES.inputs)).astype(np.float32))
        pull = rng.normal(size=(count, SIZES.outputs)).astype(np.float32)
        found, expected = np.full((2, len(vector)), np.nan, np.float32)
        fresh = Passes(SIZES)

        assert (used.forward(layers, rows) == fresh.forward(layers, rows)).all()
        used.backward(layers, rows, pull, passes.layers_of(found, SIZES))
        fresh.backward(layers, rows, pull, passes.layers_of(expected, SIZES))

        assert (found == expected).all()


def test_outputs_of_many_rows_are_those_of_its_parts():
    """However many rows there are, each part is computed by itself, and the answer is an array of its own."""
    rng = np.random.default_rng(4)
    vector = rng.normal(size=policy.size_of(*SIZES)).astype(np.float32)
    rows = passes.with_ones(rng.normal(size=(2 * PART_STEPS + 3, SIZES.inputs)).astype(np.float32))
    layers, both = passes.layers_of(vector, SIZES), Passes(SIZES)

    whole = both.outputs_of(layers, rows)

    first = both.forward(layers, rows[:PART_STEPS]).copy()
    assert (whole[:PART_STEPS] == first).all()
    assert whole == pytest.approx(policy.forward(policy.network_of(vector, *SIZES), rows[:, :-1]), rel=1e-4, abs=1e-5)


def test_parts_follow_from_steps_and_width_alone():
    """A small network's usual minibatch is one part, a wide one's two of equal size; all steps are in one part each."""
    usual = {hidden: [part.stop - part.start for part in passes.parts_of(256, hidden)] for hidden in (64, 127, 128, 1024)}
    assert usual == {64: [256], 127: [256], 128: [128, 128], 1024: [128, 128]}
    for hidden in (64, 256):
        for steps in (1, 127, 129, 300, 1000):
            parts = passes.parts_of(steps, hidden)
            assert [step for part in parts for step in range(part.start, part.stop)] == list(range(steps))
            assert max(part.stop - part.start for part in parts) <= PART_STEPS
