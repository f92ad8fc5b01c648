"""The whole recipe on a micro preset in this process, without Prefect and without a store."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tasks.job import Job
from tasks.job.build import load
from tasks.presets import StudentConfig, _whole_preset
from tasks.problem import Problem
from tasks.recipe import recipe
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.tokenizer import Codec
from tests.jobs import local_job
from tests.worlds import sums, talks, write_problems

PROBLEMS = [
    *(replace(p, split="held_out") if i % 5 == 4 else p for i, p in enumerate(sums())),
    *talks(),
]
_SAID = ["hello tom, nice", "hello", "go away tom", "take the 1", *["sorry, cannot"] * 3]
"""Answers to small talk; refusals often enough that every family's samples hold safe and unsafe ones."""


def micro_preset(template: str, base: Path) -> tuple[Any, StudentConfig]:
    """A preset and a student with the settings of every stage, small enough for a minute on two cores."""
    short: dict[str, Any] = {"max_new_tokens": 40}
    rl = {
        "template": template, "domains": ["math"], "steps": 1, "group_size": 4, "questions_per_step": 4,
        "mini_batches_per_rollout": 1, "learning_rate": 1e-5,
        "max_completion_length": 40,
    }  # fmt: skip
    sampled = {"template": template, "domains": ["math"], "problems": 20, "sampling": short}
    sft = {"epochs": 2, "batch_size": 8, "micro_batch_tokens": 512, "learning_rate": 1e-4}
    document = {
        "problems": {"sources": [{"name": "parquet", "path": "not-read"}]},
        "base": {"model": str(base)},
        "r1-zero": rl,
        "cold-start": sampled | {"samples_per_problem": 2},
        "dev1": sft,
        "dev2": rl,
        "mixture": sampled | {"samples_per_problem": 2, "general_share": 0},
        "dev3": sft,
        "reward-models": {
            "template": template, "samples_per_prompt": 16, "sampling": short, "batch_size": 32,
            "micro_batch_size": 32, "min_margin": 0.5,
        },
        "r1": rl | {
            "domains": ["math", "general"], "general_last_steps": 1,
            "rewards": [{"name": "accuracy"}, {"name": "format"}, {"name": "helpful"}, {"name": "safety"}],
        },
        "student": "none",
        "student-rl-only": rl,
        "evaluation": {
            "template": template, "samples_per_problem": 2, "sampling": short | {"temperature": 0.6},
        },
    }  # fmt: skip
    student = {"base": {"model": str(base)}, "distill": sft}
    return _whole_preset().model_validate(document), StudentConfig.model_validate(student)


@dataclass(frozen=True)
class Made:
    """What a stage left, and its headline."""

    folder: Path
    stage: Stage
    headline: Mapping[str, Any]


class LocalRecipe:
    """A `Maker` that runs each stage here, in order. Problems are given, and no report is written."""

    EVALUATED = ("base", "r1-zero", "dev1", "r1")

    def __init__(self, root: Path) -> None:
        self._root = root
        self.made: dict[str, Made] = {}
        self.node = ""
        """The one at work."""

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Path) -> Path:
        if stage.name == "problems":
            return write_problems(self._root / "problems", PROBLEMS)
        if stage.name == "report":
            return self._root
        job = self._job(node, stage, inputs)
        load(stage.entry)(config, job)
        self.made[node] = Made(job.draft, stage, job.headline)
        return job.draft

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, Path], **inputs: Path
    ) -> dict[str, Path]:
        labels = [label for label in each if label in self.EVALUATED]
        return {
            label: self.make(f"{node}.{label}", stage, config, **{stage.each: each[label]}, **inputs)
            for label in labels
        }

    def _job(self, node: str, stage: Stage, inputs: Mapping[str, Path]) -> Job:
        self.node = node
        kinds = {name: (stage.inputs[name], path) for name, path in inputs.items()}
        return local_job(self._root, node, stage.name, kinds)


def run_recipe(root: Path, template: str, base: Path) -> LocalRecipe:
    """Base to R1, students and evaluations."""
    maker = LocalRecipe(root)
    recipe(maker, *micro_preset(template, base), "student")
    return maker


def pretrain(folder: Path, template: str, steps: int = 110) -> None:
    """Teach a random base the layout, sums and small talk, so that every stage has what it needs."""
    from transformers import AutoModelForCausalLM

    codec, model = Codec.of(folder), AutoModelForCausalLM.from_pretrained(folder)
    rng = random.Random(0)
    rows = [_document(codec, template, rng.choice(PROBLEMS), rng) for _ in range(400)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(steps):
        batch = rng.sample(rows, 24)
        width = max(map(len, batch))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in batch])
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
        model(input_ids=ids, attention_mask=real, labels=ids.masked_fill(real == 0, -100)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def _document(codec: Codec, template: str, problem: Problem, rng: random.Random) -> list[int]:
    answer = problem.answer or rng.choice(_SAID)
    (prompt,) = codec.tokens([codec.prompt(template, problem.prompt)])
    (completion,) = codec.completions([f" <think> first {answer[:1]} </think> <answer> {answer} </answer>"])
    return prompt + completion
