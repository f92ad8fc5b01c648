"""Makes the recipe's nodes on this machine without a Prefect server: each node's job in turn.

The jobs, keys, names and store are those of `r1 run`, so either goes on where the other stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import paths, plan
from flows.graph import Pipeline, build_spec
from flows.reviewing import settled
from flows.runner import JobFailed, Start, run_job
from tasks.job import Progress
from tasks.job.spec import BuildSpec, JobSpec
from tasks.recipe import Node
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.supervise import trees

_QUIET_SECONDS = 20.0
"""A job at work says so this often."""


class ProgressLines:
    """Tells `say` how far a job is, every `_QUIET_SECONDS`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._said = say, 0.0

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._said > _QUIET_SECONDS:
            self._said = time.monotonic()
            metrics = " ".join(f"{name} {value:.3g}" for name, value in progress.metrics.items())
            self._say(
                f"  {progress.node} {progress.done}/{progress.total} {progress.message} {metrics}".rstrip()
            )


@dataclass
class LocalBuilder:
    """The `Maker` that runs each node's job in turn, in a process of its own."""

    pipeline: Pipeline
    store: ArtifactStore
    say: Callable[[str], None]
    """Told a line a node, and what a job at work is doing."""
    start_on_gpu: Start = trees.start_session
    """Starts the jobs of the GPU pools; others import little and start as they are."""
    job_seconds: float = 0.0
    """Of the jobs that ran, on the clock."""
    _progress: ProgressLines = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._progress = ProgressLines(self.say)

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
        self.say(f"used {node} {ref.short}")
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
            self._run(missing, self.start_on_gpu if node.stage.uses_gpu else trees.start_session)
        for build in builds:
            self._tell(build, made=build in missing)
        return {build.node: self._published(build) for build in builds}

    def _run(self, builds: tuple[BuildSpec, ...], start: Start) -> None:
        work = paths.work_root()
        work.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        run_job(
            JobSpec(work_root=work, preset=self.pipeline.name, builds=builds),
            self._progress,
            start=start,
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
        self.say(
            f"{'made' if made else 'reused'} {build.node} {ref.short} {manifest.seconds:.1f} s {summary}"
        )
