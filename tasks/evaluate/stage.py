"""Declares the stage `evaluate` (paper D.1); `evaluate.py` here does the work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from pydantic import model_validator

from tasks.benchmarks import Benchmarks
from tasks.kinds import Kind
from tasks.rendering import Template
from tasks.rewards.settings import CodeChecking
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.settings import Positive
from tasks.stage import MODEL_AND_PROBLEMS, Stage


class EvaluateConfig(CodeChecking):
    """One protocol for every checkpoint (D.1): temperature 0.6, top-p 0.95, several samples a question."""

    template: Template = "r1"
    problems_per_domain: Positive = 500
    """Held-out problems of each domain (all, where there are fewer), beside the benchmarks."""
    samples_per_problem: Positive = 16
    """Completions of each held-out problem; benchmarks have their own `samples`."""
    pass_at: tuple[Positive, ...] = ()
    """The k of pass@k beside 1, none above the samples of a question; by default the number of samples."""
    benchmarks: Benchmarks = {}
    """Named benchmarks to evaluate on, with what differs from their defaults: `{aime24: {}, math500:
    {samples: 4}}` (`tasks/benchmarks`). Their questions join the held-out problems."""
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95)
    engine: EngineSettings = EngineSettings()
    seed: int = 4

    @model_validator(mode="after")
    def _has_samples_enough(self) -> Self:
        for place, samples, ks in self._asked_for():
            if (most := max(ks, default=1)) > samples:
                raise ValueError(
                    f"{place} pass@{most} needs at least {most} samples a question, there are {samples}: "
                    "raise them or lower `pass_at`"
                )
        return self

    def _asked_for(self) -> Iterator[tuple[str, int, tuple[int, ...]]]:
        """Place, samples of a question, and the k of pass@k that are asked for there."""
        yield "pass_at:", self.samples_per_problem, self.pass_at
        for name, benchmark in self.benchmarks.items():
            yield f"benchmarks.{name}:", benchmark.samples, benchmark.pass_at or self.pass_at


EVALUATE = Stage(
    "evaluate", 4, "Evaluation",
    "Held-out scores under one protocol (D.1): of one node, of `checkpoints` (label -> artifact), or all.",
    "gpu-rollout", EvaluateConfig, MODEL_AND_PROBLEMS, Kind.evaluation, "tasks.evaluate.evaluate:run",
    nodes={"evaluation": "Evaluation"}, each="checkpoint",
)  # fmt: skip
