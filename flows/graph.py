"""A preset resolved into the recipe's graph: nodes, keys, and which node feeds which. No Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from artifacts.keys import cache_key
from artifacts.refs import Ref
from flows.experiments import REVIEW, Variant
from tasks.job.spec import BuildSpec
from tasks.presets import (
    Preset,
    PresetError,
    StudentConfig,
    complaint,
    former_names,
    load_preset,
    load_student,
    outside_files,
    preset_name,
    read_preset,
    student_name,
)
from tasks.recipe import (
    STUDENT,
    Handle,
    Maker,
    Node,
    RecipeError,
    Shape,
    Wiring,
    current_name,
    node_called,
    recipe,
    wiring,
)
from tasks.stage import Stage


@dataclass(frozen=True)
class Pipeline:
    """A checked preset with its student, and how this run departs from it."""

    name: str
    """What refs begin with: the preset's name, or that of an experiment (`flows.experiments`)."""
    preset: Preset
    student: str
    """Its name; nodes of the student are `<student>-...`."""
    student_config: StudentConfig
    wired: Wiring
    hints: tuple[str, ...] = ()
    """What the user should know of the preset, a sentence each."""

    @property
    def nodes(self) -> dict[str, Node]:
        return self.wired.nodes

    @property
    def feeds(self) -> dict[str, dict[str, str]]:
        """Artifact -> input name -> the artifact that feeds it."""
        return self.wired.feeds

    def node(self, name: str) -> Node:
        """The node called `name`; `evaluation.r1` is the evaluation of `r1`.

        Raises:
            PresetError: the recipe has no such node, or this run leaves it out.
        """
        found = self.nodes.get(name) or self.nodes.get(name.partition(".")[0])
        if found is None:
            raise PresetError(f"the recipe has no node {name!r}: use one of {', '.join(self.nodes)}")
        return replace(found, name=name)

    def ref_name(self, node: str) -> str:
        return f"{self.name}/{node}"

    def walk(self, maker: Maker[Handle]) -> Handle:
        """The recipe with this preset's settings, by `maker`; returns its last artifact (the report)."""
        return recipe(maker, self.preset, self.student_config, self.student, self.wired.shape)

    def walk_to(self, maker: Maker[Handle], name: str, **given: Handle) -> Handle:
        """Only the node `name`, and what feeds those of its inputs that are not `given`."""
        if name in self.wired.used:
            stage, artifact = self.wired.used[name]
            return maker.use(name, stage, artifact)
        node, feeds = self.node(name), self.feeds[name].items()
        fed = {i: given[i] if i in given else self.walk_to(maker, feed) for i, feed in feeds}
        made = maker.make(name, node.stage, node.config, **fed)
        return maker.review(name, made) if name in self.wired.shape.review else made


def load_pipeline(preset: str, student: str = "", variant: Variant | None = None) -> Pipeline:
    """The preset (name or path) with every setting of every node checked; `student` replaces its own.

    Raises:
        PresetError: one sentence naming file, key, value and remedy.
    """
    variant = variant or Variant()
    chosen = student or str(variant.changes.get("student", "")) or read_preset(preset).student
    name = student_name(chosen)
    changes, of_student, variant, hints = _split(preset, chosen, name, variant)
    settings, student_config = load_preset(preset, changes), load_student(chosen, of_student)
    shape = Shape(
        frozenset((*settings.skip, *variant.skip)),
        {**settings.use, **variant.use},
        variant.until,
        frozenset(settings.review.nodes),
    )
    try:
        wired = wiring(settings, student_config, name, shape)
    except RecipeError as error:
        raise PresetError(str(error)) from None
    hints += [f"{preset}: section {was} is called {now} now" for was, now in former_names(preset).items()]
    scope = variant.scope(preset_name(preset))
    return Pipeline(scope, settings, name, student_config, wired, tuple(hints))


def _split(
    preset: str, chosen: str, student: str, variant: Variant
) -> tuple[dict[str, Any], dict[str, Any], Variant, list[str]]:
    """Changes by node as changes of the preset's and of the student's file; the variant with every node
    under its present name, so that it is called the same however it was asked for; hints on former names."""
    of_preset: dict[str, Any] = {}
    of_student: dict[str, Any] = {}
    written: dict[str, Any] = {}
    hints: list[str] = []
    variant = replace(variant, skip=[current_name(n) for n in variant.skip])
    if not variant.changes:
        return of_preset, of_student, variant, hints
    nodes = wiring(read_preset(preset), load_student(chosen), student).nodes
    own = {f"{student}-base": "base", f"{student}-distilled": "distill"}
    for key, value in variant.changes.items():
        if key == "student" or key.startswith(REVIEW):
            of_preset[key] = written[key] = value
            continue
        # Names of students may hold dots: the longest node that the key begins with is meant.
        given = max((n for n in nodes if key.startswith(f"{n}.")), key=len, default=key.partition(".")[0])
        setting = key[len(given) + 1 :]
        try:
            node = node_called(given, nodes, student)
        except RecipeError as error:
            raise PresetError(f"{key}: {error}") from None
        if node != given and current_name(given) != given.replace("_", "-"):
            hints.append(f"{given} is called {node} now")
        written[f"{node}.{setting}"] = value
        if node in own:
            of_student[f"{own[node]}.{setting}"] = value
        else:
            section = f"{STUDENT}{node.removeprefix(student)}" if node.startswith(f"{student}-") else node
            of_preset[f"{section}.{setting}"] = value
    return of_preset, of_student, replace(variant, changes=written), hints


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


def build_spec(node: Node, inputs: Mapping[str, Ref], ref_name: str) -> BuildSpec:
    """What a job is asked to make of `node` on these inputs. Raises as `key_of`."""
    return BuildSpec(
        node=node.name,
        stage=node.stage.name,
        config=node.config.model_dump(mode="json"),
        inputs=dict(inputs),
        key=key_of(node, inputs),
        ref_name=ref_name,
    )


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
