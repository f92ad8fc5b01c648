"""Settings of rewards: the terms that are summed, and the sandbox that code problems need."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tasks.settings import VOLATILE, Settings

RewardName = Literal["accuracy", "format", "language", "helpful", "safety", "repetition", "overlength"]


class RewardTerm(Settings):
    """One summand of the reward (Eq. 4, 7-10)."""

    name: RewardName
    weight: Annotated[float, Field(gt=0)] = 1.0
    last_steps: Annotated[int | None, Field(ge=1)] = None
    """Active only in the last N steps (final RL: preference rewards in the last 400)."""


class CodeChecking(Settings):
    """A stage that runs the model's programs."""

    allow_weak_sandbox: Annotated[bool, Field(json_schema_extra=VOLATILE)] = False
    """Run them even where this machine's kernel lacks a layer that the sandbox needs (`r1 doctor` shows
    them): they could then read files, use the network or reach other processes."""
