"""What a Trainer tells the job, and how the job stops it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.job import Job, StopRequested
from tasks.training.metrics import metric_rows


class JobCallback(TrainerCallback):
    """Progress and metrics at every logged step; a stop request ends training after the step in hand.

    Where `save_steps_multiple` divides the step, a checkpoint is saved first; elsewhere the run later
    resumes from the one before (a rollout in the middle of its mini-batches is not a place to resume). Once
    `budget_hours` accelerator-hours are spent, earlier attempts included, training ends at such a step.
    """

    def __init__(
        self,
        job: Job,
        shown: Mapping[str, str],
        save_steps_multiple: int = 1,
        budget_hours: float | None = None,
        latest: Mapping[str, float] | None = None,
    ) -> None:
        """`shown` are names of a progress record and of the Trainer's log; `latest` are values beside them,
        read anew each time."""
        self._job, self._shown, self._multiple = job, shown, save_steps_multiple
        self._budget, self._latest = budget_hours, latest if latest is not None else {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        whole = state.global_step % self._multiple == 0
        if state.global_step < state.max_steps and anyone(
            self._job.should_stop() or (whole and is_spent(self._job, self._budget))
        ):
            control.should_training_stop = True
            control.should_save = whole
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        if not state.is_world_process_zero:
            return
        shown = {name: logs[key] for name, key in self._shown.items() if logs and logs.get(key) is not None}
        self._job.log(metric_rows(state.log_history[-1:]))  # the Trainer's newest entry is there by now
        shown |= self._latest
        self._job.progress(state.global_step, state.max_steps, f"step {state.global_step}", **shown)


def anyone(stopping: bool) -> bool:
    """Whether any of the processes that train together says so; all get the same answer."""
    return any(gather_object([stopping])) if PartialState().num_processes > 1 else stopping


def is_spent(job: Job, budget_hours: float | None) -> bool:
    """Whether the accelerator-hours of the job, those of earlier attempts included, exceed the budget."""
    if budget_hours is None:
        return False
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 1
    return job.seconds_spent() * devices > budget_hours * 3600


def raise_if_stopped(job: Job, state: TrainerState, budget_hours: float | None = None) -> None:
    """After `train()`: a run that ended before its last step was stopped.

    Raises:
        StopRequested: the job was asked to stop, or its budget is spent.
    """
    if state.global_step < state.max_steps:
        if job.should_stop():
            raise StopRequested(f"{job.node}: stopped at step {state.global_step} of {state.max_steps}")
        if is_spent(job, budget_hours):
            raise StopRequested(
                f"budget_hours {budget_hours:g} are spent at step {state.global_step} of {state.max_steps}; "
                "raise it and run again: it goes on from the checkpoint"
            )
        raise RuntimeError(f"{job.node}: training ended at step {state.global_step} of {state.max_steps}")
