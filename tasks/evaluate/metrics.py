"""Evaluation metrics with intervals (paper D.1): pass@1, pass@k, cons@k and what else a sample tells.

Every metric is first a value for each question and then their mean, so one bootstrap over questions
gives every interval. Arrays are (questions,) or (questions, samples); NaN stands for a question that a
metric says nothing about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

RESAMPLES = 2_000
"""Bootstrap resamples; the interval's ends are then good to about a hundredth of its width."""


@dataclass(frozen=True)
class Estimate:
    """A mean over questions with its 95% interval; `questions` are those it is a mean of."""

    value: float
    low: float
    high: float
    questions: int


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of the n samples, drawn without replacement, hold one of the c correct ones.

    Unbiased for the chance that k fresh samples hold a correct one (Chen et al. 2021).

    Raises:
        ValueError: fewer samples than k, or counts that cannot be.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples a question, there are {n}: sample more")
    if not 0 <= c <= n:
        raise ValueError(f"{c} correct of {n} samples cannot be")
    return 1.0 - comb(n - c, k) / comb(n, k)


def consensus(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    """cons@k of one question: whether the most frequent answer is correct.

    Answers are compared with white space and case folded; samples without one do not vote. Where
    several answers lead, the value is the share of them that are correct (the expected result of
    drawing one); where nobody votes it is 0. An answer counts as correct if any of its samples does.
    """
    votes: Counter[str] = Counter()
    right: set[str] = set()
    for answer, ok in zip(answers, correct, strict=True):
        if answer is not None:
            folded = " ".join(answer.split()).casefold()
            votes[folded] += 1
            right |= {folded} if ok else set()
    if not votes:
        return 0.0
    most = max(votes.values())
    leaders = [a for a, n in votes.items() if n == most]
    return sum(a in right for a in leaders) / len(leaders)


def bootstrap(per_question: Sequence[float] | np.ndarray, seed: int) -> Estimate | None:
    """Mean and 95% percentile interval over questions; None where no question has a value.

    The interval is for the mean over questions like these; it does not cover the choice of domain.
    """
    values = np.asarray(per_question, dtype=np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    mean = float(values.mean())
    return Estimate(mean, min(float(low), mean), max(float(high), mean), len(values))


def mean_where(values: np.ndarray) -> np.ndarray:
    """The mean of each question's samples that have a value; NaN where none has. Shape (questions,)."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    return np.divide(total, known.sum(axis=1), out=np.full(len(values), np.nan), where=known.any(axis=1))
