"""Declares the stage `problems` (paper B.3.1, Table 4); `draw.py` here does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from tasks.kinds import Kind
from tasks.problems.source import Source
from tasks.registry import any_of
from tasks.settings import Count, Positive, Settings
from tasks.stage import Place, Stage

if TYPE_CHECKING:
    AnySource = Source
else:
    AnySource = any_of("tasks.problems.sources", Source)


class ProblemsConfig(Settings):
    """Where the problems come from (paper B.3.1, Table 4)."""

    sources: Annotated[tuple[AnySource, ...], Field(min_length=1)]
    """Each with a `name` (a file of `tasks/problems/sources`) and that source's own settings."""
    train: Count = 0
    """Training problems that the sources with a `weight` give together; the others give what their counts
    say."""
    benchmarks: tuple[AnySource, ...] = ()
    """Sources of questions that no training problem may copy, beside the held-out ones. They are read for
    that only; `evaluation.benchmarks` adds those that are evaluated with to `sources`."""
    near_duplicates: Annotated[float, Field(gt=0, le=1)] | None = None
    """Training problems are dropped if so much of their runs of five words, and the answer, is that of an
    earlier one (MinHash estimate of the Jaccard similarity; 0.8 is usual). Off by default."""
    decontamination_ngram: Positive = 10
    """Training problems that are near copies of a held-out one are rejected. A held-out question with fewer
    words than this (the paper's n-gram) must be found as a whole, of a longer one 60% of the content."""
    seed: int = 0
    """Of the whole mixture: which rows are drawn, and the order of shuffled options."""

    @model_validator(mode="after")
    def _weights_have_a_total(self) -> Self:
        weighted = [source for source in self.sources if source.weight is not None]
        if bool(weighted) != bool(self.train):
            raise ValueError("`train` and the `weight` of a source need each other: give both or neither")
        return self


PROBLEMS = Stage(
    "problems", 4, "Problems", "Training and held-out problems that share no question (paper B.3.1).",
    "cpu", ProblemsConfig, {}, Kind.problems, "tasks.problems.draw:run",
    nodes={"problems": Place("Problems", 0, 3, "training and held-out", mark="P")},
)  # fmt: skip
