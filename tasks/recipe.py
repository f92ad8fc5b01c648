"""The graph of the paper (Fig. 2), once: the pipeline runs it, `r1 plan` prices it.

    base --GRPO(accuracy+format)--------------------------------> R1-Zero
    R1-Zero --sample, filter, refine--> cold-start set
    base --SFT(cold start)--> Dev1 --GRPO(+language)--> Dev2
    Dev2 --rejection sampling--> reasoning set + general set = mixture
    base --SFT(mixture)--> Dev3 --GRPO(rules + reward models late)--> R1
    mixture --SFT--> students        control: GRPO on the student's own base

The base is loaded three times (R1-Zero, Dev1, Dev3): Dev3 does not continue Dev2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from tasks.config import Preset, Settings, StudentConfig
from tasks.stages import STAGES, Stage


@dataclass(frozen=True)
class Node:
    """A stage at one place of the graph; its name is what refs, runs and tables call it."""

    name: str
    stage: Stage
    config: Settings


def nodes(preset: Preset, student: StudentConfig, student_name: str) -> dict[str, Node]:
    """Every node by name, in the order of the recipe."""
    table: list[tuple[str, str, Settings]] = [
        ("problems", "problems", preset.problems),
        ("base", "base", preset.base),
        ("r1-zero", "rl-zero", preset.rl_zero),
        ("cold-start", "cold-start", preset.cold_start),
        ("dev1", "sft", preset.dev1),
        ("dev2", "reasoning-rl", preset.reasoning_rl),
        ("mixture", "rejection-sampling", preset.rejection_sampling),
        ("dev3", "sft", preset.dev3),
        ("reward-models", "reward-models", preset.reward_models),
        ("r1", "final-rl", preset.final_rl),
        (f"{student_name}-base", "base", student.base),
        (f"{student_name}-distilled", "distill", student.distill),
        (f"{student_name}-rl-only", "rl-zero", preset.student_rl),
        ("evaluation", "evaluate", preset.evaluate),
        ("report", "report", preset.report),
    ]
    return {name: Node(name, STAGES[stage], config) for name, stage, config in table}


Handle = TypeVar("Handle")
"""What stands for an artifact: a `Ref` when running, a planned key when planning."""


class Builder(Protocol[Handle]):
    def build(self, node: str, **inputs: Handle) -> Handle:
        """Make (or reuse) the artifact of `node`."""
        ...

    def build_many(self, node: str, inputs: dict[str, dict[str, Handle]]) -> dict[str, Handle]:
        """`node` once per entry of `inputs` (label -> inputs), in one job; labels name the results."""
        ...


def run_recipe(r1: Builder[Handle], student: str) -> Handle:
    """The whole recipe; returns the report."""
    problems = r1.build("problems")
    base = r1.build("base")

    r1_zero = r1.build("r1-zero", checkpoint=base, problems=problems)
    cold_start = r1.build("cold-start", checkpoint=r1_zero, problems=problems)

    dev1 = r1.build("dev1", checkpoint=base, dataset=cold_start)
    dev2 = r1.build("dev2", checkpoint=dev1, problems=problems)
    mixture = r1.build("mixture", checkpoint=dev2, problems=problems)

    dev3 = r1.build("dev3", checkpoint=base, dataset=mixture)
    reward_models = r1.build("reward-models", checkpoint=dev3, problems=problems)
    final = r1.build("r1", checkpoint=dev3, problems=problems, reward_models=reward_models)

    student_base = r1.build(f"{student}-base")
    distilled = r1.build(f"{student}-distilled", checkpoint=student_base, dataset=mixture)
    rl_only = r1.build(f"{student}-rl-only", checkpoint=student_base, problems=problems)

    checkpoints = {
        "base": base, "r1-zero": r1_zero, "dev1": dev1, "dev2": dev2, "dev3": dev3, "r1": final,
        f"{student}-base": student_base, f"{student}-distilled": distilled, f"{student}-rl-only": rl_only,
    }  # fmt: skip
    evaluations = r1.build_many(
        "evaluation", {name: {"checkpoint": c, "problems": problems} for name, c in checkpoints.items()}
    )
    return r1.build(
        "report",
        problems=problems,
        **{f"evaluation.{name}": e for name, e in evaluations.items()},
        **{f"checkpoint.{name}": c for name, c in checkpoints.items()},
        **{"dataset.cold-start": cold_start, "dataset.mixture": mixture},
        **{"reward_models.reward-models": reward_models},
    )
