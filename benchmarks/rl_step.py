"""Seconds of one GRPO update: this project's trainer against TRL's own GRPOTrainer.

    python benchmarks/rl_step.py MODEL_FOLDER [--steps 5] [--threads 2]

Same model, prompts, group size, lengths, micro-batch, reward and settings; gradient checkpointing off and
generation by transformers in both. The first step of each is warm-up and not counted. The two sample
different completions, so tokens a second are printed beside the ratio of samples a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tasks.config import RLConfig
from tasks.problems.problem import Problem
from tasks.train.models import load_policy, load_tokenizer
from tasks.train.rl import Prompts, build_trainer, grpo_arguments

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


@dataclass(frozen=True)
class Speed:
    seconds_per_step: float
    tokens_per_second: float


def measure(trainer: GRPOTrainer, warm_up: int = 1) -> Speed:
    """Train, and look at the steps after the first `warm_up`."""
    clock = Clock()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(clock)
    trainer.train()
    marks = clock.marks[warm_up - 1 :]
    (start, seen), (end, total) = marks[0], marks[-1]
    return Speed((end - start) / (len(marks) - 1), (total - seen) / (end - start))


def plain_trl(config: RLConfig, folder: Path, model_folder: Path) -> GRPOTrainer:
    tokenizer = load_tokenizer(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    ours = grpo_arguments(config, folder, model.num_parameters(), longest_prompt=160).to_dict()
    parts = config.batch_size // config.micro_batch_size
    changed = {
        "per_device_train_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": parts,
        "steps_per_generation": parts,
        "generation_batch_size": None,
    }
    known = {name: ours[name] for name in _SAME}
    return GRPOTrainer(
        model=model, reward_funcs=digits, args=GRPOConfig(**known | changed),
        train_dataset=Prompts.of(PROBLEMS, config, tokenizer).dataset(1), processing_class=tokenizer,
    )  # fmt: skip


_SAME = (
    "output_dir", "max_steps", "num_generations", "num_iterations", "max_completion_length", "temperature",
    "top_p", "top_k", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm",
    "loss_type", "scale_rewards", "beta", "use_bias_correction_kl", "epsilon", "epsilon_high",
    "sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps", "disable_dropout",
    "gradient_checkpointing", "bf16", "use_cpu", "seed", "shuffle_dataset", "logging_steps", "save_steps",
    "report_to", "disable_tqdm", "dataloader_pin_memory", "use_vllm", "vllm_mode",
    "vllm_gpu_memory_utilization", "vllm_max_model_length",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = RLConfig(
        template="plain", steps=options.steps, group_size=8, questions_per_step=16,
        mini_batches_per_rollout=1, micro_batch_size=32, learning_rate=1e-6, max_completion_length=96,
        checkpoint_every=10_000,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        theirs = measure(plain_trl(config, Path(scratch) / "trl", options.model))
        tokenizer, model = load_tokenizer(options.model), load_policy(options.model)
        prompts = Prompts.of(PROBLEMS, config, tokenizer)
        ours = measure(build_trainer(config, Path(scratch) / "ours", model, tokenizer, prompts, digits))
    for name, speed in (("TRL", theirs), ("this project", ours)):
        print(f"{name:13} {speed.seconds_per_step:6.2f} s/step {speed.tokens_per_second:8.0f} tokens/s")
    print(f"ratio of samples a second: {theirs.seconds_per_step / ours.seconds_per_step:.2f}")


if __name__ == "__main__":
    main()
