"""Declares the stage `cold-start` (paper B.3.2); `curate.py` here does the work."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from tasks.curation.readability import Readability
from tasks.kinds import Kind
from tasks.language_models.settings import NONE, ModelSettings, StandIn, require_known
from tasks.problem import VERIFIABLE, Domains
from tasks.registry import modules
from tasks.rendering import Template
from tasks.rewards.settings import CodeChecking
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.settings import Positive
from tasks.stage import MODEL_AND_PROBLEMS, Place, Stage

REFINERS = tuple(modules("tasks.cold_start.refiners"))
"""Rules that rewrite a trace, by name."""


class ColdStartConfig(CodeChecking):
    """Cold-start curation from R1-Zero's samples (B.3.2)."""

    template: Template = "r1"
    domains: Domains = VERIFIABLE
    problems: Positive = 4_000
    """How many training problems are sampled."""
    samples_per_problem: Positive = 4
    sampling: Sampling = Sampling()
    keep_per_problem: Positive = 1
    refiner: ModelSettings = NONE
    """What rewrites the traces: `none`; a rule of `tasks/cold_start/refiners`, which only sees those that mix
    languages; `{name: endpoint, url: ..., model: ...}` or `{name: checkpoint, artifact: ...}`
    (`tasks.language_models.settings`)."""
    examples: str = ""
    """Reviewed rewrites that show a language model the style: a Parquet or JSONL file with `question` and
    `completion`."""
    short_answers: bool = False
    """The refiner answers short math questions that were always answered rightly by itself, briefly
    (Listing 3)."""
    readability: Readability = Readability()  # type: ignore[valid-type]
    """Limits of the readability filters, a section a filter (`tasks.curation.readability`)."""
    engine: EngineSettings = EngineSettings()
    seed: int = 1

    @model_validator(mode="after")
    def _the_refiner_exists(self) -> Self:
        require_known("refiner", self.refiner, ("none", *REFINERS))
        if isinstance(self.refiner, StandIn) and (self.examples or self.short_answers):
            raise ValueError("examples and short_answers need a language model as refiner")
        return self

    def files(self) -> dict[str, str]:
        return super().files() | ({"examples": self.examples} if self.examples else {})


COLD_START = Stage(
    "cold-start", 4, "Cold start", "R1-Zero's samples, filtered and refined into readable traces (B.3.2).",
    "gpu-rollout", ColdStartConfig, MODEL_AND_PROBLEMS, Kind.dataset, "tasks.cold_start.curate:run",
    nodes={"cold-start": Place("Cold-start set", 2, 0, "sample, filter, refine")},
)  # fmt: skip
