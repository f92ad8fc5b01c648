"""Declares the stage `evaluate` (paper D.1); `evaluate.py` here does the work."""

from __future__ import annotations

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
    """Held-out problems of each domain (all, where there are fewer)."""
    samples_per_problem: Positive = 16
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95)
    engine: EngineSettings = EngineSettings()
    seed: int = 4


EVALUATE = Stage(
    "evaluate", 4, "Evaluation",
    "Held-out scores under one protocol (D.1): of one node, of `checkpoints` (label -> artifact), or all.",
    "gpu-rollout", EvaluateConfig, MODEL_AND_PROBLEMS, Kind.evaluation, "tasks.evaluate.evaluate:run",
    nodes={"evaluation": "Evaluation"}, each="checkpoint",
)  # fmt: skip
