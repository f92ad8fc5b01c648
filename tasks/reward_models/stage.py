"""Declares the stage `reward-models` (paper Methods, 3.1, B.2); `train.py` here does the work."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from tasks.kinds import Kind
from tasks.language_models.settings import ModelSettings, StandIn, require_known
from tasks.rendering import Template
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.settings import VOLATILE, Positive, Settings
from tasks.stage import MODEL_AND_PROBLEMS, Place, Stage
from tasks.training.settings import LaunchSettings


class RewardModelsConfig(Settings):
    """Helpful and safety reward models (Methods; B.2)."""

    template: Template = "r1"
    prompts: Positive = 66_000
    """General training prompts to sample responses for."""
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4
    sampling: Sampling = Sampling()
    judgments_per_pair: Positive = 4
    min_margin: Annotated[float, Field(ge=0)] = 1.0
    judge: ModelSettings = StandIn(name="rubric")
    """Who compares two answers to a helpfulness problem: `rubric`, the problem's own checklist, or a language
    model, `{name: endpoint, url: ..., model: ...}` or `{name: checkpoint, artifact: ...}`."""
    batch_size: Positive = 256
    micro_batch_size: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 8
    learning_rate: Annotated[float, Field(gt=0, le=1e-2)] = 6e-6
    epochs: Annotated[float, Field(gt=0, le=20)] = 1
    max_length: Positive = 8_192
    engine: EngineSettings = EngineSettings()
    recompute: Annotated[bool | None, Field(json_schema_extra=VOLATILE)] = None
    """Recompute activations in the backward pass: a third more arithmetic for much less memory. `null`: from
    1e9 parameters on."""
    launch: Annotated[LaunchSettings, Field(json_schema_extra=VOLATILE)] = LaunchSettings()
    """Several processes on one machine, which share the rows of an update."""
    seed: int = 3

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Self:
        self.launch.require_equal_shares(self.batch_size)
        return self

    @model_validator(mode="after")
    def _the_judge_exists(self) -> Self:
        require_known("judge", self.judge, ("rubric",))
        return self


REWARD_MODELS = Stage(
    "reward-models", 3, "Reward models", "The helpful and the safety reward model (3.1, B.2).",
    "gpu-train", RewardModelsConfig, MODEL_AND_PROBLEMS, Kind.reward_models, "tasks.reward_models.train:run",
    nodes={"reward-models": Place("Reward models", 4, 3, "helpful, safety")},
)  # fmt: skip
