"""Ablations: a preset beside a variant of it, and the difference with its intervals. No Prefect.

`configs/ablations/NAME.yaml` says what the variant changes, which node of either side is evaluated, and which
measures and training curves are compared (`Ablation`). Both sides run here, job after job, as
`python -m flows.local` does, up to the evaluation of their node. Keys and store are those of every other run:
whatever the variant does not change is made once, and a second ablation of a preset has its baseline already.

With several seeds every stage that trains or samples training data runs again under another seed. Problems,
base and the held-out questions stay. A difference then has two intervals: over the questions, each with its
mean over the seeds, and over the seeds, each with its mean over the questions.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationError

from artifacts.files import write_atomic
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import read_table, write_table
from flows import feasible
from flows.experiments import Variant
from flows.graph import Pipeline, load_pipeline
from tasks.evaluate.stage import EVALUATE
from tasks.intervals import MeanWithInterval, bootstrap_difference, over_runs, paired_difference
from tasks.preset_file import SettingsFileError, read_settings
from tasks.presets import CONFIGS, PresetError, complaint
from tasks.problems.stage import PROBLEMS
from tasks.protocol import warnings
from tasks.recipe import RecipeError, node_called
from tasks.report.data import by_name, question_means
from tasks.settings import Settings

ABLATIONS = CONFIGS / "ablations"
SEED_STEP = 1_000
"""Between the seeds of two repetitions; a preset's own seeds are small numbers that must not meet."""
_ENDS = 10
"""A curve's beginning and end are so many parts of its steps, and at least five steps."""
QUESTIONS = pa.schema(
    [
        ("side", pa.string()), ("seed", pa.int64()), ("measure", pa.string()), ("problem_id", pa.string()),
        ("value", pa.float64()),
    ]
)  # fmt: skip


class AblationSide(Settings):
    """One of the two runs: which checkpoint is looked at, and how its recipe departs from the preset's."""

    node: str
    """The checkpoint; `student-distilled` is that of whatever student."""
    skip: tuple[str, ...] = ()
    """Nodes that are left out; what takes their place is as for `r1 run --skip`."""
    set: dict[str, Any] = Field(default_factory=dict)
    """`NODE.SETTING` -> value."""
    scale: dict[str, float] = Field(default_factory=dict)
    """`NODE.SETTING` -> factor of the preset's number; a whole number stays one, and at least 1."""
    without_rewards: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """RL node -> reward terms that it is trained without."""


class Ablation(Settings):
    """A file of `configs/ablations`."""

    title: str
    """What the variant is."""
    paper: str
    """What was published."""
    baseline: AblationSide
    variant: AblationSide
    measures: tuple[str, ...]
    """Cells of the stage table, such as `verifiable/pass_at_1` or `level 3/length`."""
    curves: tuple[str, ...] = ()
    """Training metrics of both nodes."""


def load_ablation(name_or_path: str) -> Ablation:
    """The ablation called so, or that of a YAML file.

    Raises:
        PresetError: there is none, or it says what does not exist.
    """
    is_path = name_or_path.endswith((".yaml", ".yml"))
    path = Path(name_or_path) if is_path else ABLATIONS / f"{name_or_path}.yaml"
    if not path.is_file():
        names = available()
        near = difflib.get_close_matches(name_or_path, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names)}, or a YAML file"
        raise PresetError(f"there is no ablation {name_or_path!r}: {hint}")
    try:
        return Ablation.model_validate(read_settings(path))
    except SettingsFileError as error:
        raise PresetError(f"{path} {error}") from None
    except ValidationError as error:
        raise PresetError(complaint(str(path), Ablation, error.errors()[0])) from None


def available() -> list[str]:
    return sorted(path.stem for path in ABLATIONS.glob("*.yaml"))


def side_pipeline(side: AblationSide, name: str, preset: str, seed: int) -> Pipeline:
    """The recipe of one side up to the evaluation of its node; `seed` 0 is the preset's own.

    Raises:
        PresetError: the side changes what the preset does not have, or nothing where it should.
    """
    own = load_pipeline(preset)
    changes = {
        **side.set,
        **{key: _scaled(own, key, factor) for key, factor in side.scale.items()},
        **{f"{node}.rewards": _without(own, node, terms) for node, terms in side.without_rewards.items()},
        **_other_seeds(own, seed),
    }
    named = [name] if side.set or side.scale or side.without_rewards or side.skip else []
    named += [f"seed-{seed}"] if seed else []
    variant = Variant(changes, side.skip, until=f"{EVALUATION}.{side.node}", name="+".join(named))
    return load_pipeline(preset, variant=variant)


EVALUATION = next(iter(EVALUATE.nodes))


def _setting(pipeline: Pipeline, key: str) -> tuple[str, Any]:
    """The node of `NODE.SETTING` as the preset calls it, and the setting's value there."""
    given, _, setting = key.partition(".")
    try:
        node = node_called(given, pipeline.nodes, pipeline.student)
    except RecipeError as error:
        raise PresetError(f"{key}: {error}") from None
    value: Any = pipeline.nodes[node].config
    for part in setting.split("."):
        value = getattr(value, part, None)
    return node, value


def _scaled(pipeline: Pipeline, key: str, factor: float) -> float:
    _, value = _setting(pipeline, key)
    if not isinstance(value, int | float):
        raise PresetError(f"{key} is no number in this preset: it cannot be scaled")
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor


def _without(pipeline: Pipeline, node: str, terms: Sequence[str]) -> list[dict[str, Any]]:
    _, rewards = _setting(pipeline, f"{node}.rewards")
    names = [term.name for term in rewards or ()]
    if missing := sorted(set(terms) - set(names)):
        raise PresetError(
            f"{node} has no reward term {missing[0]} in this preset (it has {', '.join(names) or 'none'}): "
            "there is nothing to take away"
        )
    return [term.model_dump(mode="json") for term in rewards if term.name not in terms]


def _other_seeds(pipeline: Pipeline, seed: int) -> dict[str, int]:
    """Another seed for whatever has one, but for the problems and how questions are answered."""
    if not seed:
        return {}
    fixed = (PROBLEMS, EVALUATE)
    return {
        f"{name}.seed": own + seed * SEED_STEP
        for name, node in pipeline.nodes.items()
        if node.stage not in fixed and isinstance(own := getattr(node.config, "seed", None), int)
    }


# ---- running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SideRun:
    """What one side made under one seed."""

    seed: int
    pipeline: Pipeline
    checkpoint: Ref
    evaluation: Ref


Build = Callable[[Pipeline], Ref]
"""Makes a pipeline's last node (or finds it made) and returns its artifact."""


def run_sides(
    ablation: Ablation, name: str, preset: str, seeds: int, store: ArtifactStore, build: Build
) -> dict[str, list[SideRun]]:
    """Both sides under every seed, checked before anything is made.

    Raises:
        PresetError: as `side_pipeline`, or a node that cannot work with the problems.
    """
    sides = {"baseline": ablation.baseline, "variant": ablation.variant}
    pipelines = {
        side: [side_pipeline(config, name, preset, seed) for seed in range(seeds)]
        for side, config in sides.items()
    }
    for pipeline in (pipeline for planned in pipelines.values() for pipeline in planned):
        if objections := feasible.objections(pipeline, store):
            raise PresetError("; ".join(objections))
    made: dict[str, list[SideRun]] = {side: [] for side in sides}
    for seed in range(seeds):
        for side in sides:
            pipeline = pipelines[side][seed]
            evaluation = build(pipeline)
            checkpoint = store.manifest(evaluation.digest).parents["checkpoint"]
            made[side].append(SideRun(seed, pipeline, checkpoint, evaluation))
    return made


# ---- comparing ----------------------------------------------------------------------------------

Values = Sequence[Mapping[str, Mapping[str, float]]]
"""For each seed: measure -> problem id -> mean over the samples."""
Curves = Sequence[Mapping[str, Sequence[tuple[float, float]]]]
"""For each seed: training metric -> (step, value)."""


@dataclass(frozen=True)
class MeasureDifference:
    """A measure of both sides; `value` is variant minus baseline."""

    measure: str
    baseline: float
    variant: float
    value: float
    low: float
    high: float
    """95% interval over questions."""
    p_value: float
    questions: int
    by_seed: tuple[float, ...]
    low_over_seeds: float | None = None
    high_over_seeds: float | None = None
    """95% interval over seeds, by Student's t; None for a single seed."""


@dataclass(frozen=True)
class CurveTrend:
    """How a training metric of one side moved: the mean of its last steps less that of its first ones."""

    metric: str
    side: str
    first: float
    last: float
    low: float
    high: float
    """95% interval of last - first."""
    steps: int
    """That either mean is over, in each seed."""


@dataclass(frozen=True)
class AblationResult:
    """What `r1 ablate` prints and writes."""

    name: str
    preset: str
    title: str
    paper: str
    seeds: int
    nodes: Mapping[str, str]
    """Side -> its node."""
    measures: Sequence[MeasureDifference]
    curves: Sequence[CurveTrend]
    not_measured: Sequence[str] = ()
    """Measures and curves that one of the sides does not have."""
    warnings: Sequence[str] = ()
    """Where the two sides were not evaluated alike."""
    evaluations: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Side -> digest of its evaluation, by seed."""


def compare(ablation: Ablation, values: Mapping[str, Values], curves: Mapping[str, Curves]) -> AblationResult:
    """The differences of `ablation` from numbers alone; the caller adds what they belong to."""
    measured, moved, absent = [], [], []
    for measure in ablation.measures:
        sides = [[seed.get(measure, {}) for seed in values[side]] for side in ("baseline", "variant")]
        if all(_mean_over_seeds(side) for side in sides):
            measured.append(_difference(measure, *sides))
        else:
            absent.append(measure)
    for metric in ablation.curves:
        for side in ("baseline", "variant"):
            points = [seed[metric] for seed in curves[side] if metric in seed]
            trend = _trend(metric, side, points) if points else None
            moved += [trend] if trend else []
            absent += [] if trend else [f"{metric} of the {side}"]
    nodes = {"baseline": ablation.baseline.node, "variant": ablation.variant.node}
    return AblationResult(
        "", "", ablation.title, ablation.paper, len(values["baseline"]), nodes, measured, moved, absent
    )


def _difference(
    measure: str, baseline: Sequence[Mapping[str, float]], variant: Sequence[Mapping[str, float]]
) -> MeasureDifference:
    pooled = [_mean_over_seeds(side) for side in (baseline, variant)]
    shared = pooled[0].keys() & pooled[1].keys()
    paired = paired_difference(pooled[1], pooled[0])
    single = [paired_difference(b, a).value for a, b in zip(baseline, variant, strict=True)]
    low, high = _over_seeds(single)
    ours, theirs = (math.fsum(side[question] for question in shared) / len(shared) for side in pooled)
    return MeasureDifference(
        measure, ours, theirs, paired.value, paired.low, paired.high, paired.p_value, paired.questions,
        tuple(single), low, high,
    )  # fmt: skip


def _mean_over_seeds(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Problem id -> mean over the seeds, of the problems that every seed has."""
    shared = set.intersection(*(set(seed) for seed in seeds))
    return {question: math.fsum(s[question] for s in seeds) / len(seeds) for question in sorted(shared)}


def _over_seeds(differences: Sequence[float]) -> tuple[float | None, float | None]:
    return over_runs(differences) or (None, None)


def _trend(metric: str, side: str, seeds: Sequence[Sequence[tuple[float, float]]]) -> CurveTrend | None:
    """From the same number of first and last steps of every seed; None below ten steps."""
    steps = min(len(points) for points in seeds)
    if steps < _ENDS:
        return None
    size = max(5, steps // _ENDS)
    runs = [np.array([value for _, value in points]) for points in seeds]
    first, last = np.concatenate([r[:size] for r in runs]), np.concatenate([r[-size:] for r in runs])
    moved: MeanWithInterval = bootstrap_difference(last, first)
    return CurveTrend(metric, side, float(first.mean()), float(last.mean()), moved.low, moved.high, size)


def result_of(
    ablation: Ablation, name: str, preset: str, runs: Mapping[str, Sequence[SideRun]], store: ArtifactStore
) -> tuple[AblationResult, list[dict[str, Any]]]:
    """The differences between what was made, and the rows of `questions.parquet`."""
    values = {
        side: [question_means(read_table(store.fetch(r.evaluation) / "question_scores")) for r in made]
        for side, made in runs.items()
    }
    curves = {side: [_curves(store, run.checkpoint) for run in made] for side, made in runs.items()}
    manifests = {
        f"{side} (seed {r.seed})": store.manifest(r.evaluation.digest)
        for side, made in runs.items()
        for r in made
    }
    result = replace(
        compare(ablation, values, curves),
        name=name,
        preset=preset,
        warnings=warnings(manifests),
        evaluations={side: [run.evaluation.digest for run in made] for side, made in runs.items()},
    )
    rows = [
        {"side": side, "seed": run.seed, "measure": measure, "problem_id": question, "value": value}
        for side, made in runs.items()
        for run, found in zip(made, values[side], strict=True)
        for measure in ablation.measures
        for question, value in found.get(measure, {}).items()
    ]
    return result, rows


def _curves(store: ArtifactStore, checkpoint: Ref) -> Mapping[str, Sequence[tuple[float, float]]]:
    folder = store.fetch(checkpoint)
    return by_name(read_table(folder / "metrics")) if (folder / "metrics.parquet").exists() else {}


def write_result(folder: Path, result: AblationResult, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `ablation.json` and `questions.parquet` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(result), indent=1, ensure_ascii=False)
    write_atomic(folder / "ablation.json", f"{text}\n".encode())
    write_table(folder / "questions.parquet", list(rows), QUESTIONS)
