"""What a page of a run in progress shows, read from the store and the jobs' records; no server is asked.

`r1 run` (Prefect) and `python -m flows.local` leave the same: an artifact under each node's key, and a work
folder of the key while a job makes it. So a run is watched in the same way whoever started it, from the
machine on which its jobs run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import paths
from flows.graph import Pipeline, key_of
from flows.plan import used_artifact
from flows.ui import node_label, question_of
from tasks.job import LOG, Progress
from tasks.job.spec import JobExit, JobSpec
from tasks.recipe import Node
from tasks.review import Decision, newest
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.supervise.records import read_json
from tasks.text_safety import for_page

SHOWN_SAMPLES = 24
MAX_TEXT = 4_000
"""Characters of a completion's thinking, and of its answer, that the page gets."""
_READ_ROWS = 512
"""Rows of the newest file of samples that the shown ones are chosen from."""
_NEWEST_JOBS = 100
_SILENT_SECONDS = 30.0
"""A job beats once a second; one that has not for so long is not at work."""
_SAMPLES = ("samples/*.parquet", "shards/*/*.parquet", "curated/*/samples.parquet")
"""Where the stages leave samples in their state folders while they work."""

Metrics = Mapping[str, Sequence[tuple[float, float]]]
Document = dict[str, Any]


@dataclass(frozen=True)
class NodeState:
    """A node of the recipe; also what stands for its artifact."""

    node: str
    key: str | None = None
    """None where an input is not made yet."""
    ref: Ref | None = None
    waits: str = ""
    """What a person has to do first."""


@dataclass
class _Look:
    """The `Maker` that only looks what there is."""

    run: LiveRun
    found: list[NodeState] = field(default_factory=list)

    def make(self, node: str, stage: Stage, config: Settings, **inputs: NodeState) -> NodeState:
        known = {name: state.ref for name, state in inputs.items() if state.ref is not None}
        key = key_of(Node(node, stage, config), known) if len(known) == len(inputs) else None
        return self._add(NodeState(node, key, self.run.artifact(key) if key else None))

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, NodeState], **inputs: NodeState
    ) -> dict[str, NodeState]:
        return {
            label: self.make(f"{node}.{label}", stage, config, **{stage.each: one}, **inputs)
            for label, one in each.items()
        }

    def use(self, node: str, stage: Stage, artifact: str) -> NodeState:
        ref = used_artifact(self.run.store, self.run.pipeline, node, stage, artifact)
        return self._add(NodeState(node, None, ref))

    def review(self, node: str, made: NodeState) -> NodeState:
        if made.ref is None:
            return made
        found = newest(self.run.store, made.ref)
        if found is None or found.review.decision == Decision.reject:
            waits = "waits for its review: r1 review" if found is None else "was rejected by its review"
            self.found[-1] = NodeState(node, made.key, made.ref, waits)
            return NodeState(node)
        return NodeState(node, made.key, found.result)

    def _add(self, state: NodeState) -> NodeState:
        self.found.append(state)
        return state


@dataclass(frozen=True)
class _JobRecord:
    folder: Path
    spec: JobSpec

    @property
    def exit(self) -> JobExit | None:
        return JobExit.read(self.folder / "exit.json")

    def is_alive(self) -> bool:
        """Whether it has not ended and gave a sign of life of late; by this machine's clock."""
        try:
            beat = (self.folder / "heartbeat").stat().st_mtime
        except FileNotFoundError:
            beat = (self.folder / "spec.json").stat().st_mtime
        return self.exit is None and time.time() - beat < _SILENT_SECONDS


class LiveRun:
    """A pipeline of this machine, as far as it is."""

    def __init__(self, pipeline: Pipeline, store: ArtifactStore) -> None:
        self.pipeline, self.store = pipeline, store
        self._artifacts: dict[str, Ref] = {}
        self._specs: dict[Path, JobSpec] = {}

    def artifact(self, key: str) -> Ref | None:
        """The artifact of a key; one that was seen once is not looked for again."""
        if key not in self._artifacts and (ref := self.store.lookup(key)):
            self._artifacts[key] = ref
        return self._artifacts.get(key)

    def document(self, chosen: str = "") -> Document:
        """Everything that the page says, JSON values: the run, its nodes, those at work, and which node's
        curves and completions are `shown` (the chosen one, else one at work), with their versions."""
        nodes, jobs = self._nodes(), self._jobs()
        by_name = {state.node: state for state in nodes}
        working = {state.node: state for state in self._working(nodes, jobs)}
        shown = by_name.get(chosen) or next(iter(working.values()), None)
        return {
            "name": for_page(self.pipeline.name),
            "says": for_page(self._says(nodes, working, jobs)),
            "finished": all(state.ref for state in nodes),
            "nodes": [self._node(state, state.node in working) for state in nodes],
            "working": [self._work(state) for state in working.values()],
            "shown": self._shown(shown) if shown else None,
        }

    def curves(self, node: str) -> str | None:
        """The training curves of a node as SVG; None where it has none (yet)."""
        from tasks.report.curves import one_stage  # takes a second to import

        folder = self._folder(node)
        if folder is None:
            return None
        drawn = one_stage(node, _metrics(folder), _evaluation(folder))
        return drawn.svg if drawn else None

    def samples(self, node: str) -> list[Document]:
        """Some of the newest completions of a node."""
        folder = self._folder(node)
        file = _newest_samples(folder) if folder else None
        return [] if file is None else [_sample(row) for row in _some_rows(file)]

    def _nodes(self) -> list[NodeState]:
        look = _Look(self)
        self.pipeline.walk(look)
        return look.found

    def _jobs(self) -> list[_JobRecord]:
        """Those of this pipeline, newest first."""
        folders = sorted((paths.work_root() / "jobs").glob("*"), reverse=True)[:_NEWEST_JOBS]
        for folder in folders:
            if folder not in self._specs and (document := read_json(folder / "spec.json")):
                self._specs[folder] = JobSpec.model_validate(document)
        found = [_JobRecord(f, self._specs[f]) for f in folders if f in self._specs]
        return [job for job in found if job.spec.preset == self.pipeline.name]

    def _working(self, nodes: Sequence[NodeState], jobs: Sequence[_JobRecord]) -> Iterator[NodeState]:
        """Of each job at work the node that it makes now."""
        by_key = {state.key: state for state in nodes if state.key and state.ref is None}
        for job in jobs:
            if job.is_alive():
                makes = [by_key[build.key] for build in job.spec.builds if build.key in by_key]
                begun = [s for s in makes if s.key and Progress.read(paths.work_root() / s.key)]
                yield from (begun or makes)[:1]

    def _says(
        self, nodes: Sequence[NodeState], working: Mapping[str, NodeState], jobs: Sequence[_JobRecord]
    ) -> str:
        if all(state.ref for state in nodes):
            return "The run is finished."
        if working:
            return f"At work: {', '.join(node_label(node) for node in working)}."
        missing = {state.key for state in nodes if state.ref is None}
        if (
            jobs
            and (ended := jobs[0].exit)
            and ended.status != "ok"
            and jobs[0].spec.builds[0].key in missing
        ):
            return f"{node_label(ended.node)} {ended.status}: {ended.reason}"
        if waiting := [state for state in nodes if state.waits]:
            return f"{node_label(waiting[0].node)} {waiting[0].waits}."
        if not jobs and not any(state.ref for state in nodes):
            return "Nothing is there yet: no job has begun."
        return "No job is at work at this moment."

    def _node(self, state: NodeState, working: bool) -> Document:
        made = "made" if state.ref else "waiting"
        return {
            "node": for_page(state.node),
            "title": for_page(node_label(state.node)),
            "state": for_page(state.waits or ("at work" if working else made)),
        }

    def _work(self, state: NodeState) -> Document:
        folder = paths.work_root() / str(state.key)
        progress = Progress.read(folder)
        title = for_page(node_label(state.node))
        if progress is None:
            return {"title": title, "done": 0, "total": 0, "text": "starting", "left": ""}
        metrics = ", ".join(f"{name} {value:.3g}" for name, value in progress.metrics.items())
        return {
            "title": title, "done": progress.done, "total": progress.total,
            "text": for_page(", ".join(filter(None, (progress.message, metrics)))),
            "left": _left(progress, folder),
        }  # fmt: skip

    def _shown(self, state: NodeState) -> Document:
        folder = self._folder(state.node, [state])
        file = _newest_samples(folder) if folder else None
        return {
            "node": for_page(state.node),
            "title": for_page(node_label(state.node)),
            "curves": _version([folder / LOG, folder / "metrics.parquet", *_evaluations(folder)])
            if folder
            else "",
            "samples": _version([file]) if file else "",
        }

    def _folder(self, node: str, nodes: Sequence[NodeState] | None = None) -> Path | None:
        """Where a node's tables are: its work folder or, once it is made, its artifact."""
        found = [state for state in nodes or self._nodes() if state.node == node]
        if not found:
            return None
        if ref := found[0].ref:
            return self.store.fetch(ref)
        folder = paths.work_root() / str(found[0].key)
        return folder if found[0].key and folder.is_dir() else None


def _left(progress: Progress, folder: Path) -> str:
    """About how long it will still take, from the time at work so far, the start included."""
    spent = float((read_json(folder / "seconds.json") or {}).get("seconds", 0.0))
    if not (progress.total and progress.done and spent):
        return ""
    seconds = spent * (progress.total - progress.done) / progress.done
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def _version(files: Sequence[Path]) -> str:
    """Another one once one of the files has changed; empty where there is none."""
    stats = [(file, file.stat()) for file in files if file.exists()]
    return "-".join(f"{file.stem}.{stat.st_size}.{stat.st_mtime_ns}" for file, stat in stats[-1:] + stats[:1])


def _metrics(folder: Path) -> Metrics:
    """Of an artifact, or of a job as far as it is; a line that is just being written is left out."""
    from artifacts.tables import read_table
    from tasks.report.data import by_name

    if (folder / "metrics.parquet").exists():
        return by_name(read_table(folder / "metrics.parquet"))
    curves: dict[str, dict[float, float]] = {}
    if (folder / LOG).exists():
        for line in (folder / LOG).read_text().splitlines():
            if row := _parsed(line):
                curves.setdefault(row["name"], {})[row["step"]] = row["value"]
    return {name: sorted(points.items()) for name, points in curves.items()}


def _parsed(line: str) -> Document | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _evaluations(folder: Path) -> list[Path]:
    whole = folder / "evaluation_metrics.parquet"
    return [whole] if whole.exists() else sorted((folder / "state" / "evaluation_metrics").glob("*.parquet"))


def _evaluation(folder: Path) -> Metrics:
    import pyarrow as pa

    from artifacts.tables import read_table
    from tasks.report.data import by_name

    tables = [read_table(file) for file in _evaluations(folder)]
    return by_name(pa.concat_tables(tables)) if tables else {}


def _newest_samples(folder: Path) -> Path | None:
    if (folder / "samples.parquet").exists():
        return folder / "samples.parquet"
    found = [file for pattern in _SAMPLES for file in (folder / "state").glob(pattern)]
    return max(found, key=lambda file: (file.stat().st_mtime_ns, file.name), default=None)


def _some_rows(file: Path) -> list[Document]:
    """At most `SHOWN_SAMPLES` of the rows, at equal distances; of a large table from its last row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        last = table.num_row_groups - 1
        if last < 0:
            return []
        batch = next(table.iter_batches(_READ_ROWS, [last]), None)
        rows: list[Document] = batch.to_pylist() if batch else []
    count = min(SHOWN_SAMPLES, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _sample(row: Mapping[str, Any]) -> Document:
    head, tag, rest = row["completion"].partition("</think>")
    rewards = {
        name.removeprefix("reward_"): value for name, value in row.items() if name.startswith("reward_")
    }
    return {
        "question": _cut(question_of(row["prompt"])),
        "step": row["step"],
        "verdict": for_page(row["verdict"] or "not judged"),
        "reward": row["reward"],
        "rewards": {name: value for name, value in rewards.items() if value is not None},
        "tokens": row["completion_tokens"],
        "cut_off": row["finish_reason"] == "length",
        "thinking": _cut(head + tag) if tag else "",
        "text": _cut(rest if tag else head),
    }


def _cut(text: str) -> str:
    left_out = len(text) - MAX_TEXT
    return for_page(text[:MAX_TEXT]) + (f" … {left_out:,} more characters" if left_out > 0 else "")
