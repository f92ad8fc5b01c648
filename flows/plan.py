"""What a run would do: each node, its key, hit or miss, and why it misses. No Prefect, no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from artifacts.errors import CorruptArtifact, DamagedName, UnknownArtifact
from artifacts.manifest import Manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from flows.graph import Pipeline, key_of
from tasks import source_code
from tasks.presets import PresetError, outside_files
from tasks.recipe import Node, RecipeError, node_called
from tasks.review import Decision, newest
from tasks.settings import Settings
from tasks.stage import Stage

_SHOWN_REASONS = 3
_SHOWN_FILES = 5


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
    changed_code: tuple[str, ...] = ()
    """Of a hit: source files of its stage that say something else than when it was made."""
    review: str = ""
    """What a person decided on it, or that the run waits for that; empty where it is not reviewed."""
    usable: bool = True
    """Whether what depends on it may begin."""

    @property
    def hit(self) -> bool:
        return self.ref is not None

    @property
    def outcome(self) -> str:
        """Which artifact is reused, or why none is."""
        if self.ref is not None:
            return f"is {self.ref.short}" + (f", {self.review}" if self.review else "")
        extra = len(self.reasons) - _SHOWN_REASONS
        shown = "; ".join(self.reasons[:_SHOWN_REASONS])
        return f"{shown}; and {extra} more" if extra > 0 else shown


def plan(pipeline: Pipeline, store: ArtifactStore) -> list[Planned]:
    """Every node in the order of the recipe."""
    planner = Planner(pipeline, store)
    pipeline.walk(planner)
    return planner.planned


def code_warnings(rows: Iterable[Planned]) -> list[str]:
    """A sentence for every set of source files that changed since hits were made."""
    by_files: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.changed_code:
            by_files.setdefault(row.changed_code, []).append(row.node)
    return [
        f"made by other code, and reused: {', '.join(nodes)} ({_listed(files)} changed since); "
        f"`r1 run --rebuild {nodes[0]}` makes one again"
        for files, nodes in by_files.items()
    ]


def _listed(files: tuple[str, ...]) -> str:
    extra = len(files) - _SHOWN_FILES
    return ", ".join(files[:_SHOWN_FILES]) + (f" and {extra} more" if extra > 0 else "")


def named_rows(rows: Iterable[Planned], names: Iterable[str], pipeline: Pipeline) -> list[Planned]:
    """The hits that are to be made again.

    Raises:
        PresetError: no such node, or one that is not made here.
    """
    by_node = {row.node: row for row in rows}
    found = []
    for name in names:
        try:
            row = by_node[node_called(name, by_node, pipeline.student)]
        except RecipeError as error:
            raise PresetError(f"--rebuild: {error}") from None
        if row.node in pipeline.wired.used:
            raise PresetError(f"--rebuild {name}: it is an artifact of your own, which is not made here")
        found += [row] if row.hit else []
    return found


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

    def use(self, node: str, stage: Stage, artifact: str) -> Planned:
        ref = used_artifact(self.store, self.pipeline, node, stage, artifact)
        self.planned.append(result := Planned(node, stage.name, stage.pool, None, ref))
        return result

    def review(self, node: str, made: Planned) -> Planned:
        if made.ref is None:
            return made
        found = newest(self.store, made.ref)
        usable = found is not None and found.review.decision != Decision.reject
        self.planned[-1] = reviewed = replace(
            made, ref=found.result if found else made.ref, usable=usable,
            review=found.sentence if found else "waits for its review",
        )  # fmt: skip
        return reviewed if usable else replace(reviewed, node=f"the review of {node}", ref=None)

    def _plan(self, node: Node, inputs: Mapping[str, Planned]) -> Planned:
        known = {name: planned.ref for name, planned in inputs.items() if planned.ref is not None}
        key = key_of(node, known) if len(known) == len(inputs) else None
        ref = self.store.find(key) if key else None
        reasons = () if ref else tuple(self._reasons(node, inputs))
        changed = tuple(source_code.changed(self.store.manifest(ref.digest).sources)) if ref else ()
        return Planned(node.name, node.stage.name, node.stage.pool, key, ref, reasons, changed)

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


def used_artifact(store: ArtifactStore, pipeline: Pipeline, node: str, stage: Stage, artifact: str) -> Ref:
    """The artifact that stands for what `stage` would make.

    Raises:
        PresetError: it is of another kind.
        StoreError: there is none.
    """
    ref = store.resolve(artifact, pipeline.name)
    if ref.kind != stage.output:
        raise PresetError(f"{node} is a {stage.output}, and {artifact} is a {ref.kind}: use another artifact")
    return ref


def _changed_settings(config: Settings, before: Mapping[str, Any]) -> Iterator[str]:
    """One sentence per setting that decides the result and differs."""
    then = _document_before(config, before)
    for key, now in leaves(config.cache_document()):
        was = then.pop(key, None)
        if was != now:
            if isinstance(was, str) and isinstance(now, str) and _name(was) != _name(now):
                was, now = _name(was), _name(now)  # a template's name, without the digest of its text
            yield f"{key} changed from {_brief(was)} to {_brief(now)}"
    for key, was in then.items():
        yield f"{key} was {_brief(was)} and is gone"


def _name(value: str) -> str:
    return re.sub(r" [0-9a-f]{16}$", "", value)


def _document_before(config: Settings, before: Mapping[str, Any]) -> dict[str, Any]:
    """The earlier settings without volatile fields; as they were, where today's model refuses them."""
    try:
        return dict(leaves(type(config).model_validate(before).cache_document()))
    except ValueError:
        return dict(leaves(before))


def what_differs(one: Manifest, other: Manifest) -> str:
    """Settings and inputs of `one` that are not those of `other`, a few words each."""
    was, now = dict(leaves(other.config)), dict(leaves(one.config))
    found = [f"{key} {_brief(value)}" for key, value in now.items() if was.get(key) != value]
    found += [f"another {name}" for name, ref in one.parents.items() if other.parents.get(name) != ref]
    extra = len(found) - _SHOWN_REASONS
    return ", ".join(found[:_SHOWN_REASONS]) + (f" and {extra} more" if extra > 0 else "")


def leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value of nested settings."""
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
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
