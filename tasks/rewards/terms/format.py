"""The format reward of R1-Zero (paper 2.2, Eq. 4): 1 where thinking and answer stand in their tags."""

from __future__ import annotations

from typing import Literal

from tasks.rewards.term import Scoring, Term


class Format(Term):
    name: Literal["format"] = "format"

    def value(self, scoring: Scoring) -> float:
        """1 where the whole completion is one thinking and one answer block, neither empty; else 0."""
        return float(scoring.parsed.well_formed)
