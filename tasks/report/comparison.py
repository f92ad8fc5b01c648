"""Two runs beside each other: the settings that differ, scores with paired intervals, and training curves.

Differences of scores are those of the second run minus the first, over the questions that both answered
(`tasks.intervals.paired_difference`), so that a question which is hard for both counts for neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from artifacts.manifest import Manifest
from tasks.intervals import PairedDifference, paired_difference
from tasks.protocol import Protocol, differences
from tasks.recipe import in_order, title
from tasks.report.data import EVALUATION_METRICS, Metrics, by_name, question_means
from tasks.report.names import short_revision
from tasks.report.stage_settings import flat, shown_value
from tasks.report.tables import COLUMNS, Column, StageRow, columns_by, percent_and_interval

ReadTable = Callable[[Manifest, str], pa.Table | None]
"""The table of that name of an artifact, of an evaluation also the `problems` it asked; None without one."""
EVALUATION = "evaluation."
ALL_NODES = "all"
"""Stands for the node where all artifacts of a run are meant."""
_QUESTION = ("id", "prompt", "answer", "verifier", "verifier_args")


@dataclass(frozen=True)
class ComparedRun:
    """The artifacts of one run."""

    name: str
    artifacts: Mapping[str, Manifest]
    """By node, in which `student` stands for the student's name; evaluations are `evaluation.NODE`."""

    @property
    def evaluations(self) -> dict[str, Manifest]:
        found = {n.removeprefix(EVALUATION): m for n, m in self.artifacts.items() if n.startswith(EVALUATION)}
        return {node: found[node] for node in in_order(found)}


@dataclass(frozen=True)
class SettingDifference:
    """A setting, or a library's version, that the two runs have different values of."""

    node: str
    setting: str
    one: str
    other: str


@dataclass(frozen=True)
class ScoreDifference:
    """One measure of one checkpoint in both runs."""

    node: str
    head: str
    """The measure as the stage table calls it."""
    one: float
    """The first run's mean over the shared questions."""
    other: float
    difference: PairedDifference
    scale: int
    """What to multiply with: 100 for shares, which are shown in percent."""

    def value(self, number: float, sign: str = "") -> str:
        return f"{number * self.scale:{sign}.{1 if self.scale > 1 or abs(number) >= 10 else 2}f}"

    @property
    def interval(self) -> str:
        low, high = (self.value(n, "+") for n in (self.difference.low, self.difference.high))
        return f"[{low}, {high}]"

    @property
    def clear(self) -> bool:
        """Whether the interval does not hold zero."""
        return self.difference.low > 0 or self.difference.high < 0


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and what not, before any decision on how it looks."""

    one: str
    other: str
    same: Sequence[str]
    """Nodes whose artifact both share."""
    only: Sequence[str]
    """Nodes that one run alone has, a sentence each."""
    settings: Sequence[SettingDifference]
    warnings: Sequence[str]
    """Why scores are not comparable, a sentence each."""
    scores: Sequence[ScoreDifference]
    curves: Mapping[str, tuple[Metrics, Metrics]]
    """Node -> training metrics of the two runs, where they were trained apart."""
    evaluation_curves: Mapping[str, tuple[Metrics, Metrics]]
    """The same of the evaluations during training."""

    @property
    def by_node(self) -> dict[str, list[ScoreDifference]]:
        found: dict[str, list[ScoreDifference]] = {}
        for score in self.scores:
            found.setdefault(score.node, []).append(score)
        return found


def compare(one: ComparedRun, other: ComparedRun, read: ReadTable) -> Comparison:
    """Return what differs between two runs."""
    both = in_order([node for node in one.artifacts if node in other.artifacts])
    pairs = {node: (one.artifacts[node], other.artifacts[node]) for node in both}
    same = [node for node, (a, b) in pairs.items() if a.digest == b.digest]
    trained = {node: pair for node, pair in pairs.items() if node not in same}
    curves, evaluation_curves = (
        {node: (m[0], m[1]) for node, pair in trained.items() if (m := _metrics(pair, table, read))}
        for table in ("metrics", EVALUATION_METRICS)
    )
    warned, scores = _scores(one, other, read)
    return Comparison(
        one.name, other.name, same, list(_only(one, other)), list(_settings(pairs)), warned, scores,
        curves, evaluation_curves,
    )  # fmt: skip


def _only(one: ComparedRun, other: ComparedRun) -> Iterator[str]:
    for run, without in ((one, other), (other, one)):
        if alone := in_order([node for node in run.artifacts if node not in without.artifacts]):
            yield f"only {run.name} has {', '.join(alone)}"


def _settings(pairs: Mapping[str, tuple[Manifest, Manifest]]) -> Iterator[SettingDifference]:
    seen = set()
    for node, (one, other) in pairs.items():
        for setting, first, second in _unequal(dict(flat(one.config)), dict(flat(other.config))):
            found = SettingDifference(node.partition(".")[0], setting, first, second)
            if found not in seen:  # evaluations of one run have the same settings
                seen.add(found)
                yield found
    for versions in _unequal(*(_versions([pair[side] for pair in pairs.values()]) for side in (0, 1))):
        yield SettingDifference(ALL_NODES, *versions)


def _versions(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Library -> its versions in a run, and the code revisions."""
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for library, version in manifest.versions.items():
            found.setdefault(library, set()).add(version)
        if manifest.code_revision:
            found.setdefault("code", set()).add(short_revision(manifest.code_revision))
    return {library: ", ".join(sorted(versions)) for library, versions in sorted(found.items())}


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in [*one, *(name for name in other if name not in one)]:
        first, second = (shown_value(of[name]) if name in of else "" for of in (one, other))
        if first != second or one.get(name) != other.get(name):
            yield name, first, second


def _metrics(pair: tuple[Manifest, Manifest], table: str, read: ReadTable) -> tuple[Metrics, Metrics] | None:
    found = [by_name(metrics) for manifest in pair if (metrics := read(manifest, table)) is not None]
    return (found[0], found[1]) if len(found) == 2 else None


def _scores(one: ComparedRun, other: ComparedRun, read: ReadTable) -> tuple[list[str], list[ScoreDifference]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    scores: list[ScoreDifference] = []
    for node, first in one.evaluations.items():
        second = other.evaluations.get(node)
        if second is None or first.digest == second.digest:
            continue
        if found := differences(Protocol.of(first), Protocol.of(second)):
            groups.setdefault(tuple(found), []).append(title(node))
        ours, theirs = (read(manifest, "question_scores") for manifest in (first, second))
        if ours is not None and theirs is not None:
            asked = _same_questions(first, second, read)
            scores += _score_differences(node, question_means(ours), question_means(theirs), asked)
    warned = [
        f"{', '.join(nodes)}: the two runs were evaluated under different protocols, so differences may not "
        f"come from the checkpoints: {'; '.join(found)}"
        for found, nodes in groups.items()
    ]
    return warned, scores


def _same_questions(one: Manifest, other: Manifest, read: ReadTable) -> set[str] | None:
    """The ids that stand for the same question in the problems of both; None where these are the same."""
    refs = [manifest.parents.get("problems") for manifest in (one, other)]
    if refs[0] == refs[1]:
        return None
    tables = (read(manifest, "problems") for manifest in (one, other))
    questions = [
        set(zip(*(table[column].to_pylist() for column in _QUESTION), strict=True))
        for table in tables
        if table is not None
    ]
    return {question[0] for question in set.intersection(*questions)} if len(questions) == 2 else None


def _score_differences(
    node: str,
    one: Mapping[str, Mapping[str, float]],
    other: Mapping[str, Mapping[str, float]],
    asked: set[str] | None,
) -> Iterator[ScoreDifference]:
    for head, measure, scale in _measures(set(one) & set(other)):
        means = [
            {q: v for q, v in run[measure].items() if asked is None or q in asked} for run in (one, other)
        ]
        shared = means[0].keys() & means[1].keys()
        if shared:
            first, second = (sum(mean[question] for question in shared) / len(shared) for mean in means)
            difference = paired_difference(means[1], means[0])
            yield ScoreDifference(node, head, first, second, difference, scale)


def _measures(shared: set[str]) -> Iterator[tuple[str, str, int]]:
    """Those of the stage table and of levels that both runs have: heading, measure, scale."""
    row = StageRow("", dict.fromkeys(shared))  # type: ignore[arg-type]
    for column in (*COLUMNS, *columns_by("level", [row])):
        for measure in _called(column, shared):
            yield _head(column, measure), measure, 100 if column.long is percent_and_interval else 1


def _called(column: Column, shared: set[str]) -> list[str]:
    name = f"{column.domain}/{column.metric}"
    if not column.metric.endswith("_at_"):
        return [name] if name in shared else []
    found = [m for m in shared if m.startswith(name) and m != f"{column.domain}/pass_at_1"]
    return sorted(found, key=lambda m: (len(m), m))


def _head(column: Column, measure: str) -> str:
    if column.metric.endswith("_at_"):
        return measure.rpartition("/")[2].replace("_at_", "@")
    return f"Level {column.head}" if column.domain.startswith("level ") else column.head
