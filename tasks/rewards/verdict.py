"""What a rule says about one completion (paper 2.2: accuracy rewards come from rules, not models)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Every row gets exactly one; only `correct` earns the accuracy reward."""

    correct = "correct"
    wrong = "wrong"
    unparseable = "unparseable"
    """There is no final answer, or it cannot be read."""
    timeout = "timeout"
    """Checking the answer ran past its time or memory."""
    error = "error"
    """The checking itself failed (gold answer unreadable, worker lost twice): counted, never hidden."""


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    extracted: str | None
    """The final answer that was judged; None where there was none."""
    detail: str = ""
    """Why, where the verdict alone does not say it."""
    share: float | None = None
    """Code problems under partial credit: the share of cases that passed."""
