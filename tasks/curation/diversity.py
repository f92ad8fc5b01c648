"""Which of a problem's good samples are kept: those that say the most different things (pure functions)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.curation.candidates import Candidate, Rejection

_NGRAM = 3
_TOKEN = re.compile(r"[\u3400-\u9fff]|[A-Za-z]+|\d+|[^\s\w]")


def surplus(candidates: Sequence[Candidate], keep_per_problem: int) -> list[Rejection | None]:
    """None for at most `keep_per_problem` candidates of each problem, a reason for all others.

    The first in sampling order is kept, then each time the one whose thinking is farthest from the nearest
    one kept: sets of token 3-grams, Jaccard distance, ties by sampling order. Pure.
    """
    by_problem: dict[str, list[int]] = {}
    for i, c in enumerate(candidates):
        by_problem.setdefault(c.problem.id, []).append(i)
    over = Rejection("over-quota", f"{keep_per_problem} of this problem were kept")
    found: list[Rejection | None] = [over] * len(candidates)
    for places in by_problem.values():
        some = len(places) <= keep_per_problem
        kept = places if some else _farthest([candidates[i].thinking for i in places], keep_per_problem)
        for place in kept:
            found[place if some else places[place]] = None
    return found


def _farthest(texts: Sequence[str], count: int) -> list[int]:
    grams = [_grams(text) for text in texts]
    kept = [0]
    nearest = [_distance(grams[0], other) for other in grams]
    while len(kept) < count:
        left = (i for i in range(len(texts)) if i not in kept)
        best = max(left, key=lambda i: (nearest[i], -i))
        kept.append(best)
        nearest = [min(d, _distance(grams[best], g)) for d, g in zip(nearest, grams, strict=True)]
    return kept


def _grams(text: str) -> frozenset[int]:
    # Hashes and not texts: a thinking of ten thousand tokens would hold as many small strings three times.
    # CPython's hash of a tuple of strings differs from run to run, which changes no distance.
    tokens = [hash(token) for token in _TOKEN.findall(text.casefold())]
    if len(tokens) < _NGRAM:
        return frozenset(tokens)
    return frozenset(hash(gram) for gram in zip(*(tokens[i:] for i in range(_NGRAM)), strict=False))


def _distance(one: frozenset[int], other: frozenset[int]) -> float:
    both = len(one & other)
    either = len(one) + len(other) - both
    return 1 - both / either if either else 0.0
