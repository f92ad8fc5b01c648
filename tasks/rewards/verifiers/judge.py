"""Free text that no rule can grade: a reference that a language model compares with (paper B.3.3).

Rejection sampling asks its `judge`; everywhere else such a problem has no verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.problem import Problem

BY_RULE = False
"""No rule applies: `tasks.rewards.verifier.has_rule`."""


def judge(problem: Problem, completion: str) -> None:
    """No rule applies."""
