"""One flow per stage, each a deployment of the same name that runs alone:

    prefect deployment run rl-zero --param preset=tiny
    prefect deployment run sft --param node=dev3
    prefect deployment run reasoning-rl --param checkpoint=tiny/dev1 --param 'config={"learning_rate": 1e-5}'

The flows are made from the registry of stages (`tasks.recipe.STAGES`); `signature` says what each asks for.
An input that is not named is the artifact that feeds it in the recipe; a name is `preset/node`, a digest or a
unique prefix of one, and `none` leaves out an input that the stage can do without. `config` replaces single
settings of the preset. What exists already is not made again. The result of a run with other settings or
inputs than the recipe's has a name of its own, `name` or one that says what differs (`flows.experiments`).
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.flows import Flow

from flows import checkout
from flows.graph import Pipeline, load_pipeline
from flows.stage_run import WITHOUT, run_stage, run_stages
from tasks.presets import PresetError, student_name
from tasks.recipe import STAGES, STUDENT, Node, RecipeError, node_called
from tasks.stage import Stage

Typed = str | int | float
"""The name or digest of an artifact. `--param checkpoint=12345678` is read as JSON and comes as a number."""


def as_typed(value: Any) -> Any:
    """Names and digests that became numbers as the text that was typed, in mappings too.

    Raises:
        PresetError: the text is lost (`1234e567` is a number without its digits).
    """
    if isinstance(value, Mapping):
        return {name: as_typed(item) for name, item in value.items()}
    if isinstance(value, float):
        raise PresetError(
            f"{value} is no name and no digest: quote it, as in --param 'checkpoint=\"1234e567\"'"
        )
    return str(value) if isinstance(value, int) else value


def signature(stage: Stage) -> Signature:
    """What the deployment of a stage asks for.

    Always `preset`; then `node`, or `student` for a student's stage; then its inputs. A stage that makes an
    artifact for each of several inputs takes one by name (or `all`), or several by label. Inputs of any
    number come as one mapping, `inputs`.
    """
    parameters: dict[str, tuple[Any, Any]] = {"preset": (str, "tiny")}
    if stage.for_student:
        parameters["student"] = (str, "")
    elif not stage.each:
        parameters["node"] = (str, next(iter(stage.nodes)))
    for name in stage.inputs:
        if name == stage.each:
            parameters |= {name: (Typed, "all"), f"{name}s": (dict[str, Typed] | None, None)}
        elif not _takes_any_number(stage):
            parameters[name] = (Typed | None, None)
    if _takes_any_number(stage):
        parameters["inputs"] = (dict[str, Typed] | None, None)
    if stage.config.model_fields:
        parameters["config"] = (dict[str, Any] | None, None)
    parameters["name"] = (str, "")
    return Signature(
        [
            Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind, default=default)
            for name, (kind, default) in parameters.items()
        ],
        return_annotation=State,
    )


def flow_parameters(
    node: Node,
    preset: str,
    scope: str,
    student: str,
    inputs: Mapping[str, str],
    each: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The parameters with which the pipeline runs the deployment of `node`'s stage.

    `scope` is what names begin with. `inputs` are digests by input name; `each` those of the input that the
    stage takes several of, by label.
    """
    stage = node.stage
    parameters: dict[str, Any] = {"preset": preset, "name": f"{scope}/"}
    if stage.for_student:
        parameters["student"] = student
    elif not stage.each:
        parameters["node"] = node.name
    if each is not None:
        parameters |= {stage.each: ", ".join(each), f"{stage.each}s": dict(each)}  # the first names the run
    left_out = {name: WITHOUT for name in stage.optional if name not in inputs}
    if _takes_any_number(stage):
        parameters["inputs"] = dict(inputs)
    else:
        parameters |= {**inputs, **left_out}
    if stage.config.model_fields:
        parameters["config"] = node.config.model_dump(mode="json")
    return parameters


def _takes_any_number(stage: Stage) -> bool:
    return any(name.endswith(".*") for name in stage.inputs)


def _run(
    stage: Stage,
    preset: str,
    node: str = "",
    student: str = "",
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    name: str = "",
    **named: Any,
) -> State:
    """What the flow of `stage` does with the parameters of its `signature`."""
    checkout.refuse_other_code()
    named, inputs = as_typed(named), as_typed(inputs)
    if stage.each:
        one, several = named.pop(stage.each), named.pop(f"{stage.each}s")
        each = several if several is not None else _by_label(load_pipeline(preset), stage, one)
        first = next(iter(stage.nodes))
        wanted = {f"{first}.{label}": {stage.each: text, **named} for label, text in each.items()}
        return run_stages(stage.name, preset, wanted, config, name=name)
    if stage.for_student:
        student = student or load_pipeline(preset).preset.student
        node = next(iter(stage.nodes)).replace(STUDENT, student_name(student), 1)
        if not name.endswith("/"):
            _make_base(preset, student, node, named)
    elif not name.endswith("/"):
        node = _called(node, load_pipeline(preset))
    return run_stage(stage.name, preset, node, config, student, name, **named, **(inputs or {}))


def _called(node: str, pipeline: Pipeline) -> str:
    try:
        return node_called(node, pipeline.nodes, pipeline.student)
    except RecipeError as error:
        raise PresetError(str(error)) from None


def _by_label(pipeline: Pipeline, stage: Stage, name: str) -> dict[str, str | None]:
    """Label -> artifact: of one that is named, or of each in the recipe (None: what the recipe makes)."""
    if name != "all":
        return {name.rpartition("/")[2][:40]: name}
    node = next(iter(stage.nodes))
    labels = [made.removeprefix(f"{node}.") for made in pipeline.feeds if made.startswith(f"{node}.")]
    return dict.fromkeys(labels)


def _make_base(preset: str, student: str, node: str, named: Mapping[str, str | None]) -> None:
    """What feeds a student's stage and belongs to the student alone is made first, where it is not named."""
    pipeline = load_pipeline(preset, student)
    for name, feed in pipeline.feeds[node].items():
        if named.get(name) is None and feed.startswith(f"{pipeline.student}-"):
            run_stage(pipeline.node(feed).stage.name, preset, feed, student=student)


def _stage_flow(stage: Stage) -> Flow[..., State]:
    """A flow named after its stage whose runs say node and preset."""

    def run(**parameters: Any) -> State:
        return _run(stage, **parameters)

    run.__name__ = run.__qualname__ = stage.name.replace("-", "_")
    run.__doc__ = stage.summary
    run.__signature__ = signature(stage)  # type: ignore[attr-defined]
    if stage.each:
        run_name = f"{stage.name} {{{stage.each}}} of {{preset}}"
    else:
        run_name = f"{stage.name} {{student}} of {{preset}}" if stage.for_student else "{node} of {preset}"
    return flow(name=stage.name, flow_run_name=run_name, persist_result=False)(run)


FLOWS: dict[str, Flow[..., State]] = {name: _stage_flow(stage) for name, stage in STAGES.items()}
"""By stage. Each is an attribute of this module too, which is how Prefect finds it."""
globals().update({made.fn.__name__: made for made in FLOWS.values()})
