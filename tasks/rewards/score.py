"""The reward of completions: judged by rule, then every term, weighted and summed (paper Eq. 4, 7-10).

RL, curation and evaluation all score with `score`; what it finds goes into the `samples` table through
`scored_columns`. The terms are the files of `tasks/rewards/terms`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tasks.rewards.term import Resources, Scorer, Scoring, Term
from tasks.rewards.terms.accuracy import Accuracy
from tasks.rewards.terms.format import Format
from tasks.rewards.terms.language import Language

if TYPE_CHECKING:
    from tasks.problem import Problem
    from tasks.rewards.verdict import Judgement

RULE_TERMS: tuple[Term, ...] = (Accuracy(), Format(), Language())
"""What curation and evaluation note of every sample; they need no total."""


class Verifies(Protocol):
    """The verifier pool, or what stands in front of it."""

    def verify(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Judgement | None]:
        """One judgement a row, in order; None where no rule applies to the problem."""
        ...


@dataclass(frozen=True)
class Scored:
    """One completion's reward."""

    scoring: Scoring
    terms: dict[str, float] = field(default_factory=dict)
    """Unweighted values, by name, of the terms that apply to this problem at this step."""
    total: float = 0.0
    """Their weighted sum."""

    @property
    def judgement(self) -> Judgement | None:
        return self.scoring.judgement


class RewardFunction:
    """A verifier and terms that are ready to score."""

    def __init__(self, terms: Sequence[Term], verifier: Verifies, resources: Resources | None = None) -> None:
        """Raises ValueError where a term needs what `resources` do not hold."""
        self._terms = tuple(terms)
        self._verifier = verifier
        self._scorers: dict[str, Scorer] = {
            term.name: term.scorer(resources or Resources()) for term in self._terms
        }

    def score(
        self, problems: Sequence[Problem], completions: Sequence[str], tokens: Sequence[int], limit: int,
        step: int = 0, total_steps: int = 1,
    ) -> list[Scored]:  # fmt: skip
        """One `Scored` a row, in order.

        `tokens` are the completions' lengths, `limit` the longest allowed; `step` counts from 0.
        """
        judgements = self._verifier.verify(problems, completions)
        rows = [
            Scoring(p, c, j, n, limit)
            for p, c, j, n in zip(problems, completions, judgements, tokens, strict=True)
        ]
        active = [term for term in self._terms if term.is_active(step, total_steps)]
        columns = {term: self._scorers[term.name](rows) for term in active}
        return [
            _summed(row, {term: column[i] for term, column in columns.items()}) for i, row in enumerate(rows)
        ]


def _summed(row: Scoring, values: dict[Term, float | None]) -> Scored:
    applying = {term: value for term, value in values.items() if value is not None}
    total = sum(term.weight * value for term, value in applying.items())
    return Scored(row, {term.name: value for term, value in applying.items()}, total)


def scored_columns(scored: Sequence[Scored], terms: Sequence[Term]) -> dict[str, list[Any]]:
    """The columns of the `samples` table that scoring fills, without the total.

    `answer` is the final answer that was judged; where no rule applies it is the text of the answer block,
    and the verdict is null. A value that is no finite number is null too.
    """
    judgements = [s.judgement for s in scored]
    return {
        "thinking": [s.scoring.parsed.thinking for s in scored],
        "answer": [
            j.extracted if j else s.scoring.parsed.answer for s, j in zip(scored, judgements, strict=True)
        ],
        "verdict": [j.verdict.value if j else None for j in judgements],
        **{term.column: [finite(s.terms.get(term.name)) for s in scored] for term in terms},
    }


def finite(value: float | None) -> float | None:
    """`value`, or None where it is no finite number."""
    return value if value is not None and math.isfinite(value) else None
