"""Adam and the bound on a gradient's length."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from background_training.algo import adam


def test_adam_equals_the_slow_oracle_over_many_steps():
    """Step by step the weights are those of the published algorithm."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=6)
    gradients = rng.normal(size=(20, 6)) * np.array([1e-4, 1e-2, 1.0, 10.0, 1e3, 0.0])
    expected = oracles.adam(weights, gradients, 0.01)
    moments = adam.Moments(np.zeros(6), np.zeros(6), 0)

    for gradient in gradients:
        moments = adam.adam(weights, gradient, moments, 0.01)

    assert weights == pytest.approx(np.array(expected), rel=1e-12)
    assert moments.steps == 20


def test_a_step_goes_downhill_by_about_the_learning_rate():
    """The first step moves each weight against its gradient by the learning rate, whatever the gradient's size."""
    weights = np.zeros(3, np.float32)

    adam.adam(weights, np.array([1e-2, -1.0, 1e3], np.float32), adam.new_moments(3), 0.5)

    assert weights == pytest.approx([-0.5, 0.5, -0.5], rel=2e-3)
    assert weights.dtype == np.float32


@settings(deadline=None)
@given(st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=20), st.floats(0.01, 100.0))
def test_clip_bounds_the_length_and_keeps_the_direction(numbers, longest):
    """A long gradient becomes exactly as long as allowed; a short one stays as it is."""
    gradient = np.array(numbers, np.float64)
    before = gradient.copy()

    length = adam.clip(gradient, longest)

    assert length == pytest.approx(math.sqrt(math.fsum(number * number for number in numbers)), rel=1e-12)
    if length <= longest:
        assert (gradient == before).all()
    else:
        assert adam.norm(gradient) == pytest.approx(longest, rel=1e-9)
        assert gradient * length == pytest.approx(before * longest, rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clip_leaves_a_gradient_that_is_not_finite(bad):
    """Nothing is made of NaN or infinity; the caller sees it in the length and in the result."""
    gradient = np.array([1.0, bad])

    assert not math.isfinite(adam.clip(gradient, 1.0))
    assert not np.isfinite(gradient).all()
