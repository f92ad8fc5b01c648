"""Notices a reward that cannot teach: constant from the start, or made of checking errors."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.rewards.score import Scored
from tasks.rewards.verdict import Verdict


class RewardHealth:
    """Feed it every step's scores; it answers with a reason to stop, or None."""

    def __init__(self, constant_steps: int = 5, error_limit: float = 0.05, least_rows: int = 20) -> None:
        """`error_limit` is a share of all judged rows so far, looked at from `least_rows` rows on."""
        self._constant_steps = constant_steps
        self._error_limit = error_limit
        self._least_rows = least_rows
        self._steps = 0
        self._judged = 0
        self._errors = 0
        self._lowest = float("inf")
        self._highest = float("-inf")
        self._last_error = ""

    @property
    def errors(self) -> int:
        """Rows whose checking failed so far."""
        return self._errors

    def observe(self, scored: Sequence[Scored]) -> str | None:
        """Take in one step's rows; the reason why the stage should stop, or None."""
        self._steps += 1
        for row in scored:
            self._lowest, self._highest = min(self._lowest, row.total), max(self._highest, row.total)
            self._judged += row.judgement is not None
            if row.judgement and row.judgement.verdict is Verdict.error:
                self._errors += 1
                self._last_error = row.judgement.detail
        return self._too_many_errors() or self._constant()

    def _too_many_errors(self) -> str | None:
        if self._judged < self._least_rows or self._errors <= self._error_limit * self._judged:
            return None
        return (
            f"{self._errors} of {self._judged} answers could not be checked (limit {self._error_limit:.0%}); "
            f"the last one: {self._last_error}"
        )

    def _constant(self) -> str | None:
        if self._steps != self._constant_steps or self._lowest != self._highest:
            return None
        return (
            f"the reward was {self._highest:g} for every completion of the first {self._steps} steps: there "
            "is nothing to learn; check the template, the base model's format and the problems' difficulty"
        )
