"""Typed references to artifacts: what stages pass to each other instead of paths.

An artifact is an immutable directory named by the SHA-256 of its manifest. A reference is its kind
and that digest, nothing more; it means the same on every machine that sees the store.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Kind(StrEnum):
    """What an artifact holds; the layouts are listed in `docs/artifacts.md`."""

    problems = "problems"
    """`problems.parquet`, `rejected.parquet`"""
    checkpoint = "checkpoint"
    """`model/` (a Hugging Face folder), and what its training left: `metrics.parquet`, `samples.parquet`"""
    dataset = "dataset"
    """`sft.parquet`, `samples.parquet`, `rejected.parquet`"""
    reward_models = "reward_models"
    """`helpful/`, `safety/` (sequence classifiers with one output), `preferences.parquet`,
    `metrics.parquet`"""
    evaluation = "evaluation"
    """`samples.parquet`, `scores.parquet`"""
    report = "report"
    """`report.html`, `report.md`, the figures as SVG"""


class Ref(BaseModel):
    """A typed reference: the stage that asks for a checkpoint refuses a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    digest: Digest

    @property
    def short(self) -> str:
        return self.digest[:12]
