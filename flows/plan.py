"""What a run would do: each node, its key, hit or miss, and why it misses. No Prefect, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from artifacts.errors import CorruptArtifact, DamagedName, UnknownArtifact
from artifacts.manifest import Manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows.graph import Pipeline, key_of
from tasks.presets import outside_files
from tasks.recipe import Node
from tasks.settings import Settings
from tasks.stage import Stage

_SHOWN_REASONS = 3


@dataclass(frozen=True)
class Planned:
    """One node of a plan; also what stands for its artifact while planning."""

    node: str
    stage: str
    pool: str
    key: str | None
    """None where an input is not built yet."""
    ref: Ref | None
    """The artifact, on a hit."""
    reasons: tuple[str, ...] = ()
    """Why it misses."""

    @property
    def hit(self) -> bool:
        return self.ref is not None

    @property
    def outcome(self) -> str:
        """Which artifact is reused, or why none is."""
        if self.ref is not None:
            return f"is {self.ref.short}"
        extra = len(self.reasons) - _SHOWN_REASONS
        shown = "; ".join(self.reasons[:_SHOWN_REASONS])
        return f"{shown}; and {extra} more" if extra > 0 else shown


def plan(pipeline: Pipeline, store: ArtifactStore) -> list[Planned]:
    """Every node in the order of the recipe."""
    planner = Planner(pipeline, store)
    pipeline.walk(planner)
    return planner.planned


@dataclass
class Planner:
    """The `Maker` that looks up instead of making."""

    pipeline: Pipeline
    store: ArtifactStore
    planned: list[Planned] = field(default_factory=list)

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Planned) -> Planned:
        result = self._plan(Node(node, stage, config), inputs)
        self.planned.append(result)
        return result

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, Planned], **inputs: Planned
    ) -> dict[str, Planned]:
        return {
            label: self.make(f"{node}.{label}", stage, config, **{stage.each: one}, **inputs)
            for label, one in each.items()
        }

    def _plan(self, node: Node, inputs: Mapping[str, Planned]) -> Planned:
        known = {name: planned.ref for name, planned in inputs.items() if planned.ref is not None}
        key = key_of(node, known) if len(known) == len(inputs) else None
        ref = self.store.find(key) if key else None
        reasons = () if ref else tuple(self._reasons(node, inputs))
        return Planned(node.name, node.stage.name, node.stage.pool, key, ref, reasons)

    def _reasons(self, node: Node, inputs: Mapping[str, Planned]) -> Iterator[str]:
        try:
            newest = self.store.get_ref(self.pipeline.ref_name(node.name))
        except DamagedName:
            yield "its name is damaged, so what was built before is not known"
            return
        if newest is None:
            yield "never built"
            return
        try:
            before = self.store.manifest(newest.digest)
            damage = self.store.misfit(before)
        except UnknownArtifact:
            yield f"the newest artifact, {newest.short}, is gone from the store"
            return
        except CorruptArtifact:
            yield f"the manifest of the newest artifact, {newest.short}, is damaged"
            return
        if damage:
            yield f"the newest artifact, {newest.short}, is damaged: {damage.path} {damage.what}"
        if before.stage_version != node.stage.version:
            yield f"stage {node.stage.name} is now version {node.stage.version} (was {before.stage_version})"
        changes = [*_changed_settings(node.config, before.config), *_changed_inputs(inputs, before)]
        yield from changes
        if not changes and outside_files(node.config):
            yield "the files it reads from outside the store changed"


def _changed_settings(config: Settings, before: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per setting that decides the result and differs."""
    then = _document_before(config, before)
    for key, now in _leaves(config.cache_document()):
        was = then.pop(key, None)
        if was != now:
            yield f"{key} changed from {_brief(was)} to {_brief(now)}"
    for key, was in then.items():
        yield f"{key} was {_brief(was)} and is gone"


def _document_before(config: Settings, before: Mapping[str, Any]) -> dict[str, Any]:
    """The earlier settings without volatile fields; as they were, where today's model refuses them."""
    try:
        return dict(_leaves(type(config).model_validate(before).cache_document()))
    except ValueError:
        return dict(_leaves(before))


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _changed_inputs(inputs: Mapping[str, Planned], before: Manifest) -> Iterator[str]:
    for name, planned in inputs.items():
        parent = before.parents.get(name)
        if planned.ref is None:
            yield f"waits for {planned.node}"
        elif parent is None:
            yield f"input {name} is new"
        elif parent.digest != planned.ref.digest:
            yield f"input {name} changed from {parent.short} to {planned.ref.short}"
    for name in before.parents:
        if name not in inputs:
            yield f"input {name} is gone"


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
