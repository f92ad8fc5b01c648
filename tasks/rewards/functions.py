"""The reward of a stage: rule and model terms, weighted, routed by kind of problem (paper Eq. 4, 7-10).

    accuracy   problems that a rule can check            1 for `correct`, else 0
    format     all                                       1 where thinking and answer stand in their tags
    language   all                                       share of thinking words in the problem's language
    helpful    general problems of the helpfulness set   the reward model's score
    safety     general problems of the harmlessness set  the reward model's score
    repetition all                                       minus the share of repeated runs of words
    overlength all                                       0, falling to -1 just before the length limit

`repetition` and `overlength` are options that the paper does not have.

A term with `last_steps: N` counts only in the last N steps. The paper does not publish weights (all 1
here unless the preset says otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.rendering import parse_completion
from tasks.rewards.language import language_consistency, repetition_penalty
from tasks.rewards.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from tasks.problem import Problem
    from tasks.rewards.pool import VerifierPool
    from tasks.rewards.settings import RewardTerm

ModelScorer = Callable[[Sequence["Problem"], Sequence[str]], list[float]]
"""A reward model: one score for each problem and completion."""

_SETS = {"helpful": "helpfulness", "safety": "harmlessness"}
"""Which set of general problems a reward model scores."""


@dataclass(frozen=True)
class Scored:
    """One completion's reward."""

    judgement: Judgement | None
    """None where no rule applies."""
    terms: dict[str, float] = field(default_factory=dict)
    """Unweighted values of the terms that apply to this problem at this step."""
    total: float = 0.0
    """Their weighted sum."""


class RewardFunction:
    """Scores batches; holds no state of its own."""

    def __init__(
        self, terms: Sequence[RewardTerm], pool: VerifierPool,
        models: Mapping[str, ModelScorer] | None = None,
        repetition_ngram: int = 8, overlength_buffer: int = 4_096,
    ) -> None:  # fmt: skip
        """Raises ValueError where a term needs a reward model that `models` does not hold."""
        self._terms = tuple(terms)
        self._pool = pool
        self._models = dict(models or {})
        self._ngram, self._buffer = repetition_ngram, overlength_buffer
        missing = [t.name for t in self._terms if t.name in _SETS and t.name not in self._models]
        if missing:
            raise ValueError(
                f"reward terms {missing} need reward models and none was given: pass the output of the "
                "reward-models stage, or remove the terms from `rewards`"
            )

    def score(
        self, problems: Sequence[Problem], completions: Sequence[str], step: int, total_steps: int,
        tokens: Sequence[int] = (), limit: int = 0,
    ) -> list[Scored]:  # fmt: skip
        """One `Scored` a row, in order. `step` counts from 0.

        `tokens` are the completions' lengths and `limit` the longest allowed; only `overlength` needs them.
        """
        judgements = self._judgements(problems, completions)
        columns: dict[str, list[float | None]] = {
            term.name: self._overlength(completions, tokens, limit)
            if term.name == "overlength"
            else self._column(term.name, problems, completions, judgements)
            for term in self._terms
            if is_active(term, step, total_steps)
        }
        weights: dict[str, float] = {term.name: term.weight for term in self._terms}
        return [_scored(columns, weights, row, judgement) for row, judgement in enumerate(judgements)]

    def _judgements(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Judgement | None]:
        rows = [row for row, problem in enumerate(problems) if problem.verifier != "rubric"]
        verified = self._pool.verify([problems[row] for row in rows], [completions[row] for row in rows])
        found = dict(zip(rows, verified, strict=True))
        return [found.get(row) for row in range(len(problems))]

    def _overlength(
        self, completions: Sequence[str], tokens: Sequence[int], limit: int
    ) -> list[float | None]:
        if len(tokens) != len(completions) or limit < 1:
            raise ValueError(
                "the term overlength needs `tokens`, one a completion, and `limit`: pass them to score"
            )
        return [overlength_penalty(length, limit, self._buffer) for length in tokens]

    def _column(
        self,
        name: str,
        problems: Sequence[Problem],
        completions: Sequence[str],
        judgements: Sequence[Judgement | None],
    ) -> list[float | None]:
        if name == "accuracy":
            return [None if j is None else _accuracy(j) for j in judgements]
        if name == "format":
            return [format_reward(completion) for completion in completions]
        if name == "repetition":
            return [repetition_penalty(completion, self._ngram) for completion in completions]
        if name == "language":
            pairs = zip(problems, completions, strict=True)
            return [language_consistency(parse_completion(c).thinking, p.language) for p, c in pairs]
        return self._model_column(name, problems, completions)

    def _model_column(
        self, name: str, problems: Sequence[Problem], completions: Sequence[str]
    ) -> list[float | None]:
        rows = [row for row, p in enumerate(problems) if p.verifier_args.get("set") == _SETS[name]]
        column: list[float | None] = [None] * len(problems)
        if rows:
            scores = self._models[name]([problems[r] for r in rows], [completions[r] for r in rows])
            for row, score in zip(rows, scores, strict=True):
                column[row] = float(score)
        return column


def format_reward(completion: str) -> float:
    """1.0 where the whole completion is one thinking block and one answer block, neither empty; else 0.0."""
    return float(parse_completion(completion).well_formed)


def overlength_penalty(tokens: int, limit: int, buffer: int) -> float:
    """0 up to `buffer` tokens before the limit, then in a straight line to -1 at the limit (DAPO Eq. 13)."""
    return -min(1.0, max(0.0, (tokens - (limit - buffer)) / buffer))


def is_active(term: RewardTerm, step: int, total_steps: int) -> bool:
    """Whether a term counts at `step` (from 0): always, or in its last N steps only."""
    return term.last_steps is None or step >= total_steps - term.last_steps


def _accuracy(judgement: Judgement) -> float:
    return float(judgement.verdict is Verdict.correct) if judgement.share is None else judgement.share


def _scored(
    columns: Mapping[str, Sequence[float | None]],
    weights: Mapping[str, float],
    row: int,
    judgement: Judgement | None,
) -> Scored:
    terms = {name: value for name, column in columns.items() if (value := column[row]) is not None}
    return Scored(judgement, terms, sum(weights[name] * value for name, value in terms.items()))
