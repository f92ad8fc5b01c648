"""What every stage flow does: resolve settings and inputs, reuse or run the job, show the result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import paths, ui
from flows.graph import Pipeline, configured, key_of, load_pipeline
from flows.runner import run_job
from tasks.job import Progress
from tasks.job.spec import BuildSpec, JobSpec
from tasks.presets import PresetError
from tasks.text_safety import for_markdown

Names = Mapping[str, str | None]
"""Input name -> `preset/node`, a digest, a unique prefix of one, or None for the newest of the preset."""


def run_stage(
    stage: str,
    preset: str,
    node: str,
    config: Mapping[str, Any] | None = None,
    student: str = "",
    **inputs: str | None,
) -> State:
    """Make the artifact of one node, or reuse it; the state's message is its digest."""
    return run_stages(stage, preset, {node: inputs}, config, student)


def run_stages(
    stage: str,
    preset: str,
    inputs: Mapping[str, Names],
    config: Mapping[str, Any] | None = None,
    student: str = "",
) -> State:
    """Several nodes of one stage (node -> inputs) in one job; those that exist are not made again.

    `student` replaces the preset's.

    Raises:
        PresetError: a setting, a node or an input that does not fit.
        JobFailed: with the job's own reason.
    """
    pipeline = load_pipeline(preset, student)
    store = ArtifactStore.open(paths.absolute_store_url())
    builds = [plan_build(pipeline, store, stage, node, names, config or {}) for node, names in inputs.items()]
    missing = tuple(build for build in builds if store.find(build.key) is None)
    if missing:
        spec = JobSpec(work_root=paths.work_root(), preset=pipeline.name, builds=missing)
        run_job(spec, _ProgressArtifacts(pipeline.name))
    return _finish(pipeline, store, builds, made={build.node for build in missing})


def plan_build(
    pipeline: Pipeline,
    store: ArtifactStore,
    stage: str,
    name: str,
    names: Names,
    config: Mapping[str, Any],
) -> BuildSpec:
    """One node with its settings and inputs resolved, and its key."""
    node = configured(pipeline.node(name), config)
    if node.stage.name != stage:
        raise PresetError(f"node {name} is made by {node.stage.name}, not {stage}: run that deployment")
    inputs = resolve_inputs(pipeline, store, name, names)
    return BuildSpec(
        node=name,
        stage=stage,
        config=node.config.model_dump(mode="json"),
        inputs=inputs,
        key=key_of(node, inputs),
        ref_name=pipeline.ref_name(name),
    )


def resolve_inputs(pipeline: Pipeline, store: ArtifactStore, node: str, names: Names) -> dict[str, Ref]:
    """The named artifacts; for inputs without a name, the newest of the node that feeds them."""
    feeds = pipeline.feeds.get(node, {})
    wanted = {name: text or pipeline.ref_name(feeds.get(name, name)) for name, text in names.items()}
    wanted |= {name: pipeline.ref_name(feed) for name, feed in feeds.items() if name not in wanted}
    return {name: store.resolve(text, pipeline.name) for name, text in wanted.items()}


def _finish(pipeline: Pipeline, store: ArtifactStore, builds: list[BuildSpec], made: set[str]) -> State:
    for build in builds:
        ref = _published(store, build)
        store.set_ref(build.ref_name, ref)
        if build.node in made:
            ui.publish_stage_artifacts(build.node, pipeline.name, store.fetch(ref), ref)
        get_run_logger().info("%s is %s %s", build.ref_name, ref.kind, ref.digest)
    digests = ", ".join(_published(store, build).short for build in builds)
    return Completed(name=None if made else "Cached", message=digests)


def _published(store: ArtifactStore, build: BuildSpec) -> Ref:
    ref = store.lookup(build.key)
    if ref is None:
        raise RuntimeError(f"{build.node}: the job ended well, and the store has no artifact of its key")
    return ref


class _ProgressArtifacts:
    """Shows progress records in the UI: one bar a node, moved every few seconds, and log lines."""

    def __init__(self, preset: str, seconds: float = 5.0) -> None:
        self._preset = preset
        self._seconds = seconds
        self._bars: dict[str, UUID] = {}
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        final = progress.total > 0 and progress.done >= progress.total
        if not final and time.monotonic() - self._shown < self._seconds:
            return
        self._shown = time.monotonic()
        metrics = " ".join(f"{name}={value:.4g}" for name, value in progress.metrics.items())
        get_run_logger().info(
            "%s %d/%d %s %s", progress.node, progress.done, progress.total, progress.message, metrics
        )
        try:
            self._move(progress.node, 100 * progress.done / progress.total if progress.total else 0.0)
        except httpx.TransportError as error:  # the server may be back before the job ends
            get_run_logger().warning("the progress bar stands still: %s", error)

    def _move(self, node: str, percent: float) -> None:
        if node in self._bars:
            update_progress_artifact(self._bars[node], progress=min(percent, 100.0))
            return
        created = create_progress_artifact(
            progress=min(percent, 100.0),
            key=ui.artifact_key(self._preset, node, "progress"),
            description=for_markdown(f"{ui.node_label(node)} of preset {self._preset}: progress"),
        )
        assert isinstance(created, UUID)
        self._bars[node] = created
