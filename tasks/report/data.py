"""Reads what the report shows of a run from the artifacts that its job was given."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from artifacts.manifest import MANIFEST_NAME, Manifest
from artifacts.tables import read_table
from tasks.funnel import FunnelStep, read_funnel
from tasks.job import Input
from tasks.problem import VERIFIABLE, Problem, from_table, group_name
from tasks.protocol import warnings
from tasks.recipe import in_order, role, title
from tasks.report.claims import ClaimResult, check_all
from tasks.report.tables import StageRow, stage_table

Metrics = Mapping[str, Sequence[tuple[float, float]]]
"""Metric name -> (step, value), steps rising."""


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
class ShownCompletion:
    """One completion of one checkpoint to an example question."""

    node: str
    verdict: str
    completion: str
    tokens: int


@dataclass(frozen=True)
class Example:
    """One held-out question with one right and one wrong completion of each checkpoint, where there are."""

    problem: Problem
    samples: tuple[ShownCompletion, ...]

    @property
    def by_node(self) -> dict[str, dict[bool, ShownCompletion | None]]:
        """Node -> its correct completion and its other one, None where there is none."""
        pairs: dict[str, dict[bool, ShownCompletion | None]] = {}
        for sample in self.samples:
            pair = pairs.setdefault(sample.node, {True: None, False: None})
            pair[sample.verdict == "correct"] = sample
        return pairs


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
    examples: list[Example]
    costs: list[Cost] = field(default_factory=list)
    steps: dict[str, tuple[FunnelStep, ...]] = field(default_factory=dict)
    """Node -> the steps of its data funnel, for nodes whose artifact has one."""
    warnings: list[str] = field(default_factory=list)
    """Which evaluations were made under different protocols, and what differs (`tasks.protocol`)."""

    @property
    def nodes(self) -> list[ReportNode]:
        """The artifacts with their parents, as the manifests have them."""
        names = {part.manifest.digest: name for name, part in self.parts.items()}
        return [
            ReportNode(name, p.manifest.digest, tuple(_known(p.manifest, names)))
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
    problems = {p.id: p for p in from_table(inputs["problems"].table("problems"))}
    curves: dict[str, Metrics] = {name: by_name(read_table(file)) for name, file in _metrics_files(parts)}
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
        examples=_examples({name: part.path for name, part in evaluations.items()}, problems),
        costs=_costs([*parts.values(), *evaluations.values()]),
        steps={name: steps for name, part in parts.items() if (steps := read_funnel(part.path))},
        warnings=warnings({title(name): part.manifest for name, part in evaluations.items()}),
    )


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


def _metrics_files(parts: Mapping[str, RunArtifact]) -> Iterable[tuple[str, Path]]:
    return ((n, p.path / "metrics") for n, p in parts.items() if (p.path / "metrics.parquet").exists())


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
    rejected = Counter(read_table(path / "rejected", ["reason"])["reason"].to_pylist())
    kept = Counter(read_table(path / "sft", ["domain"])["domain"].to_pylist())
    sampled = read_table(path / "samples", ["problem_id"]).num_rows
    return Curation(node, sampled, dict(rejected.most_common()), dict(kept.most_common()))


def _examples(paths: Mapping[str, Path], problems: Mapping[str, Problem]) -> list[Example]:
    """One question of each language: the one on which most checkpoints were both right and wrong."""
    seen: dict[str, set[tuple[str, bool]]] = defaultdict(set)
    for node, path in paths.items():
        table = read_table(path / "samples", ("problem_id", "verdict"))
        for question, verdict in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if verdict is not None and question in problems:
                seen[question].add((node, verdict == "correct"))
    best: dict[str, str] = {}
    for question in sorted(seen, key=lambda q: (-len(seen[q]), q)):
        best.setdefault(problems[question].language, question)
    return [
        Example(
            problems[q], tuple(s for node, path in paths.items() for s in _right_and_wrong(node, path, q))
        )
        for _, q in sorted(best.items())
    ]


def _right_and_wrong(node: str, path: Path, question: str) -> list[ShownCompletion]:
    """The first correct completion and the first that is not."""
    table = read_table(path / "samples", ("problem_id", "verdict", "completion", "completion_tokens"))
    first: dict[bool, ShownCompletion] = {}
    for row in table.filter(pc.equal(table["problem_id"], question)).to_pylist():
        sample = ShownCompletion(node, row["verdict"] or "", row["completion"], row["completion_tokens"])
        first.setdefault(row["verdict"] == "correct", sample)
    return [first[right] for right in (True, False) if right in first]


def _costs(parts: Iterable[RunArtifact]) -> list[Cost]:
    """A row a node; evaluations together, as they run in one job."""
    groups: dict[str, list[Manifest]] = defaultdict(list)
    for part in parts:
        groups["evaluation" if part.manifest.kind == "evaluation" else part.name].append(part.manifest)
    return [
        Cost(name, m[0].stage, len(m), sum(x.seconds for x in m), sum(x.accelerator_hours for x in m))
        for name, m in groups.items()
    ]
