"""Reads what the report shows of a run from the artifacts that its job was given."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.manifest import MANIFEST_NAME, Manifest
from artifacts.tables import read_batches, read_table, table_files
from tasks.funnel import FunnelStep, read_funnel
from tasks.job import Input
from tasks.problem import VERIFIABLE, group_name
from tasks.protocol import warnings
from tasks.recipe import in_order, is_students, role, title
from tasks.report.claims import ClaimResult, check_all
from tasks.report.selection import ChosenCompletions, choose
from tasks.report.tables import StageRow, stage_table

Metrics = Mapping[str, Sequence[tuple[float, float]]]
"""Metric name -> (step, value), steps rising."""

_ROWS_AT_ONCE = 65_536
EVALUATION_METRICS, EVALUATION_SAMPLES = "evaluation_metrics", "evaluation_samples"
"""Tables of a checkpoint that was evaluated while RL trained it."""


@dataclass(frozen=True)
class ReportNode:
    """One artifact of the run."""

    name: str
    digest: str
    parents: tuple[str, ...]
    """Names of the nodes it was made from."""


@dataclass(frozen=True)
class RunArtifact:
    """One input artifact under its name in the graph."""

    name: str
    manifest: Manifest
    path: Path


@dataclass(frozen=True)
class Curation:
    """What a curation stage made of its candidates; counted in its tables."""

    node: str
    sampled: int
    rejected: Mapping[str, int]
    """Reason -> rows, most frequent first."""
    kept: Mapping[str, int]
    """Domain -> rows of the fine-tuning set."""

    @property
    def kept_total(self) -> int:
        return sum(self.kept.values())


@dataclass(frozen=True)
class Cost:
    node: str
    stage: str
    artifacts: int
    seconds: float
    accelerator_hours: float


@dataclass(frozen=True)
class RunRecord:
    """Everything that the report shows, before any decision on how it looks."""

    preset: str
    rows: list[StageRow]
    parts: dict[str, RunArtifact]
    """Problems, checkpoints, data sets and reward models by node, in the order of the recipe."""
    evaluations: dict[str, RunArtifact]
    curves: dict[str, Metrics]
    funnels: list[Curation]
    claims: list[ClaimResult]
    completions: ChosenCompletions
    """For the browser."""
    costs: list[Cost] = field(default_factory=list)
    steps: dict[str, tuple[FunnelStep, ...]] = field(default_factory=dict)
    """Node -> the steps of its data funnel, for nodes whose artifact has one."""
    evaluation_curves: dict[str, Metrics] = field(default_factory=dict)
    """By node: metrics of the evaluations during its training."""
    warnings: list[str] = field(default_factory=list)
    """Which evaluations were made under different protocols, and what differs (`tasks.protocol`)."""

    @property
    def nodes(self) -> list[ReportNode]:
        """The artifacts with their parents, as the manifests have them. Where a student is the base itself,
        students come from the one of the two, everything else from the other."""
        names = {
            of_student: {
                part.manifest.digest: name
                for name, part in sorted(
                    self.parts.items(), key=lambda item: is_students(item[0]) == of_student
                )
            }
            for of_student in (False, True)
        }
        return [
            ReportNode(name, p.manifest.digest, tuple(_known(p.manifest, names[is_students(name)])))
            for name, p in self.parts.items()
        ]

    @property
    def total_cost(self) -> Cost:
        """All of it, cached stages included."""
        return Cost(
            "All",
            "",
            sum(cost.artifacts for cost in self.costs),
            sum(cost.seconds for cost in self.costs),
            sum(cost.accelerator_hours for cost in self.costs),
        )


def load_run(inputs: Mapping[str, Input]) -> RunRecord:
    """Read the inputs of the report's job (`evaluation.NAME`, `checkpoint.NAME`, ...).

    Raises:
        ValueError: no evaluation is among the inputs.
    """
    evaluations = _parts(inputs, ("evaluation",))
    if not evaluations:
        raise ValueError("the report has no evaluation to show: run the evaluate stage first")
    parts = _parts(inputs, ("problems", "checkpoint", "dataset", "reward_models"))
    curves = _curves(parts, "metrics")
    seconds = {name: part.manifest.seconds for name, part in parts.items()}
    return RunRecord(
        preset=next(iter(evaluations.values())).manifest.preset,
        rows=stage_table({n: read_table(p.path / "scores") for n, p in evaluations.items()}, seconds),
        parts=parts,
        evaluations=evaluations,
        curves=curves,
        funnels=[_funnel(name, p.path) for name, p in parts.items() if (p.path / "sft.parquet").exists()],
        claims=check_all(
            {role(n): question_means(read_table(p.path / "question_scores")) for n, p in evaluations.items()},
            {role(name): metrics for name, metrics in curves.items()},
        ),
        completions=choose(
            inputs["problems"].path / "problems",
            {name: part.path / "samples" for name, part in evaluations.items()},
            {name: p.path / EVALUATION_SAMPLES for name, p in parts.items() if _has(p, EVALUATION_SAMPLES)},
        ),
        costs=_costs([*parts.values(), *evaluations.values()]),
        evaluation_curves=_curves(parts, EVALUATION_METRICS),
        steps={name: steps for name, part in parts.items() if (steps := read_funnel(part.path))},
        warnings=warnings({title(name): part.manifest for name, part in evaluations.items()}),
    )


def _has(part: RunArtifact, table: str) -> bool:
    return (part.path / f"{table}.parquet").exists() or (part.path / table).is_dir()


def by_name(table: pa.Table) -> dict[str, list[tuple[float, float]]]:
    """The curves of a `metrics` table; of a step logged twice the last value counts."""
    curves: dict[str, dict[float, float]] = {}
    columns = (table.column(c).to_pylist() for c in ("step", "name", "value"))
    for step, name, value in zip(*columns, strict=True):
        if value == value:
            curves.setdefault(name, {})[step] = value
    return {name: sorted(points.items()) for name, points in curves.items()}


def _parts(inputs: Mapping[str, Input], kinds: Sequence[str]) -> dict[str, RunArtifact]:
    named = {
        name.partition(".")[2] or name: RunArtifact(
            name.partition(".")[2] or name,
            Manifest.parse((given.path / MANIFEST_NAME).read_bytes(), str(given.path)),
            given.path,
        )
        for name, given in inputs.items()
        if name.partition(".")[0] in kinds
    }
    return {name: named[name] for name in in_order(named)}


def _known(manifest: Manifest, names: Mapping[str, str]) -> Iterable[str]:
    return (names[ref.digest] for ref in manifest.parents.values() if ref.digest in names)


def _curves(parts: Mapping[str, RunArtifact], table: str) -> dict[str, Metrics]:
    return {n: by_name(read_table(part.path / table)) for n, part in parts.items() if _has(part, table)}


def question_means(question_scores: pa.Table) -> dict[str, dict[str, float]]:
    """Measure (`math/pass_at_1`) -> problem id -> value, from an evaluation's `question_scores`.

    These are the values that the stage table averages, so a claim and the table cannot disagree. Groups are
    called as there (`verifiable`, `level 3`, `source aime24`). Added is `verifiable/vote_gain`: cons@k minus
    pass@1 of the same question.
    """
    measures: dict[str, dict[str, float]] = defaultdict(dict)
    for row in question_scores.to_pylist():
        groups = [row["domain"], group_name("source", row["source"])]
        if row["domain"] in VERIFIABLE:
            groups += ["verifiable", group_name("language", row["language"])]
            groups += [group_name("level", row["level"])] if row["level"] is not None else []
        for group in groups:
            measures[f"{group}/{row['metric']}"][row["problem_id"]] = row["value"]
    alone = measures["verifiable/pass_at_1"]
    measures["verifiable/vote_gain"] = {
        question: value - alone[question]
        for measure in list(measures)
        if measure.startswith("verifiable/cons_at_")
        for question, value in measures[measure].items()
    }
    return measures


def _funnel(node: str, path: Path) -> Curation:
    sampled = sum(pq.read_metadata(file).num_rows for file in table_files(path / "samples"))
    return Curation(node, sampled, _counts(path / "rejected", "reason"), _counts(path / "sft", "domain"))


def _counts(path: Path, column: str) -> dict[str, int]:
    """How often each value of a column occurs, the most frequent first."""
    found: Counter[str] = Counter()
    for batch in read_batches(path, _ROWS_AT_ONCE, [column]):
        for entry in batch[column].value_counts().to_pylist():
            found[entry["values"]] += entry["counts"]
    return dict(found.most_common())


def _costs(parts: Iterable[RunArtifact]) -> list[Cost]:
    """A row a node; evaluations together, as they run in one job. An artifact that two nodes share, as a
    student that is the base itself, was made once and counts once."""
    groups: dict[str, list[Manifest]] = defaultdict(list)
    once: dict[str, RunArtifact] = {}
    for part in parts:
        once.setdefault(part.manifest.digest, part)
    for part in once.values():
        groups["evaluation" if part.manifest.kind == "evaluation" else part.name].append(part.manifest)
    return [
        Cost(name, m[0].stage, len(m), sum(x.seconds for x in m), sum(x.accelerator_hours for x in m))
        for name, m in groups.items()
    ]
