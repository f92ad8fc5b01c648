"""Declares the stage `cold-start` (paper B.3.2); `curate.py` here does the work."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from tasks.curation.readability import Readability
from tasks.kinds import Kind
from tasks.problem import VERIFIABLE, Domain
from tasks.registry import modules
from tasks.rendering import Template
from tasks.rewards.settings import CodeChecking
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.settings import Positive
from tasks.stage import MODEL_AND_PROBLEMS, Place, Stage


class ColdStartConfig(CodeChecking):
    """Cold-start curation from R1-Zero's samples (B.3.2)."""

    template: Template = "r1"
    domains: tuple[Domain, ...] = VERIFIABLE
    problems: Positive = 4_000
    """How many training problems are sampled."""
    samples_per_problem: Positive = 4
    sampling: Sampling = Sampling()
    keep_per_problem: Positive = 1
    refiner: str = "none"
    """What rewrites a trace that mixes languages: `none`, or a file of `tasks/cold_start/refiners`."""
    readability: Readability = Readability()  # type: ignore[valid-type]
    """Limits of the readability filters, a section a filter (`tasks.curation.readability`)."""
    engine: EngineSettings = EngineSettings()
    seed: int = 1

    @model_validator(mode="after")
    def _the_refiner_exists(self) -> Self:
        known = ("none", *modules("tasks.cold_start.refiners"))
        if self.refiner not in known:
            raise ValueError(f"refiner {self.refiner!r} is not known: use one of {', '.join(known)}")
        return self


COLD_START = Stage(
    "cold-start", 3, "Cold start", "R1-Zero's samples, filtered and refined into readable traces (B.3.2).",
    "gpu-rollout", ColdStartConfig, MODEL_AND_PROBLEMS, Kind.dataset, "tasks.cold_start.curate:run",
    nodes={"cold-start": Place("Cold-start set", 2, 0, "sample, filter, refine")},
)  # fmt: skip
