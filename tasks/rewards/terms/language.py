"""The language-consistency reward (paper 3.2.1, Eq. 7): thinking words in the question's language."""

from __future__ import annotations

from typing import Literal

from tasks.rewards.term import Scoring, Term


class Language(Term):
    name: Literal["language"] = "language"

    def value(self, scoring: Scoring) -> float:
        return scoring.language_consistency
