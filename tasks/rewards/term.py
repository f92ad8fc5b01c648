"""What a reward term is: one summand of the reward (paper Eq. 4, 7-10). Each is a file of `terms/`.

The settings of a term and its function are one class, so that a file says everything about it:

    class Short(Term):
        name: Literal["short"] = "short"
        limit: Positive = 100

        def value(self, scoring: Scoring) -> float | None:
            return float(scoring.tokens <= self.limit)

In a preset it is `rewards: [{name: short, weight: 0.5}]`; its values are the column `reward_short` of the
`samples` table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from tasks.rendering import Parsed, Template, parse_completion
from tasks.rewards.language import language_consistency
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.problem import Problem
    from tasks.rewards.verdict import Judgement


@dataclass(frozen=True)
class Scoring:
    """One completion that is scored: everything a term may look at."""

    problem: Problem
    completion: str
    judgement: Judgement | None
    """What the problem's rule says; None where no rule applies."""
    tokens: int
    """Of the completion, the end token included."""
    limit: int
    """The most tokens it could have had."""

    @cached_property
    def parsed(self) -> Parsed:
        """Thinking and answer."""
        return parse_completion(self.completion)

    @cached_property
    def language_consistency(self) -> float:
        """Of the thinking (Eq. 7): rewarded and logged, but counted once, 2 to 5 ms for 20,000 characters."""
        return language_consistency(self.parsed.thinking, self.problem.language)


@dataclass(frozen=True)
class Resources:
    """What a term may need beside the completion."""

    reward_models: Path | None = None
    """The folder of a `reward_models` artifact."""
    template: Template = "r1"
    """How questions were rendered."""


Values = list[float | None]
"""One value a row; None where the term does not apply to the row's problem."""
Scorer = Callable[[Sequence[Scoring]], Values]


class Term(Settings):
    """The settings every term has, and what it computes."""

    name: str
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor in the sum. The paper does not publish weights: 1 for all."""
    last_steps: Annotated[int | None, Field(ge=1)] = None
    """Active only in the last N steps (final RL: preference rewards in the last 400)."""

    needs_reward_models: ClassVar[bool] = False
    """The stage must have the input `reward_models`."""
    every_case: ClassVar[bool] = False
    """The term needs the share of a code problem's cases that pass: none is skipped after a failure."""

    @property
    def column(self) -> str:
        """The column of its values in the `samples` table."""
        return f"reward_{self.name}"

    def is_active(self, step: int, total_steps: int) -> bool:
        """Whether the term counts at `step` (from 0): always, or in its last N steps only."""
        return self.last_steps is None or step >= total_steps - self.last_steps

    def value(self, scoring: Scoring) -> float | None:
        """The unweighted value of one completion; None where the term does not apply to its problem."""
        raise NotImplementedError

    def scorer(self, resources: Resources) -> Scorer:
        """What computes the values of many rows; a term that runs a model overrides it to run it in batches.

        Raises:
            ValueError: `resources` lack what the term needs.
        """
        return lambda rows: [self.value(row) for row in rows]
