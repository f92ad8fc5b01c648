"""Runs a preset's recipe on this machine without a Prefect server, one job after another:

    python -m flows.local smollm2-135m                  the whole recipe, reusing what the store has
    python -m flows.local smollm2-135m --until dev2     up to a node

It takes `--set`, `--skip`, `--use` and `--name` as `r1 run` does. The jobs, keys, names and store are those
of `r1 run`, so either goes on where the other stopped. For machines on which no server can run or be reached:
a batch job of a cluster (Slurm), a rented GPU without a network. It prints a line a node and, at the end, the
seconds of the jobs and of the clock. There are no retries over machines, no pools and no pages; a killed run
is started again by the same command.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

import typer

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import feasible, paths, plan
from flows.cli.shared import (
    Name,
    Set,
    Skip,
    Until,
    Use,
    asked_variant,
    complain,
    load_pipeline,
    one_line_errors,
    open_store,
    say,
    say_departures,
)
from flows.graph import Pipeline, build_spec
from flows.reviewing import settled
from flows.runner import JobFailed, Start, job_environment, run_job
from flows.spare import SpareProcess
from tasks.job import Progress
from tasks.job.spec import BuildSpec, JobSpec
from tasks.presets import PresetError
from tasks.recipe import Node
from tasks.rollout.settings import EngineSettings
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.supervise import trees

_QUIET_SECONDS = 20.0
"""A job at work says so this often."""


class ProgressLines:
    """Says how far a job is, every `_QUIET_SECONDS`."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._said > _QUIET_SECONDS:
            self._said = time.monotonic()
            metrics = " ".join(f"{name} {value:.3g}" for name, value in progress.metrics.items())
            say(f"  {progress.node} {progress.done}/{progress.total} {progress.message} {metrics}".rstrip())


@dataclass
class LocalBuilder:
    """The `Maker` that runs each node's job in turn, in a process of its own."""

    pipeline: Pipeline
    store: ArtifactStore
    start: Start = trees.start_session
    job_seconds: float = 0.0
    """Of the jobs that ran, on the clock."""
    _progress: ProgressLines = field(default_factory=ProgressLines, repr=False)

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Ref) -> Ref:
        return self._build(Node(node, stage, config), {node: inputs})[node]

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, Ref], **inputs: Ref
    ) -> dict[str, Ref]:
        """All of them in one job, which can keep what they share (an engine)."""
        wanted = {f"{node}.{label}": {stage.each: ref, **inputs} for label, ref in each.items()}
        made = self._build(Node(node, stage, config), wanted)
        return {label: made[f"{node}.{label}"] for label in each}

    def use(self, node: str, stage: Stage, artifact: str) -> Ref:
        ref = plan.used_artifact(self.store, self.pipeline, node, stage, artifact)
        self.store.set_ref(self.pipeline.ref_name(node), ref)
        say(f"used {node} {ref.short}")
        return ref

    def review(self, node: str, made: Ref) -> Ref:
        """Raises NotReviewed: without a server nothing can ask, so the decision must be there."""
        return settled(self.store, node, self.pipeline.ref_name(node), made)

    def _build(self, node: Node, wanted: Mapping[str, Mapping[str, Ref]]) -> dict[str, Ref]:
        builds = [
            build_spec(replace(node, name=name), inputs, self.pipeline.ref_name(name))
            for name, inputs in wanted.items()
        ]
        missing = tuple(build for build in builds if self.store.find(build.key) is None)
        if missing:
            self._run(missing)
        for build in builds:
            self._tell(build, made=build in missing)
        return {build.node: self._published(build) for build in builds}

    def _run(self, builds: tuple[BuildSpec, ...]) -> None:
        work = paths.work_root()
        work.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        run_job(
            JobSpec(work_root=work, preset=self.pipeline.name, builds=builds),
            self._progress,
            start=self.start,
        )
        self.job_seconds += time.monotonic() - begun

    def _published(self, build: BuildSpec) -> Ref:
        ref = self.store.lookup(build.key)
        if ref is None:
            raise JobFailed(f"{build.node}: its job ended well, and the store has no artifact of its key")
        return ref

    def _tell(self, build: BuildSpec, made: bool) -> None:
        ref = self._published(build)
        self.store.set_ref(build.ref_name, ref)
        manifest = self.store.manifest(ref.digest)
        summary = " ".join(f"{name}={value}" for name, value in manifest.summary.items())
        say(f"{'made' if made else 'reused'} {build.node} {ref.short} {manifest.seconds:.1f} s {summary}")


def _uses_a_gpu(pipeline: Pipeline) -> bool:
    """Whether a node samples with an engine that needs one: its imports are the slow ones."""
    engines = (getattr(node.config, "engine", None) for node in pipeline.nodes.values())
    return any(isinstance(e, EngineSettings) and e.entry.needs_gpu for e in engines)


def main(
    preset: str,
    set_: Set = None,
    skip: Skip = None,
    use: Use = None,
    until: Until = "",
    name: Name = "",
) -> None:
    """Run the recipe of PRESET here, without a server; `--until NODE` ends after that node."""
    begun = time.monotonic()
    with one_line_errors():
        pipeline = load_pipeline(preset, asked_variant(set_, skip, use, until, name))
        builder = LocalBuilder(pipeline, store := open_store())
        if objections := feasible.objections(pipeline, store):
            raise PresetError("; ".join(objections))
        say_departures(pipeline)
        with ExitStack() as stack:
            if _uses_a_gpu(pipeline):
                spare = stack.enter_context(closing(SpareProcess(job_environment(), paths.log("spare"))))
                builder.start = spare.start
            try:
                pipeline.walk(builder)
            except JobFailed as error:
                complain(str(error))
                raise typer.Exit(1) from None
    say(f"{builder.job_seconds:.0f} s in jobs, {time.monotonic() - begun:.0f} s in all")


def command(arguments: Sequence[str] | None = None) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(arguments)


if __name__ == "__main__":
    command()
