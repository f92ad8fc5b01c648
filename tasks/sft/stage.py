"""Declares the stages `sft` and `distill` (paper B.4.2, B.4.3); `train.py` here does the work."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.kinds import Kind
from tasks.settings import NEUTRAL, VOLATILE, Positive, Settings, Share
from tasks.stage import Place, Stage
from tasks.training.settings import LaunchSettings, LoraSettings


class SFTConfig(Settings):
    """Supervised fine-tuning (B.4.2) and distillation (B.4.3)."""

    epochs: Annotated[float, Field(gt=0, le=20)] = 2
    """Passes over the table."""
    batch_size: Positive = 128
    """Rows in one update."""
    micro_batch_tokens: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 32_768
    """Tokens in one forward and backward pass of one process: rows are packed up to it, and a longer row has
    a pass of its own. More take more memory and keep a GPU busier; the update stays `batch_size` rows."""
    learning_rate: Annotated[float, Field(gt=0, le=1e-2)] = 5e-5
    """At its highest, after the warm-up."""
    min_learning_rate_ratio: Share = 0.1
    """Cosine decay ends at this share of the first learning rate (5e-5 -> 5e-6)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Updates in which the learning rate rises from 0."""
    max_length: Positive = 32_768
    """Tokens of prompt and completion; longer rows are left out and counted."""
    bf16: bool = False
    """Mixed precision; the weights stay in float32."""
    optimizer: Annotated[Literal["adamw", "adamw_8bit"], Field(json_schema_extra=NEUTRAL)] = "adamw"
    """`adamw_8bit` holds AdamW's two moments in one byte each instead of four; it needs torchao."""
    lora: Annotated[LoraSettings | None, Field(json_schema_extra=NEUTRAL)] = None
    """Adapters through PEFT instead of all weights."""
    launch: Annotated[LaunchSettings, Field(json_schema_extra=VOLATILE)] = LaunchSettings()
    """Several processes on one machine, which share the rows of an update."""
    recompute: Annotated[bool | None, Field(json_schema_extra=VOLATILE)] = None
    """Recompute activations in the backward pass: a third more arithmetic for much less memory. `null`: from
    1e9 parameters on. What attention returned is kept where the estimate of memory leaves room."""
    compile_layers: Annotated[bool, Field(json_schema_extra=VOLATILE)] = False
    """torch.compile for the layers: an update takes a third less time and less memory, the first one about
    half a minute to two minutes more. For runs of hours."""
    checkpoint_every: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 200
    """Checkpoint interval, in updates."""
    budget_hours: Annotated[float | None, Field(gt=0, json_schema_extra=VOLATILE)] = None
    """Accelerator-hours (on a CPU: hours) after which training stops at a checkpoint; with a larger budget
    the next run goes on from there."""
    seed: int = 0
    """Of the order of the rows."""

    @model_validator(mode="after")
    def _processes_share_the_batch(self) -> Self:
        self.launch.require_equal_shares(self.batch_size)
        return self


_INPUTS = {"checkpoint": Kind.checkpoint, "dataset": Kind.dataset}

SFT = Stage(
    "sft", 2, "Supervised fine-tuning",
    "Supervised fine-tuning: Dev1 on the cold start, Dev3 on the mixture (B.4.2).",
    "gpu-train", SFTConfig, _INPUTS, Kind.checkpoint, "tasks.sft.train:run",
    nodes={"dev1": Place("Dev1", 2, 1, "SFT", "#c48a00"), "dev3": Place("Dev3", 4, 2, "SFT", "#3f9bd6")},
)  # fmt: skip

DISTILL = Stage(
    "distill", 2, "Distillation",
    "The mixture into a smaller model (B.4.3); `student` is a file of `configs/students`.",
    "gpu-train", SFTConfig, _INPUTS, Kind.checkpoint, "tasks.sft.train:run",
    nodes={"student-distilled": Place("Student, distilled", 5, 1, "SFT", "#9c52b8")}, for_student=True,
)  # fmt: skip
