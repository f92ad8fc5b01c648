"""What every stage flow does: resolve settings and inputs, reuse or run the job, show the result."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows import paths, plan, starting, ui
from flows.experiments import checked_name, label
from flows.graph import Pipeline, build_spec, configured, load_pipeline
from flows.runner import run_job
from tasks.job import Progress
from tasks.job.spec import BuildSpec, JobSpec
from tasks.presets import PresetError
from tasks.recipe import STAGES, Node, goes_on_without
from tasks.text_safety import for_markdown

Names = Mapping[str, str | None]
"""Input name -> `preset/node`, a digest, a unique prefix of one, None for what the recipe feeds it with, or
`none` to do without it."""

WITHOUT = "none"


def run_stage(
    stage: str,
    preset: str,
    node: str,
    config: Mapping[str, Any] | None = None,
    student: str = "",
    name: str = "",
    **inputs: str | None,
) -> State:
    """Make the artifact of one node, or reuse it; the state's message is its digest."""
    return run_stages(stage, preset, {node: inputs}, config, student, name)


def run_stages(
    stage: str,
    preset: str,
    inputs: Mapping[str, Names],
    config: Mapping[str, Any] | None = None,
    student: str = "",
    name: str = "",
) -> State:
    """Several nodes of one stage (node -> inputs) in one job; those that exist are not made again.

    `student` replaces the preset's. `name` is a word (`plan_build`), or, from the pipeline, what the names
    begin with, and a `/` (`complete_build`).

    Raises:
        PresetError: a setting, a node or an input that does not fit.
        JobFailed: with the job's own reason.
    """
    store = ArtifactStore.open(paths.absolute_store_url())
    scope = name.removesuffix("/")
    from_pipeline = name.endswith("/")
    if from_pipeline:
        builds = [complete_build(store, scope, stage, n, names, config or {}) for n, names in inputs.items()]
    else:
        pipeline = load_pipeline(preset, student)
        scope = pipeline.name
        builds = [
            plan_build(pipeline, store, stage, n, names, config or {}, name) for n, names in inputs.items()
        ]
    missing = tuple(build for build in builds if store.find(build.key) is None)
    if missing:
        # A stage that a person asked for alone steps aside for nobody.
        aside = from_pipeline and all(goes_on_without(build.node) for build in missing)
        spec = JobSpec(work_root=paths.work_root(), preset=scope, builds=missing, aside=aside)
        run_job(spec, _ProgressArtifacts(scope), start=starting.start)
    return _finish(store, builds, made={build.node for build in missing})


def complete_build(
    store: ArtifactStore, scope: str, stage: str, node: str, names: Names, config: Mapping[str, Any]
) -> BuildSpec:
    """What the pipeline asks for (`flows.stage_flows.flow_parameters`): every setting and input is given, and
    nothing is read from the preset, from which the pipeline may depart."""
    kind = STAGES[stage]
    made = Node(node, kind, kind.config.model_validate(config))
    inputs = {n: store.resolve(text) for n, text in names.items() if text and text != WITHOUT}
    return build_spec(made, inputs, f"{scope}/{node}")


def plan_build(
    pipeline: Pipeline,
    store: ArtifactStore,
    stage: str,
    node: str,
    names: Names,
    config: Mapping[str, Any],
    name: str = "",
) -> BuildSpec:
    """One node with its settings and inputs resolved, its key, and what the artifact is to be called.

    Without a `name` the node's own is used only for what the recipe itself would make of the same upstream
    artifacts; else the name says what differs (`flows.experiments`). A word is put behind the node's name.
    """
    own = pipeline.node(node)
    if own.stage.name != stage:
        raise PresetError(f"node {node} is made by {own.stage.name}, not {stage}: run that deployment")
    made = configured(_without(own, names), config)
    inputs = resolve_inputs(pipeline, store, node, names)
    differs = differences(pipeline, store, made, inputs, names)
    suffix = checked_name(name) if name else label(differs) if differs else ""
    return build_spec(made, inputs, pipeline.ref_name(f"{node}@{suffix}" if suffix else node))


def _without(node: Node, names: Names) -> Node:
    """The node with the settings that it has where an optional input is left out."""
    for name in (n for n, text in names.items() if text == WITHOUT):
        if name not in node.stage.optional:
            raise PresetError(f"stage {node.stage.name} cannot do without {name}: name an artifact for it")
        try:
            node = replace(node, config=node.stage.optional[name](node.config))
        except ValueError as error:
            raise PresetError(f"{node.name} cannot do without {name}: {error}") from None
    return node


def differences(
    pipeline: Pipeline, store: ArtifactStore, node: Node, inputs: Mapping[str, Ref], names: Names
) -> dict[str, Any]:
    """What makes this build another one than the recipe's: settings that decide its result, inputs that were
    named and are not those that the recipe feeds it with."""
    own = dict(plan.leaves(pipeline.node(node.name).config.cache_document()))
    now = dict(plan.leaves(node.config.cache_document()))
    differs = {key: value for key, value in now.items() if key not in own or own[key] != value}
    differs |= {key: "none" for key in own if key not in now}
    given = {name for name, text in names.items() if text}
    fed = resolve_inputs(pipeline, store, node.name, {}, given & pipeline.feeds.get(node.name, {}).keys())
    for name in sorted(given):
        ref = inputs.get(name)
        if ref is None or fed.get(name) != ref:
            differs[name] = ref.short if ref else WITHOUT
    return differs


def resolve_inputs(
    pipeline: Pipeline,
    store: ArtifactStore,
    node: str,
    names: Names,
    only: Collection[str] | None = None,
) -> dict[str, Ref]:
    """The named artifacts; for inputs without a name, what the recipe feeds them with.

    That is the artifact of the feeding node's key, whoever made it and whatever it is called. Where the store
    has none, it is the newest that bears the node's name; of the inputs in `only` a missing one is left out.
    """
    feeds = pipeline.feeds.get(node, {})
    wanted = {n: names.get(n) for n in {**names, **feeds} if only is None or n in only}
    planned: dict[str, plan.Planned] = {}
    if any(text is None for text in wanted.values()):
        planned = {row.node: row for row in plan.plan(pipeline, store)}
    found = {}
    for name, text in wanted.items():
        if text == WITHOUT:
            continue
        feed = feeds.get(name, name)
        row = None if text else planned.get(feed)
        if row and not row.usable:
            raise PresetError(f"{node} needs {feed}, which {row.review}: `r1 review {feed}`, or name another")
        ref = store.resolve(text, pipeline.name) if text else row.ref if row else None
        if ref is None:
            ref = store.get_ref(pipeline.ref_name(feed))
        if ref is None and only is None:
            raise PresetError(
                f"{node} needs {feed}, which is not made yet with these settings: `r1 run --until {feed}` "
                f"makes it, or name an artifact as `{name}`"
            )
        if ref is not None:
            found[name] = ref
    return found


def _finish(store: ArtifactStore, builds: list[BuildSpec], made: set[str]) -> State:
    for build in builds:
        ref = _published(store, build)
        store.set_ref(build.ref_name, ref)
        if build.node in made:
            scope, _, node = build.ref_name.partition("/")
            ui.publish_stage_artifacts(node, scope, store.fetch(ref), ref)
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
