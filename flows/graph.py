"""A preset resolved into the recipe's graph: nodes, keys, and which node feeds which. No Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from artifacts.keys import cache_key
from artifacts.refs import Ref
from tasks.presets import (
    Preset,
    PresetError,
    StudentConfig,
    complaint,
    load_preset,
    load_student,
    outside_files,
    preset_name,
)
from tasks.recipe import Handle, Maker, Node, recipe, wiring
from tasks.stage import Stage


@dataclass(frozen=True)
class Pipeline:
    """A checked preset with its student."""

    name: str
    """The preset's name; refs are `<name>/<node>`."""
    preset: Preset
    student: str
    """Its name; nodes of the student are `<student>-...`."""
    student_config: StudentConfig
    nodes: dict[str, Node]
    feeds: dict[str, dict[str, str]]
    """Artifact -> input name -> the artifact that feeds it (`tasks.recipe.Wiring`)."""

    def node(self, name: str) -> Node:
        """The node called `name`; `evaluation.r1` is the evaluation of `r1`.

        Raises:
            PresetError: the recipe has no such node.
        """
        found = self.nodes.get(name) or self.nodes.get(name.partition(".")[0])
        if found is None:
            raise PresetError(f"the recipe has no node {name!r}: use one of {', '.join(self.nodes)}")
        return replace(found, name=name)

    def ref_name(self, node: str) -> str:
        return f"{self.name}/{node}"

    def walk(self, maker: Maker[Handle]) -> Handle:
        """The recipe with this preset's settings, by `maker`; returns the report."""
        return recipe(maker, self.preset, self.student_config, self.student)

    def walk_to(self, maker: Maker[Handle], name: str, **given: Handle) -> Handle:
        """Only the node `name`, and what feeds those of its inputs that are not `given`."""
        node, feeds = self.node(name), self.feeds[name].items()
        fed = {i: given[i] if i in given else self.walk_to(maker, feed) for i, feed in feeds}
        return maker.make(name, node.stage, node.config, **fed)


def load_pipeline(preset: str, student: str = "") -> Pipeline:
    """The preset (name or path) with every setting of every node checked; `student` replaces its own.

    Raises:
        PresetError: one sentence naming file, key, value and remedy.
    """
    settings = load_preset(preset)
    chosen = student or settings.student
    student, student_config = preset_name(chosen), load_student(chosen)
    graph = wiring(settings, student_config, student)
    return Pipeline(preset_name(preset), settings, student, student_config, graph.nodes, graph.feeds)


def configured(node: Node, overrides: Mapping[str, Any]) -> Node:
    """`node` with some of its settings replaced, checked again.

    Only the settings that are named change, at any depth: `{"sampling": {"max_new_tokens": 40}}` keeps the
    temperature, and so does `{"sampling.max_new_tokens": 40}`. Lists are replaced as a whole.

    Raises:
        PresetError: a setting that does not exist or is out of range.
    """
    if not overrides:
        return node
    document = node.config.model_dump(mode="json")
    for key, value in overrides.items():
        document = merged(document, key.split("."), value)
    try:
        return replace(node, config=node.stage.config.model_validate(document))
    except ValidationError as error:
        told = [complaint(f"config of {node.name}", node.stage.config, e) for e in error.errors()]
        raise PresetError("; ".join(told)) from None


def merged(document: Any, path: list[str], value: Any) -> Any:
    """A copy of `document` with `value` at `path`; a mapping is merged with the mapping that is there."""
    if path:
        inner = document if isinstance(document, Mapping) else {}
        return {**inner, path[0]: merged(inner.get(path[0]), path[1:], value)}
    if isinstance(document, Mapping) and isinstance(value, Mapping):
        return {**document, **{name: merged(document.get(name), [], item) for name, item in value.items()}}
    return value


def key_of(node: Node, inputs: Mapping[str, Ref]) -> str:
    """The cache key of `node` on these inputs.

    Raises:
        PresetError: an input is missing, unknown or of the wrong kind.
    """
    check_inputs(node.stage, inputs)
    document = node.config.cache_document()
    if outside := outside_files(node.config):
        document["outside_files"] = outside
    return cache_key(node.stage.name, node.stage.version, document, inputs)


def check_inputs(stage: Stage, inputs: Mapping[str, Ref]) -> None:
    """Every input that the stage needs is there, and of the kind it needs."""
    missing = [n for n in stage.inputs if "*" not in n and n not in inputs]
    if missing:
        raise PresetError(f"stage {stage.name} needs the input {', '.join(missing)}: name an artifact for it")
    for name, ref in inputs.items():
        kind = stage.inputs.get(name) or stage.inputs.get(name.partition(".")[0] + ".*")
        if kind is None:
            raise PresetError(f"stage {stage.name} has no input {name}: it has {', '.join(stage.inputs)}")
        if ref.kind != kind:
            raise PresetError(f"stage {stage.name} needs a {kind} as {name}, and {ref.short} is a {ref.kind}")
