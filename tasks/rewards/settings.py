"""Settings of rewards: the terms that are summed, and the sandbox that code problems need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tasks.registry import any_of
from tasks.rewards.term import Term
from tasks.settings import VOLATILE, Settings

if TYPE_CHECKING:
    AnyTerm = Term
else:
    AnyTerm = any_of("tasks.rewards.terms", Term)
"""The settings of one term, told apart by `name`."""


class CodeChecking(Settings):
    """A stage that runs the model's programs."""

    allow_weak_sandbox: Annotated[bool, Field(json_schema_extra=VOLATILE)] = False
    """Run them even where this machine's kernel lacks a layer that the sandbox needs (`r1 doctor` shows
    them): they could then read files, use the network or reach other processes."""
