"""The helpful reward model's score of the final answer, on general prompts (paper 3.1, Eq. 8)."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.rewards.preference_term import PreferenceTerm


class Helpful(PreferenceTerm):
    name: Literal["helpful"] = "helpful"
    problem_set: ClassVar[str] = "helpfulness"
