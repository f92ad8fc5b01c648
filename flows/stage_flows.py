"""One flow per stage, each a deployment of the same name that runs alone:

    prefect deployment run rl-zero --param preset=tiny
    prefect deployment run sft --param node=dev3
    prefect deployment run reasoning-rl --param checkpoint=tiny/dev1 --param 'config={"learning_rate": 1e-5}'

An input that is not named is the newest artifact of the node that feeds it in the recipe
(`tasks.recipe`); a name is `preset/node`, a digest or a unique prefix of one. `config` replaces single
settings of the preset. What exists already is not made again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.flows import Flow

from flows.graph import load_pipeline, wiring
from flows.stage_run import run_stage, run_stages

Settings = dict[str, Any] | None
Name = str | None


def stage_flow(
    name: str, run_name: str = "{node} of {preset}"
) -> Callable[[Callable[..., State]], Flow[..., State]]:
    """A flow named after its stage whose runs say node and preset."""
    return flow(name=name, flow_run_name=run_name, persist_result=False)


@stage_flow("problems")
def problems(preset: str = "tiny", node: str = "problems", config: Settings = None) -> State:
    """Training and held-out problems that share no question (paper B.3.1)."""
    return run_stage("problems", preset, node, config)


@stage_flow("base")
def base(preset: str = "tiny", node: str = "base", config: Settings = None) -> State:
    """The model everything starts from, or a student's base."""
    return run_stage("base", preset, node, config)


@stage_flow("rl-zero")
def rl_zero(
    preset: str = "tiny",
    node: str = "r1-zero",
    checkpoint: Name = None,
    problems: Name = None,
    config: Settings = None,
) -> State:
    """GRPO on a base with accuracy and format rewards only (2.1; the control of F.1)."""
    return run_stage("rl-zero", preset, node, config, checkpoint=checkpoint, problems=problems)


@stage_flow("cold-start")
def cold_start(
    preset: str = "tiny",
    node: str = "cold-start",
    checkpoint: Name = None,
    problems: Name = None,
    config: Settings = None,
) -> State:
    """R1-Zero's samples, filtered and refined into readable traces (B.3.2)."""
    return run_stage("cold-start", preset, node, config, checkpoint=checkpoint, problems=problems)


@stage_flow("sft")
def sft(
    preset: str = "tiny",
    node: str = "dev1",
    checkpoint: Name = None,
    dataset: Name = None,
    config: Settings = None,
) -> State:
    """Supervised fine-tuning: Dev1 on the cold start, Dev3 on the mixture (B.4.2)."""
    return run_stage("sft", preset, node, config, checkpoint=checkpoint, dataset=dataset)


@stage_flow("reasoning-rl")
def reasoning_rl(
    preset: str = "tiny",
    node: str = "dev2",
    checkpoint: Name = None,
    problems: Name = None,
    config: Settings = None,
) -> State:
    """GRPO on Dev1 with the language-consistency reward (3.2.1)."""
    return run_stage("reasoning-rl", preset, node, config, checkpoint=checkpoint, problems=problems)


@stage_flow("rejection-sampling")
def rejection_sampling(
    preset: str = "tiny",
    node: str = "mixture",
    checkpoint: Name = None,
    problems: Name = None,
    config: Settings = None,
) -> State:
    """The 800k-style mixture of verified traces and general data (B.3.3)."""
    return run_stage("rejection-sampling", preset, node, config, checkpoint=checkpoint, problems=problems)


@stage_flow("reward-models")
def reward_models(
    preset: str = "tiny",
    node: str = "reward-models",
    checkpoint: Name = None,
    problems: Name = None,
    config: Settings = None,
) -> State:
    """The helpful and the safety reward model (3.1, B.2)."""
    return run_stage("reward-models", preset, node, config, checkpoint=checkpoint, problems=problems)


@stage_flow("final-rl")
def final_rl(
    preset: str = "tiny",
    node: str = "r1",
    checkpoint: Name = None,
    problems: Name = None,
    reward_models: Name = None,
    config: Settings = None,
) -> State:
    """GRPO on Dev3 with rules, and reward models in the last steps (3.2.2)."""
    return run_stage(
        "final-rl",
        preset,
        node,
        config,
        checkpoint=checkpoint,
        problems=problems,
        reward_models=reward_models,
    )


@stage_flow("distill", "distill {student} of {preset}")
def distill(
    preset: str = "tiny",
    student: str = "",
    checkpoint: Name = None,
    dataset: Name = None,
    config: Settings = None,
) -> State:
    """The mixture into a smaller model (B.4.3); `student` is a file of `configs/students`."""
    student = student or load_pipeline(preset).student
    if checkpoint is None:
        run_stage("base", preset, f"{student}-base", student=student)
    names = {"checkpoint": checkpoint, "dataset": dataset}
    return run_stage("distill", preset, f"{student}-distilled", config, student=student, **names)


@stage_flow("evaluate", "evaluate {checkpoint} of {preset}")
def evaluate(
    preset: str = "tiny",
    checkpoint: str = "all",
    checkpoints: dict[str, str] | None = None,
    problems: Name = None,
    config: Settings = None,
) -> State:
    """Held-out scores under one protocol (D.1): of one node, of `checkpoints` (label -> artifact), or all."""
    if checkpoints is None:
        checkpoints = _checkpoints(preset, checkpoint)
    inputs = {
        f"evaluation.{label}": {"checkpoint": text, "problems": problems}
        for label, text in checkpoints.items()
    }
    return run_stages("evaluate", preset, inputs, config)


def _checkpoints(preset: str, checkpoint: str) -> dict[str, str]:
    if checkpoint != "all":
        return {checkpoint.rpartition("/")[2][:40]: checkpoint}
    pipeline = load_pipeline(preset)
    labels = [node.partition(".")[2] for node in wiring(pipeline) if node.startswith("evaluation.")]
    return {label: pipeline.ref_name(label) for label in labels}


@stage_flow("report")
def report(preset: str = "tiny", node: str = "report", inputs: dict[str, str] | None = None) -> State:
    """Scores, curves, samples, cost and lineage of a whole run as one page."""
    return run_stage("report", preset, node, None, **(inputs or {}))
