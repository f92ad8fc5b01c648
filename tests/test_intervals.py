"""Bootstrap intervals against known values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.intervals import bootstrap, bootstrap_difference


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(0, 100))
def test_bootstrap_holds_the_mean_and_repeats(values, seed):
    found = bootstrap(values, seed)
    assert found == bootstrap(values, seed)
    assert found.low <= found.value <= found.high
    assert min(values) <= found.low + 1e-9
    assert found.high <= max(values) + 1e-9


def test_bootstrap_interval_has_the_textbook_width():
    values = np.random.default_rng(0).random(400) < 0.3
    found = bootstrap(values, 1)
    expected = 2 * 1.96 * np.sqrt(found.value * (1 - found.value) / 400)
    assert found.high - found.low == pytest.approx(expected, rel=0.08)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    found = [bootstrap(rng.random(60) < 0.4, i) for i in range(300)]
    assert 0.90 <= np.mean([f.low <= 0.4 <= f.high for f in found]) <= 0.98


def test_questions_without_a_value_are_left_out():
    assert bootstrap([np.nan, 0.5, 0.5], 0).count == 2
    assert bootstrap([np.nan], 0) is None
    assert bootstrap([], 0) is None


def test_the_difference_of_two_series():
    rng = np.random.default_rng(4)
    found = bootstrap_difference(rng.normal(3, 1, 200), rng.normal(1, 1, 200))
    assert found.low < 2 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(2 / 200), rel=0.2)
    assert found.count == 400
