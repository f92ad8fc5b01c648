"""Declares the stage `cold-start` (paper B.3.2); `curate.py` here does the work."""

from __future__ import annotations

from typing import Literal

from tasks.curation.settings import Readability
from tasks.kinds import Kind
from tasks.problem import VERIFIABLE, Domain
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
    refiner: Literal["lexicon", "none"] = "none"
    """`lexicon`: the tiny world's word-by-word translator stands in for DeepSeek-V3 and the annotators."""
    readability: Readability = Readability()
    engine: EngineSettings = EngineSettings()
    seed: int = 1


COLD_START = Stage(
    "cold-start", 1, "Cold start", "R1-Zero's samples, filtered and refined into readable traces (B.3.2).",
    "gpu-rollout", ColdStartConfig, MODEL_AND_PROBLEMS, Kind.dataset, "tasks.cold_start.curate:run",
    nodes={"cold-start": Place("Cold-start set", 2, 0, "sample, filter, refine")},
)  # fmt: skip
