"""The accuracy reward of R1-Zero (paper 2.2, Eq. 4): 1 where the problem's rule says correct, else 0."""

from __future__ import annotations

from typing import Literal

from tasks.rewards.term import Scoring, Term
from tasks.rewards.verdict import Verdict


class Accuracy(Term):
    name: Literal["accuracy"] = "accuracy"
    partial_credit: bool = False
    """Of a code problem the share of its cases that pass, not 1 for all of them and else 0."""

    @property
    def every_case(self) -> bool:  # type: ignore[override]
        return self.partial_credit

    def value(self, scoring: Scoring) -> float | None:
        if scoring.judgement is None:
            return None
        share = scoring.judgement.share if self.partial_credit else None
        return float(scoring.judgement.verdict is Verdict.correct) if share is None else share
