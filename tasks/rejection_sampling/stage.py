"""Declares the stage `rejection-sampling` (paper B.3.3, Table 5); `mixture.py` here does the work."""

from __future__ import annotations

from tasks.curation.readability import Readability
from tasks.kinds import Kind
from tasks.problem import VERIFIABLE, Domain
from tasks.rendering import Template
from tasks.rewards.settings import CodeChecking
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.settings import Positive, Share
from tasks.stage import MODEL_AND_PROBLEMS, Place, Stage


class RejectionSamplingConfig(CodeChecking):
    """The 800k-style mixture: verified reasoning traces from Dev2 and general data (B.3.3, Table 5)."""

    template: Template = "r1"
    domains: tuple[Domain, ...] = VERIFIABLE
    problems: Positive = 80_000
    samples_per_problem: Positive = 16
    sampling: Sampling = Sampling()
    keep_per_problem: Positive = 8
    general_share: Share = 0.22
    """Share of general samples in the mixture (177,812 of 804,745)."""
    readability: Readability = Readability()  # type: ignore[valid-type]
    """Limits of the readability filters, a section a filter (`tasks.curation.readability`)."""
    engine: EngineSettings = EngineSettings()
    seed: int = 2


REJECTION_SAMPLING = Stage(
    "rejection-sampling", 3, "Rejection sampling",
    "The 800k-style mixture of verified traces and general data (B.3.3).",
    "gpu-rollout", RejectionSamplingConfig, MODEL_AND_PROBLEMS, Kind.dataset,
    "tasks.rejection_sampling.mixture:run",
    nodes={"mixture": Place("SFT mixture", 4, 1, "rejection sampling")},
)  # fmt: skip
