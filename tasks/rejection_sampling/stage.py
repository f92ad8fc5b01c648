"""Declares the stage `rejection-sampling` (paper B.3.3, Table 5); `mixture.py` here does the work."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.curation.readability import Readability
from tasks.kinds import Kind
from tasks.language_models.settings import NONE, ModelSettings, StandIn, require_known
from tasks.problem import VERIFIABLE, Domain, Domains
from tasks.rendering import Template
from tasks.rewards.settings import CodeChecking
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.settings import Positive, Settings, Share
from tasks.stage import MODEL_AND_PROBLEMS, Place, Stage


class GeneralFile(Settings):
    """A file of general data: prompts with what should be answered."""

    path: str
    """Parquet or JSONL, absolute or relative to the repository. Its columns are `prompt` and `completion`, or
    `messages` (a list of `role` and `content`)."""
    domain: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")] = "general"
    """What its rows count as in the statistics and in `sft`, e.g. `software-engineering`."""
    thinking: Literal["given", "generated", "none"] = "given"
    """`given`: what stands between `<think>` and `</think>` of the answer, nothing where there is none.
    `generated`: `writer` writes it, but for greetings and what else needs none. `none`: an empty block."""


class RejectionSamplingConfig(CodeChecking):
    """The 800k-style mixture: verified reasoning traces from Dev2 and general data (B.3.3, Table 5)."""

    template: Template = "r1"
    domains: Domains = VERIFIABLE
    problems: Positive = 80_000
    samples_per_problem: Positive = 16
    sampling: Sampling = Sampling()
    keep_per_problem: Positive = 8
    """At most so many of a problem's good samples, the most different ones."""
    most_per_domain: dict[Domain, Positive] = {}
    """Domain -> most reasoning samples of it in the mixture; no limit where there is none."""
    judge: ModelSettings = NONE
    """Who grades problems of verifier `judge`, which no rule can: `{name: endpoint, url: ..., model: ...}` or
    `{name: checkpoint, artifact: ...}`. `none`: such problems are not sampled."""
    general_share: Share = 0.22
    """Share of general samples in the mixture (177,812 of 804,745)."""
    general: tuple[GeneralFile, ...] = ()
    """Files of general data beside the references of the general problems."""
    writer: ModelSettings = NONE
    """The language model that writes the thinking of files with `thinking: generated`."""
    readability: Readability = Readability()  # type: ignore[valid-type]
    """Limits of the readability filters, a section a filter (`tasks.curation.readability`)."""
    engine: EngineSettings = EngineSettings()
    seed: int = 2

    @model_validator(mode="after")
    def _models_fit(self) -> Self:
        require_known("judge", self.judge, ("none",))
        require_known("writer", self.writer, ("none",))
        generated = any(file.thinking == "generated" for file in self.general)
        if generated and isinstance(self.writer, StandIn):
            raise ValueError("general.thinking is generated: set writer to a language model")
        return self

    def files(self) -> dict[str, str]:
        return super().files() | {f"general.{i}.path": file.path for i, file in enumerate(self.general)}


REJECTION_SAMPLING = Stage(
    "rejection-sampling", 4, "Rejection sampling",
    "The 800k-style mixture of verified traces and general data (B.3.3).",
    "gpu-rollout", RejectionSamplingConfig, MODEL_AND_PROBLEMS, Kind.dataset,
    "tasks.rejection_sampling.mixture:run",
    nodes={"mixture": Place("SFT mixture", 4, 1, "rejection sampling")},
)  # fmt: skip
