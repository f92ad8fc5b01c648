"""A preset resolved into the recipe's graph: nodes, keys, and which node feeds which. No Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from artifacts.keys import cache_key
from artifacts.refs import Ref
from tasks.config import Preset
from tasks.presets import PresetError, load_preset, load_student, outside_files, preset_name
from tasks.recipe import Node, nodes, run_recipe
from tasks.stages import Stage


@dataclass(frozen=True)
class Pipeline:
    """A checked preset with its student."""

    name: str
    """The preset's name; refs are `<name>/<node>`."""
    preset: Preset
    student: str
    nodes: dict[str, Node]

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


def load_pipeline(preset: str, student: str = "") -> Pipeline:
    """The preset (name or path) with every setting of every node checked; `student` replaces its own.

    Raises:
        PresetError: one sentence naming file, key, value and remedy.
    """
    settings = load_preset(preset)
    chosen = student or settings.student
    student = preset_name(chosen)
    table = nodes(settings, load_student(chosen), student)
    return Pipeline(preset_name(preset), settings, student, table)


def configured(node: Node, overrides: Mapping[str, Any]) -> Node:
    """`node` with some of its settings replaced, checked again.

    Raises:
        PresetError: a setting that does not exist or is out of range.
    """
    if not overrides:
        return node
    document = node.config.model_dump(mode="json") | dict(overrides)
    try:
        return replace(node, config=node.stage.config.model_validate(document))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "settings"
        raise PresetError(f"config of {node.name}: {key} = {first['input']!r}: {first['msg']}") from None


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
    missing = [n for n in stage.inputs if "*" not in n and n not in inputs and n not in stage.optional]
    if missing:
        raise PresetError(f"stage {stage.name} needs the input {', '.join(missing)}: name an artifact for it")
    for name, ref in inputs.items():
        kind = stage.inputs.get(name) or stage.inputs.get(name.partition(".")[0] + ".*")
        if kind is None:
            raise PresetError(f"stage {stage.name} has no input {name}: it has {', '.join(stage.inputs)}")
        if ref.kind != kind:
            raise PresetError(f"stage {stage.name} needs a {kind} as {name}, and {ref.short} is a {ref.kind}")


def wiring(pipeline: Pipeline) -> dict[str, dict[str, str]]:
    """Node -> input name -> the node that feeds it, in the order of the recipe."""
    recorder = _Recorder()
    run_recipe(recorder, pipeline.student)
    return recorder.edges


@dataclass
class _Recorder:
    """A `Builder` that builds nothing: a node's name stands for its artifact."""

    edges: dict[str, dict[str, str]] = field(default_factory=dict)

    def build(self, node: str, **inputs: str) -> str:
        self.edges[node] = inputs
        return node

    def build_many(self, node: str, inputs: dict[str, dict[str, str]]) -> dict[str, str]:
        return {label: self.build(f"{node}.{label}", **wanted) for label, wanted in inputs.items()}
