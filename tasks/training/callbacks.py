"""What a Trainer tells the job, and how the job stops it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.job import Job, StopRequested


class JobCallback(TrainerCallback):
    """Progress at every logged step; a stop request ends training after the step in hand.

    Where `save_steps_multiple` divides the step, a checkpoint is saved first; elsewhere the run later
    resumes from the one before (a rollout in the middle of its mini-batches is not a place to resume).
    """

    def __init__(self, job: Job, shown: Mapping[str, str], save_steps_multiple: int = 1) -> None:
        self._job, self._shown, self._multiple = job, shown, save_steps_multiple

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step < state.max_steps and anyone(self._job.should_stop()):
            control.should_training_stop = True
            control.should_save = state.global_step % self._multiple == 0
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        if not state.is_world_process_zero:
            return
        shown = {name: logs[key] for name, key in self._shown.items() if logs and logs.get(key) is not None}
        self._job.progress(state.global_step, state.max_steps, f"step {state.global_step}", **shown)


def anyone(stopping: bool) -> bool:
    """Whether any of the processes that train together says so; all get the same answer."""
    return any(gather_object([stopping])) if PartialState().num_processes > 1 else stopping


def raise_if_stopped(job: Job, state: TrainerState) -> None:
    """After `train()`: a run that ended before its last step was stopped.

    Raises:
        StopRequested: the job was asked to stop.
    """
    if state.global_step < state.max_steps:
        if job.should_stop():
            raise StopRequested(f"{job.node}: stopped at step {state.global_step} of {state.max_steps}")
        raise RuntimeError(f"{job.node}: training ended at step {state.global_step} of {state.max_steps}")
