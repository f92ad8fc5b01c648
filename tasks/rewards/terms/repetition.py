"""Minus the share of repeated runs of words. An option of this project; the paper has no such term."""

from __future__ import annotations

from typing import Literal

from tasks.rewards.language import words
from tasks.rewards.term import Scoring, Term
from tasks.settings import Positive


class Repetition(Term):
    name: Literal["repetition"] = "repetition"
    ngram: Positive = 8
    """Words in a run."""

    def value(self, scoring: Scoring) -> float:
        return repetition_penalty(scoring.completion, self.ngram)


def repetition_penalty(text: str, ngram: int) -> float:
    """Minus the share of runs of `ngram` words that stood there before, -1 to 0."""
    found = words(text)
    runs = list(zip(*(found[at:] for at in range(ngram)), strict=False))
    return len(set(runs)) / len(runs) - 1.0 if runs else 0.0
