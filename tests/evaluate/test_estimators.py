"""Estimators against enumeration and known values."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluate.estimators import consensus, pass_at_k

COUNTS = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(COUNTS)
def test_pass_at_k_is_the_share_of_all_draws(counts):
    n, c, k = counts
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_rises_with_k_from_the_mean(counts):
    n, c = counts
    values = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(c / n)
    assert values[-1] == float(c > 0)
    if c < n:
        assert pass_at_k(n, c + 1, n // 2 + 1) >= pass_at_k(n, c, n // 2 + 1)


def test_pass_at_k_refuses_fewer_samples_than_k():
    with pytest.raises(ValueError, match="pass@64 needs at least 64 samples a question, there are 8"):
        pass_at_k(8, 4, 64)
    with pytest.raises(ValueError, match="9 correct of 8"):
        pass_at_k(8, 9, 1)


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["1", "1", "2"], [True, True, False], 1),
        (["1", "2", "2"], [True, False, False], 0),
        (["1", "2"], [True, False], 0.5),
        (["1", "2", "3"], [False, False, False], 0),
        ([None, None, "1"], [False, False, True], 1),
        ([None, None], [False, False], 0),
        (["1", "1", "2", "2"], [True, True, False, False], 0.5),
        (["1", "1", "2", "2", "3", "3"], [True, True, False, False, False, False], 1 / 3),
    ],
)
def test_consensus(answers, correct, expected):
    assert consensus(answers, correct) == expected


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(1, 4)), min_size=1, max_size=6))
def test_counted_votes_are_the_same_votes(counted):
    votes, times = zip(*counted, strict=True)
    each = [vote for vote, n in counted for _ in range(n)]
    assert consensus(votes, [v == "a" for v in votes], times) == consensus(each, [v == "a" for v in each])


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), st.randoms())
def test_consensus_does_not_depend_on_the_order(answers, rng):
    shuffled = answers.copy()
    rng.shuffle(shuffled)
    assert consensus(answers, [a == "a" for a in answers]) == consensus(
        shuffled, [a == "a" for a in shuffled]
    )
