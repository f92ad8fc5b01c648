"""The stages of the recipe: what each needs, makes and runs on. Pure data; imports nothing heavy.

A node of the graph (`tasks.recipe`) is a stage with a config and inputs: Dev1 and Dev3 are both `sft`.
Raise a stage's `version` when the meaning of its output changes: every cached result of it is then stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from artifacts.refs import Kind
from tasks import config as c

Pool = Literal["cpu", "gpu-train", "gpu-rollout"]


@dataclass(frozen=True)
class Stage:
    name: str
    version: int
    pool: Pool
    config: type[c.Settings]
    inputs: dict[str, Kind]
    """Input name -> kind. A name ending in `*` stands for any number of inputs with that prefix."""
    output: Kind
    entry: str
    """`module:function` of `run(config, job) -> None` (`tasks.job.Job`)."""
    optional: frozenset[str] = frozenset()
    """Inputs that may be absent."""


_MODEL_AND_PROBLEMS = {"checkpoint": Kind.checkpoint, "problems": Kind.problems}

_ALL = (
    Stage("problems", 1, "cpu", c.ProblemsConfig, {}, Kind.problems, "tasks.problems.stage:run"),
    Stage("base", 1, "cpu", c.BaseConfig, {}, Kind.checkpoint, "tasks.models.base:run"),
    Stage("rl-zero", 1, "gpu-train", c.RLConfig, _MODEL_AND_PROBLEMS,
          Kind.checkpoint, "tasks.train.rl:run"),
    Stage("cold-start", 1, "gpu-rollout", c.ColdStartConfig,
          _MODEL_AND_PROBLEMS, Kind.dataset, "tasks.curate.cold_start:run"),
    Stage("sft", 1, "gpu-train", c.SFTConfig, {"checkpoint": Kind.checkpoint, "dataset": Kind.dataset},
          Kind.checkpoint, "tasks.train.sft:run"),
    Stage("reasoning-rl", 1, "gpu-train", c.RLConfig, _MODEL_AND_PROBLEMS,
          Kind.checkpoint, "tasks.train.rl:run"),
    Stage("rejection-sampling", 1, "gpu-rollout", c.RejectionSamplingConfig,
          _MODEL_AND_PROBLEMS, Kind.dataset,
          "tasks.curate.rejection_sampling:run"),
    Stage("reward-models", 1, "gpu-train", c.RewardModelsConfig,
          _MODEL_AND_PROBLEMS, Kind.reward_models,
          "tasks.train.reward_models:run"),
    Stage("final-rl", 1, "gpu-train", c.RLConfig,
          {**_MODEL_AND_PROBLEMS, "reward_models": Kind.reward_models},
          Kind.checkpoint, "tasks.train.rl:run"),
    Stage("distill", 1, "gpu-train", c.SFTConfig, {"checkpoint": Kind.checkpoint, "dataset": Kind.dataset},
          Kind.checkpoint, "tasks.train.sft:run"),
    Stage("evaluate", 1, "gpu-rollout", c.EvaluateConfig,
          _MODEL_AND_PROBLEMS, Kind.evaluation, "tasks.evaluate.stage:run"),
    Stage("report", 1, "cpu", c.ReportConfig,
          {"problems": Kind.problems, "evaluation.*": Kind.evaluation, "checkpoint.*": Kind.checkpoint,
           "dataset.*": Kind.dataset, "reward_models.*": Kind.reward_models},
          Kind.report, "tasks.report.stage:run"),
)  # fmt: skip

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}
