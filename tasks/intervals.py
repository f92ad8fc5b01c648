"""Means with 95% bootstrap intervals, and the paired test of two checkpoints on the same questions.

Questions are resampled with replacement, in bounded time and memory: values that occur often are drawn as
counts (a question's pass@1 has only samples + 1 values), others in chunks. The mean of more than
`_MOST_DRAWN` different values is normal for every practical purpose (central limit theorem), and is drawn as
such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import erfc, sqrt

import numpy as np

RESAMPLES = 2_000
"""Bootstrap resamples; the interval's ends are then good to about a hundredth of its width."""
PERMUTATIONS = 10_000
"""Random sign flips of the paired test; with up to `_ALL_FLIPS` differing questions all flips are counted."""
_ALL_FLIPS = 12
_STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""97.5% quantiles of Student's t with 1, 2, ... degrees of freedom; beyond them the normal one serves."""
_NORMAL = 1.96
_MOST_DRAWN = 10_000
_CHUNK = 2**21
"""Numbers drawn at once: 16 MiB."""
_DRAWS_A_COUNT = 8
"""Drawing a count takes about as long as drawing so many single values."""


@dataclass(frozen=True)
class MeanWithInterval:
    """A mean with its 95% interval; `count` is the number of questions (or training steps) it is over."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of two checkpoints over the questions that both answered."""

    value: float
    low: float
    high: float
    p_value: float
    """Of a two-sided sign-flip permutation test that the two are equally good."""
    questions: int


def bootstrap(values: Sequence[float] | np.ndarray, seed: int = 0) -> MeanWithInterval | None:
    """Return the mean and its 95% percentile interval; None where no value is known.

    NaN stands for a question without a value. The interval is for the mean over questions like these; it
    covers neither the choice of domain nor another training run. The order of the values does not matter.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    return _interval(float(known.mean()), _resampled_means(known, np.random.default_rng(seed)), len(known))


def bootstrap_difference(late: np.ndarray, early: np.ndarray, seed: int = 0) -> MeanWithInterval:
    """Return the mean of `late` minus the mean of `early`, both resampled independently."""
    rng = np.random.default_rng(seed)
    draws = _resampled_means(late, rng) - _resampled_means(early, rng)
    return _interval(float(late.mean() - early.mean()), draws, len(late) + len(early))


def paired_difference(a: Mapping[str, float], b: Mapping[str, float], seed: int = 0) -> PairedDifference:
    """Compare two checkpoints' question means: a minus b, over the questions (keys) that both have.

    The interval is a bootstrap over these questions. The p-value is the share of sign flips of the
    differences whose mean is at least as far from 0: under the null hypothesis the two answers to a question
    could be exchanged.

    Raises:
        ValueError: no question is in both.
    """
    shared = sorted(a.keys() & b.keys())
    differences = np.array([a[question] - b[question] for question in shared], dtype=np.float64)
    interval = bootstrap(differences, seed)
    if interval is None:
        raise ValueError("the two checkpoints answered no question in common: evaluate both on the same ones")
    p_value = _sign_flip_test(differences[~np.isnan(differences)], np.random.default_rng(seed))
    return PairedDifference(interval.value, interval.low, interval.high, p_value, interval.count)


def over_runs(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95% interval for the mean over training runs (Student's t); None for a single run."""
    freedom = len(values) - 1
    if freedom < 1:
        return None
    quantile = _STUDENT_T[freedom - 1] if freedom <= len(_STUDENT_T) else _NORMAL
    mean, half = float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / sqrt(len(values))
    return mean - half, mean + half


def _sign_flip_test(differences: np.ndarray, rng: np.random.Generator) -> float:
    """Return the two-sided p-value of the mean of paired differences."""
    sizes = np.abs(differences[differences != 0])
    # Equal sums can differ in their last digits by the order of their terms.
    seen = abs(float(differences.sum())) - 1e-9 * float(sizes.sum())
    if len(sizes) <= _ALL_FLIPS:
        sums = np.array([np.dot(signs, sizes) for signs in product((-1, 1), repeat=len(sizes))])
        return float((np.abs(sums) >= seen).mean())
    if len(sizes) > _MOST_DRAWN:
        return erfc(max(seen, 0.0) / sqrt(2 * float((sizes**2).sum())))
    beyond = 0
    for rows in _chunks(PERMUTATIONS, len(sizes)):
        plus = rng.integers(0, 2, (rows, len(sizes)), dtype=np.int8) @ sizes
        beyond += int((np.abs(2 * plus - sizes.sum()) >= seen).sum())
    return (1 + beyond) / (1 + PERMUTATIONS)


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(RESAMPLES,) means of `len(values)` draws with replacement."""
    n = len(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) * _DRAWS_A_COUNT <= n:
        parts = _chunks(RESAMPLES, len(distinct))
        drawn = [rng.multinomial(n, counts / n, rows) @ distinct / n for rows in parts]
    elif n > _MOST_DRAWN:
        return rng.normal(values.mean(), values.std() / sqrt(n), RESAMPLES)
    else:
        ordered = np.repeat(distinct, counts)
        parts = _chunks(RESAMPLES, n)
        drawn = [ordered[rng.integers(0, n, (rows, n), dtype=np.int32)].mean(axis=1) for rows in parts]
    return np.concatenate(drawn)


def _chunks(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows that add up to `rows`, each of them at most `_CHUNK` values."""
    most = max(1, _CHUNK // max(columns, 1))
    for start in range(0, rows, most):
        yield min(most, rows - start)


def _interval(value: float, draws: np.ndarray, count: int) -> MeanWithInterval:
    # Rounding can put a percentile of equal draws a last digit above their mean: the interval holds it.
    low, high = np.quantile(draws, (0.025, 0.975))
    return MeanWithInterval(value, min(float(low), value), max(float(high), value), count)
