"""The estimators of one question's samples (paper D.1): pass@1, pass@k and cons@k.

Every metric is first a value for each question and then their mean, so that one bootstrap over questions
(`tasks.intervals`) gives every interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that k of the n samples, drawn without replacement, hold one of the c correct ones.

    Unbiased for the chance that k fresh samples hold a correct one (Chen et al. 2021).

    Raises:
        ValueError: fewer samples than k, or counts that cannot be.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples a question, there are {n}: sample more")
    if not 0 <= c <= n:
        raise ValueError(f"{c} correct of {n} samples cannot be")
    return 1.0 - comb(n - c, k) / comb(n, k)


def consensus(
    votes: Sequence[Hashable | None], correct: Sequence[bool], samples: Sequence[int] | None = None
) -> float:
    """Return cons@k of one question: whether the answer with most votes is correct.

    `votes` holds what each sample votes for (`tasks.evaluate.voting`: equivalent answers are one), None for
    a sample without an answer, which does not vote; with `samples`, an entry stands for so many of them.
    Where several answers lead, the value is the share of them that are correct (the expected result of
    drawing one); where nobody votes it is 0. An answer counts as correct if any of its samples does.
    """
    counts: Counter[Hashable] = Counter()
    for vote, times in zip(votes, samples or [1] * len(votes), strict=True):
        if vote is not None:
            counts[vote] += times
    if not counts:
        return 0.0
    most = max(counts.values())
    leaders = [vote for vote, count in counts.items() if count == most]
    right = {vote for vote, ok in zip(votes, correct, strict=True) if ok}
    return sum(leader in right for leader in leaders) / len(leaders)
