"""The safety reward model's score of the whole response, on general prompts (paper 3.1, Eq. 9)."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.rewards.preference_term import PreferenceTerm


class Safety(PreferenceTerm):
    name: Literal["safety"] = "safety"
    problem_set: ClassVar[str] = "harmlessness"
