"""Notices a reward that cannot teach: constant from the start, made of checking errors, or never earned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tasks.rewards.score import Scored
from tasks.rewards.verdict import Verdict


class RewardHealth:
    """Feed it every step's scores; it answers with a reason to stop, or None."""

    def __init__(
        self,
        constant_steps: int = 5,
        error_limit: float = 0.05,
        least_rows: int = 20,
        futile_rollouts: int = 20,
    ) -> None:
        """`error_limit` is a share of all judged rows so far, looked at from `least_rows` rows on.

        After `futile_rollouts` in a row without one right answer, or without one well-formed completion where
        the term `format` is active, there is nothing to learn from; 0: never.
        """
        self._futile_rollouts = futile_rollouts
        self._never = {"pass rate": _Streak(), "format": _Streak()}
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
        judged = [row for row in scored if row.judgement]
        formats = [row for row in scored if "format" in row.terms]
        self._never["pass rate"].add(judged, [_is_right(row) for row in judged])
        self._never["format"].add(formats, [row.terms["format"] > 0 for row in formats])
        return self._too_many_errors() or self._constant() or self._futile()

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

    def _futile(self) -> str | None:
        for what, streak in self._never.items():
            if self._futile_rollouts and streak.rollouts >= self._futile_rollouts:
                return (
                    f"the {what} was 0 in {streak.rollouts} rollouts in a row ({streak.told()}): "
                    f"{'; '.join(streak.reasons())}; `futile_rollouts` says how long to wait"
                )
        return None


class _Streak:
    """Rollouts in a row without a success, and what their completions look like."""

    def __init__(self) -> None:
        self.rollouts = 0
        self._counts = Counter[str]()
        self._limit = 0

    def add(self, rows: Sequence[Scored], successes: Sequence[bool]) -> None:
        """One rollout; one without rows says nothing."""
        if any(successes):
            self.rollouts, self._counts = 0, Counter()
        elif rows:
            self.rollouts += 1
            for row in rows:
                self._limit = row.scoring.limit
                self._counts.update(_looks(row))

    def told(self) -> str:
        """Shares of the completions, most frequent first."""
        rows = self._counts["completions"]
        shares = [f"{n / rows:.0%} {what}" for what, n in self._counts.most_common() if what != "completions"]
        return f"{rows:,} completions: {', '.join(shares)}"

    def reasons(self) -> list[str]:
        """What may be behind it, as far as the completions show it."""
        rows = self._counts["completions"]
        checks = {
            "cut by the length limit": f"max_completion_length ({self._limit}) is too short: raise it",
            "without <think>": "the tags are never written (choose a template that shows them, or a base "
            "that knows them) or are lost when tokens become text",
            "not well formed": "the tags are there and not in their order: look at samples",
            "with a checking error": "verifier errors: look at column verdict of samples",
        }
        found = [reason for what, reason in checks.items() if self._counts[what] > rows / 3]
        return found or ["the problems are too hard for this model: choose easier ones or train it first"]


def _is_right(row: Scored) -> bool:
    return row.judgement is not None and row.judgement.verdict is Verdict.correct


def _looks(row: Scored) -> list[str]:
    found = ["completions"]
    if row.scoring.tokens >= row.scoring.limit:
        found.append("cut by the length limit")
    if "<think>" not in row.scoring.completion and "</think>" not in row.scoring.completion:
        found.append("without <think>")
    elif not row.scoring.parsed.well_formed:
        found.append("not well formed")
    if row.judgement and row.judgement.verdict is Verdict.error:
        found.append("with a checking error")
    return found
