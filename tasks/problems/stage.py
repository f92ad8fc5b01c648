"""Declares the stage `problems` (paper B.3.1, Table 4); `draw.py` here does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from tasks.kinds import Kind
from tasks.problems.source import Source
from tasks.registry import any_of
from tasks.settings import Positive, Settings
from tasks.stage import Stage

if TYPE_CHECKING:
    AnySource = Source
else:
    AnySource = any_of("tasks.problems.sources", Source)


class ProblemsConfig(Settings):
    """Where the problems come from (paper B.3.1, Table 4)."""

    sources: Annotated[tuple[AnySource, ...], Field(min_length=1)]
    """Each with a `name` (a file of `tasks/problems/sources`) and that source's own settings."""
    decontamination_ngram: Positive = 10
    """Training problems that share an n-gram of this many words with a held-out one are rejected."""
    seed: int = 0


PROBLEMS = Stage(
    "problems", 2, "Problems", "Training and held-out problems that share no question (paper B.3.1).",
    "cpu", ProblemsConfig, {}, Kind.problems, "tasks.problems.draw:run",
    nodes={"problems": "Problems"},
)  # fmt: skip
