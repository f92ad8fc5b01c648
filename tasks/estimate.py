"""What RL will cost: three real steps of each RL stage on its base, scaled to the whole run.

    python -m tasks.estimate SPEC.json RESULT.json     (what `r1 estimate` starts)

The base stands for the checkpoints that later stages start from: of the same size, but they may write more
or fewer tokens. The first step is warm-up. Seconds scale with the steps; the upper bound also scales them
with the completion length, from the one seen to the longest allowed. Rollouts are one update long here.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from artifacts.refs import Ref
from artifacts.tables import read_table
from tasks.base.stage import BaseConfig
from tasks.job import Input, Job
from tasks.kinds import Kind
from tasks.problems.stage import ProblemsConfig
from tasks.rl.stage import RLConfig
from tasks.settings import Settings
from tasks.supervise.records import write_json

STEPS = 3
_PARTS = ("generate_s", "reward_s", "sync_s", "score_s", "update_s")
_NOBODY = "0" * 64


class ProbeStage(Settings):
    """One RL stage to try, on this base."""

    node: str
    config: RLConfig
    base: BaseConfig
    base_folder: str = ""
    """The base's artifact, where it is built already."""


class ProbeSpec(Settings):
    problems: ProblemsConfig
    problems_folder: str = ""
    stages: tuple[ProbeStage, ...]


@dataclass(frozen=True)
class Estimate:
    """Of one stage."""

    node: str
    parameters: int
    steps: int
    tokens: float
    """Generated in the whole run, at the length that the base writes now."""
    seconds_per_step: float
    hours: float
    hours_at_most: float
    """Were every completion as long as allowed."""
    memory_gib: float
    """All processes together, at the longest step."""


def estimates(spec: ProbeSpec, folder: Path) -> Iterator[Estimate]:
    """One a stage, in order; `folder` is scratch.

    Raises:
        BaseUnavailable, ValueError: as the stages do.
    """
    from tasks.base import load as base
    from tasks.problems import draw as stage

    problems = (
        Path(spec.problems_folder) if spec.problems_folder else _made(stage.run, spec.problems, folder / "p")
    )
    for number, probe in enumerate(spec.stages, 1):
        print(f"{number}/{len(spec.stages)} {probe.node}", flush=True)
        place = folder / probe.node
        model = Path(probe.base_folder) if probe.base_folder else _made(base.run, probe.base, place / "base")
        yield _estimate(probe, {"checkpoint": model, "problems": problems}, place)


def _made(run: object, config: Settings, place: Path) -> Path:
    job = _job(place, {})
    run(config, job)  # type: ignore[operator]
    return job.draft


def _job(place: Path, inputs: Mapping[str, Path]) -> Job:
    kinds = {"checkpoint": Kind.checkpoint, "problems": Kind.problems}
    given = {name: Input(Ref(kind=kinds[name], digest=_NOBODY), path) for name, path in inputs.items()}
    job = Job("probe", "rl-zero", given, place)
    for made in (job.state, job.draft):
        made.mkdir(parents=True, exist_ok=True)
    return job


def shortened(config: RLConfig) -> RLConfig:
    """A few steps that need neither reward models nor a curriculum."""
    return config.model_copy(
        update={
            "steps": STEPS, "mini_batches_per_rollout": 1, "curriculum": None, "general_last_steps": None,
            "rewards": tuple(t for t in config.rewards if not t.needs_reward_models),
            "length_schedule": (), "checkpoint_every": 10 * STEPS, "publish": "last", "report_to": (),
            "evaluate_every": 0,
        }
    )  # fmt: skip


def _estimate(probe: ProbeStage, inputs: Mapping[str, Path], place: Path) -> Estimate:
    from tasks.rl import train as rl
    from tasks.rl.memory import worst_case
    from tasks.training.models import load_policy

    job = _job(place / "run", inputs)
    rl.run(shortened(probe.config), job)
    longest_prompt = max(read_table(job.draft / "samples.parquet")["prompt_tokens"].to_pylist())
    model = load_policy(inputs["checkpoint"] / "model")
    memory = worst_case(model, probe.config, longest_prompt).peak * probe.config.launch.processes
    return scaled(probe, _means(job.draft), model.num_parameters(), memory)


def _means(draft: Path) -> dict[str, float]:
    """Of the steps after the first."""
    rows = [row for row in read_table(draft / "metrics.parquet").to_pylist() if row["step"] > 0]
    names = {row["name"] for row in rows}
    values = {name: [row["value"] for row in rows if row["name"] == name] for name in names}
    return {name: sum(v) / len(v) for name, v in values.items()}


def scaled(probe: ProbeStage, means: Mapping[str, float], parameters: int, memory: int) -> Estimate:
    """From the means of a step to the whole run."""
    config, length = probe.config, means["completion_length"]
    seconds = sum(means.get(part, 0.0) for part in _PARTS)
    reached = [entry.max_completion_length for entry in config.length_schedule]
    growth = max([config.max_completion_length, *reached]) / max(length, 1.0)
    hours = seconds * config.steps / 3600
    return Estimate(
        node=probe.node,
        parameters=parameters,
        steps=config.steps,
        tokens=length * config.batch_size * config.steps,
        seconds_per_step=round(seconds, 3),
        hours=hours,
        hours_at_most=hours * growth,
        memory_gib=memory / 2**30,
    )


def main(spec: Path, result: Path) -> None:
    """Writes a list of estimates, or the reason why there are none."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = estimates(ProbeSpec.model_validate_json(spec.read_bytes()), Path(scratch))
            write_json(result, {"estimates": [asdict(e) for e in found]})
        except (RuntimeError, ValueError) as error:
            write_json(result, {"reason": " ".join(str(error).split())})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
