"""Seconds of one GRPO update: this project's trainer against TRL's own GRPOTrainer.

    python -m benchmarks.rl_step MODEL_FOLDER [--steps 5] [--threads 2]
    python -m benchmarks.rl_step MODEL_FOLDER --undo       also with each of our changes undone, one by one

Same model, prompts, group size, lengths, reward and settings; gradient checkpointing off and generation by
transformers in both. TRL has its default micro-batch (8 completions) and then its best one of several. The
first step of each is warm-up and not counted. The two sample different completions, so tokens a second are
printed beside the ratio of samples a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tasks.problem import Problem
from tasks.rl.arguments import grpo_arguments
from tasks.rl.packing import Rows
from tasks.rl.prompts import Prompts
from tasks.rl.stage import RLConfig
from tasks.rl.train import build_trainer
from tasks.rl.trainer import GroupTrainer
from tasks.rollout import decoding
from tasks.tokenizer import load_tokenizer
from tasks.training.models import load_policy

PROBLEMS = [
    Problem(f"p{i}", "math", "en", f"what is {i * 7 % 90} + {i * 3 % 70} - {i % 10}?", "", "math")
    for i in range(256)
]


def digits(completions: list[str], **_: Any) -> list[float]:
    """A cheap reward that varies within a group."""
    return [float(sum(c.isdigit() for c in text)) for text in completions]


class Clock(TrainerCallback):
    """The time at which each step ended, and the tokens seen by then."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.marks.append((time.perf_counter(), state.num_input_tokens_seen))


TRL_DEFAULT = 8
TRL_MICRO_BATCHES = (TRL_DEFAULT, 32, 128)

PARTS = {
    "generate": "_generate_single_turn",
    "score": "_get_per_token_logps_and_entropies",
    "update": "training_step",
}
"""Parts of a step -> the trainer's method that does it; the others' time is not counted twice."""


@dataclass(frozen=True)
class Speed:
    seconds_per_step: float
    tokens_per_second: float
    parts: dict[str, float]
    """Seconds a step; scoring is that without gradients."""


def measure(trainer: GRPOTrainer, warm_up: int = 1) -> Speed:
    """Train, and look at the steps after the first `warm_up`."""
    clock, spent = Clock(), dict.fromkeys(PARTS, 0.0)
    for part, method in PARTS.items():
        _time(trainer, method, spent, part)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.add_callback(_Forget(spent, warm_up))
    trainer.train()
    marks = clock.marks[warm_up - 1 :]
    (start, seen), (end, total) = marks[0], marks[-1]
    steps = len(marks) - 1
    spent["update"] -= spent["generate"] + spent["score"]
    return Speed(
        (end - start) / steps, (total - seen) / (end - start), {p: s / steps for p, s in spent.items()}
    )


def _time(trainer: GRPOTrainer, method: str, spent: dict[str, float], part: str) -> None:
    """Adds the seconds spent in a method (for scores: without gradients) to `spent[part]`."""
    inner = getattr(trainer, method)

    @wraps(inner)
    def timed(*args: Any, **kwargs: Any) -> Any:
        counted = part != "score" or not torch.is_grad_enabled()
        started = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[part] += counted * (time.perf_counter() - started)

    setattr(trainer, method, timed)


class _Forget(TrainerCallback):
    """Sets the clocks back after the warm-up."""

    def __init__(self, spent: dict[str, float], warm_up: int) -> None:
        self._spent, self._warm_up = spent, warm_up

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._warm_up:
            self._spent.update(dict.fromkeys(self._spent, 0.0))


def plain_trl(
    config: RLConfig, folder: Path, model_folder: Path, micro_batch: int = 8, **generation: Any
) -> GRPOTrainer:
    """TRL's own trainer at our settings, with `micro_batch` completions in a pass; `generation` are more of
    its arguments (`use_vllm` ...)."""
    tokenizer = load_tokenizer(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    ours = grpo_arguments(config, folder, recompute=False).to_dict()
    parts = config.batch_size // micro_batch
    changed = {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": parts,
        "steps_per_generation": parts,
        "generation_batch_size": None,
        # What `tasks.rl.objective` does for ours.
        "loss_type": "grpo",
        "scale_rewards": "group",
        "epsilon": config.clip_epsilon,
        "epsilon_high": config.clip_epsilon,
        "use_bias_correction_kl": False,
    }
    known = {name: ours[name] for name in _SAME}
    return GRPOTrainer(
        model=model, reward_funcs=digits, args=GRPOConfig(**known | changed | generation),
        train_dataset=Prompts.of(PROBLEMS, config, tokenizer).dataset(1), processing_class=tokenizer,
    )  # fmt: skip


_SAME = (
    "output_dir", "max_steps", "num_generations", "num_iterations", "max_completion_length", "temperature",
    "top_p", "top_k", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm",
    "beta", "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "disable_dropout",
    "gradient_checkpointing", "bf16", "use_cpu", "seed", "shuffle_dataset", "logging_steps", "save_steps",
    "report_to", "disable_tqdm", "dataloader_pin_memory",
)  # fmt: skip


def group_trainer(config: RLConfig, folder: Path, model_folder: Path, checked: bool = True) -> GroupTrainer:
    tokenizer, model = load_tokenizer(model_folder), load_policy(model_folder)
    prompts = Prompts.of(PROBLEMS, config, tokenizer)
    trainer = build_trainer(config, folder, model_folder, model, tokenizer, prompts, digits)
    trainer.sampler_checked = not checked
    return trainer


# ---- each change undone ------------------------------------------------------------------------


def _trls_generation() -> Any:
    """`model.generate`, as TRL calls it."""

    def generate(
        self: GroupTrainer, prompt_ids: list[list[int]], *_: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        drawn, _ = GRPOTrainer._generate_single_turn(self, prompt_ids, None, {}, self.num_generations)
        return drawn, None

    return mock.patch.object(GroupTrainer, "_generate_single_turn", generate)


def _every_row_with_its_prompt() -> Any:
    """Packs without padding, in which no prompt is shared."""
    grouped = Rows.from_lists

    def alone(prompts: Sequence[Any], completions: Sequence[Any]) -> Rows:
        return replace(grouped(prompts, completions), groups=np.arange(len(prompts)))

    return mock.patch.object(Rows, "from_lists", alone)


def _each_prompt_read_for_every_row() -> Any:
    """Equal prompts are told apart by making each an object that equals only itself."""
    read = decoding._read_prompts

    class Own(list):
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def read_each(model: Any, prompts: Any, room: int) -> Any:
        with mock.patch.object(decoding, "tuple", lambda prompt: prompt, create=True):
            return read(model, [Own(p) for p in prompts], room)

    return mock.patch.object(decoding, "_read_prompts", read_each)


UNDO: dict[str, Callable[[], Any]] = {
    "TRL's generation": _trls_generation,
    "finished rows stay": lambda: mock.patch.object(decoding, "_DROP_BELOW", 0.0),
    "prompts read for every row": _each_prompt_read_for_every_row,
    "a prompt forwarded for every row": _every_row_with_its_prompt,
}
"""One change of ours -> a context in which it is not there."""


def show(name: str, speed: Speed) -> None:
    parts = "  ".join(f"{part} {seconds:.2f}" for part, seconds in speed.parts.items())
    rest = speed.seconds_per_step - sum(speed.parts.values())
    print(
        f"{name:28} {speed.seconds_per_step:6.2f} s/step {speed.tokens_per_second:8.0f} tokens/s   "
        f"{parts}  rest {rest:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--undo", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = RLConfig(
        template="plain", steps=options.steps, group_size=8, questions_per_step=16,
        mini_batches_per_rollout=1, micro_batch_tokens=1_024, learning_rate=1e-6, max_completion_length=96,
        checkpoint_every=10_000,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        theirs = {}
        for size in TRL_MICRO_BATCHES:
            theirs[size] = measure(plain_trl(config, Path(scratch) / f"trl-{size}", options.model, size))
            show(f"TRL, micro-batch {size}", theirs[size])
        ours = measure(group_trainer(config, Path(scratch) / "ours", options.model))
        show("this project", ours)
        default, best = theirs[TRL_DEFAULT], min(theirs.values(), key=lambda speed: speed.seconds_per_step)
        for name, other in (("default", default), ("best", best)):
            print(f"samples a second to TRL's {name}: {other.seconds_per_step / ours.seconds_per_step:.2f}")
        for number, (name, undone) in enumerate(UNDO.items() if options.undo else ()):
            with undone():
                trainer = group_trainer(config, Path(scratch) / str(number), options.model, checked=False)
                show(name, measure(trainer))


if __name__ == "__main__":
    main()
