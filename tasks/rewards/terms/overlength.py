"""DAPO's soft penalty before the length limit (its Eq. 13). An option; the paper has no such term."""

from __future__ import annotations

from typing import Literal

from tasks.rewards.term import Scoring, Term
from tasks.settings import Positive


class Overlength(Term):
    name: Literal["overlength"] = "overlength"
    buffer: Positive = 4_096
    """Tokens before the limit over which the penalty falls."""

    def value(self, scoring: Scoring) -> float:
        """0 up to `buffer` tokens before the limit, then in a straight line to -1 at the limit."""
        return -min(1.0, max(0.0, (scoring.tokens - (scoring.limit - self.buffer)) / self.buffer))
