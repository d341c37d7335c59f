"""Running mean, variance and span: exact in any grouping, and safe to divide by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from background_training.algo import normalizer

ROWS = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1.0, 1.0)), min_size=2, max_size=40)


@settings(deadline=None)
@given(ROWS, st.data())
def test_any_grouping_of_the_rows_gives_the_same(rows, data):
    """Merging parts equals looking at all rows at once."""
    table = np.array(rows)
    cut = data.draw(st.integers(0, len(rows)))
    parts = [normalizer.of_rows(part) for part in (table[:cut], table[cut:]) if len(part)]

    merged = normalizer.new_normalizer(2)
    for part in parts:
        merged = normalizer.merged(merged, part)

    assert merged.count == len(table)
    assert merged.mean == pytest.approx(table.mean(axis=0), rel=1e-9, abs=1e-9)
    assert merged.variance == pytest.approx(table.var(axis=0), rel=1e-6, abs=1e-6)
    assert (merged.lowest == table.min(axis=0)).all() and (merged.highest == table.max(axis=0)).all()


def test_large_means_do_not_swallow_small_variances():
    """A million rows around 1e6 with a deviation of 1: the naive sum of squares would be off."""
    rng = np.random.default_rng(0)
    merged = normalizer.new_normalizer(1)
    table = 1e6 + rng.normal(size=(100_000, 1))
    for part in np.array_split(table, 1000):
        merged = normalizer.merged(merged, normalizer.of_rows(part))

    assert merged.variance[0] == pytest.approx(table.var(), rel=1e-7)


def test_before_the_first_row_numbers_pass_as_they_are():
    """An empty normaliser changes nothing, and is neutral in a merge."""
    rows = np.array([[3.0, -4.0]], np.float32)
    empty, some = normalizer.new_normalizer(2), normalizer.of_rows(np.array([[1.0, 2.0], [3.0, 5.0]]))

    assert (empty.scaled(rows) == rows).all()
    assert normalizer.merged(empty, some) is some
    assert normalizer.merged(some, empty) is some


def test_scaled_rows_have_mean_zero_and_deviation_one():
    """Ordinary numbers of any scale come out alike."""
    rows = (np.random.default_rng(0).normal(size=(5000, 3)) * [1e-3, 1.0, 1e4] + [1.0, 0.0, -1e5]).astype(np.float32)

    scaled = normalizer.of_rows(rows).scaled(rows)

    assert scaled.dtype == np.float32
    assert scaled.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.01)
    assert scaled.std(axis=0) == pytest.approx(np.ones(3), rel=0.01)


def test_a_number_that_never_changes_is_left_out():
    """Divided by its deviation of nothing, its first change would be an explosion; it becomes 0 instead."""
    rows = np.full((10, 1), 7.0, np.float32)

    assert normalizer.of_rows(rows).inverse_scale[0] == 0.0
    assert (normalizer.of_rows(rows).scaled(rows + 1) == 0.0).all()


def test_a_rare_spike_stays_within_bounds():
    """A flag seen once in 10,000 steps would be 100 deviations high; the span keeps it at about 20."""
    rows = np.zeros((10_000, 1), np.float32)
    rows[5] = 1.0

    assert abs(normalizer.of_rows(rows).scaled(rows)).max() <= 2 * normalizer.WIDEST + 1e-3


def test_faded_rows_weigh_less_than_new_ones():
    """Mean and variance stay at first; later rows then pull harder."""
    old = normalizer.of_rows(np.array([[0.0], [2.0]] * 500))
    new = normalizer.of_rows(np.array([[10.0]] * 10))

    faded = normalizer.faded(old, 10.0)

    assert (faded.mean == old.mean).all() and faded.variance == pytest.approx(old.variance)
    assert normalizer.merged(faded, new).mean[0] == pytest.approx(5.5)
    assert normalizer.merged(old, new).mean[0] < 1.2
    assert normalizer.faded(old, 2000.0) is old
