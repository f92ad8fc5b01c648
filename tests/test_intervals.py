"""Bootstrap intervals against known values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.intervals import PERMUTATIONS, bootstrap, bootstrap_difference, over_runs, paired_difference


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


@pytest.mark.parametrize("draw", ["few distinct values", "many values"])
@pytest.mark.parametrize("n", [40, 400, 12_000])
def test_every_way_of_drawing_gives_the_textbook_width(draw, n):
    rng = np.random.default_rng(n)
    values = rng.binomial(4, 0.3, n) / 4 if draw == "few distinct values" else rng.lognormal(0, 0.5, n)
    found = bootstrap(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / n**0.5, rel=0.12)
    assert bootstrap(rng.permutation(values)) == pytest.approx(found)


def as_questions(values):
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def test_a_paired_difference_on_known_data():
    """Six questions, all better by 1: of 64 sign flips two are as far from 0."""
    found = paired_difference(as_questions([1.0] * 6), as_questions([0.0] * 6))
    assert (found.value, found.low, found.high, found.questions) == (1, 1, 1, 6)
    assert found.p_value == pytest.approx(2 / 64)
    back = paired_difference(as_questions([0.0] * 6), as_questions([1.0] * 6))
    assert (back.value, back.p_value) == (-1, found.p_value)


def test_only_shared_questions_are_compared_and_none_is_an_error():
    found = paired_difference({"a": 1.0, "b": 0.5}, {"b": 0.25, "c": 0.0})
    assert (found.value, found.questions, found.p_value) == (0.25, 1, 1)
    with pytest.raises(ValueError, match="no question in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_equal_checkpoints_have_no_difference():
    means = as_questions(np.random.default_rng(0).random(50))
    found = paired_difference(means, means)
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("n", [11, 60, 11_000])
def test_the_p_value_is_that_of_the_paired_t_test(n):
    """Which the sign-flip test approaches; for normal differences they agree closely."""
    rng = np.random.default_rng(n)
    hard = rng.random(n)
    better = hard + rng.normal(0.5 / n**0.5, 0.3, n)
    found = paired_difference(as_questions(better), as_questions(hard))
    d = better - hard
    t = d.mean() / (d.std(ddof=1) / n**0.5)
    expected = 2 * (1 - 0.5 * (1 + math.erf(abs(t) / 2**0.5)))
    assert found.p_value == pytest.approx(expected, abs=0.05)


def test_the_p_value_is_uniform_where_nothing_differs():
    rng = np.random.default_rng(5)
    found = [
        paired_difference(
            as_questions(rng.binomial(4, 0.5, 30) / 4), as_questions(rng.binomial(4, 0.5, 30) / 4), i
        )
        for i in range(100)
    ]
    below = sum(f.p_value < 0.1 for f in found)
    assert 2 <= below <= 20
    assert min(f.p_value for f in found) >= 1 / (1 + PERMUTATIONS)


def test_the_interval_over_training_runs_is_students():
    assert over_runs([0.4]) is None
    low, high = over_runs([1.0, 2.0, 3.0])  # deviation 1, two degrees of freedom
    assert (low, high) == pytest.approx((2 - 4.30 / 3**0.5, 2 + 4.30 / 3**0.5))
    low, high = over_runs([0.0, 2.0] * 50)
    assert high - low == pytest.approx(2 * 1.96 * (100 / 99) ** 0.5 / 10)
