"""Means with 95% bootstrap intervals, for scores over questions and for claims that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2_000
"""Bootstrap resamples; the interval's ends are then good to about a hundredth of its width."""


@dataclass(frozen=True)
class MeanWithInterval:
    """A mean with its 95% interval; `count` is the number of questions (or training steps) it is over."""

    value: float
    low: float
    high: float
    count: int


def bootstrap(values: Sequence[float] | np.ndarray, seed: int = 0) -> MeanWithInterval | None:
    """Return the mean and its 95% percentile interval; None where no value is known.

    NaN stands for a question without a value. The interval is for the mean over questions like these; it
    covers neither the choice of domain nor another training run.
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


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(RESAMPLES,) means of `len(values)` draws with replacement."""
    drawn = rng.integers(0, len(values), (RESAMPLES, len(values)))
    means: np.ndarray = values[drawn].mean(axis=1)
    return means


def _interval(value: float, draws: np.ndarray, count: int) -> MeanWithInterval:
    # Rounding can put a percentile of equal draws a last digit above their mean: the interval holds it.
    low, high = np.quantile(draws, (0.025, 0.975))
    return MeanWithInterval(value, min(float(low), value), max(float(high), value), count)
