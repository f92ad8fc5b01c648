"""What holds for every settings model: plain types, nothing empty that must not be, mappings without an order."""
# ruff: noqa: E501  (tables)

import json
import random
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from flows.graph import configured, key_of, load_pipeline, merged
from tasks.presets import PresetError, StudentConfig, load_student, read_preset
from tasks.problems.draw import draw
from tasks.problems.source import Source
from tasks.problems.sources.reasoning_gym import ReasoningGym
from tasks.problems.sources.tiny_world import TinyWorld
from tasks.problems.stage import ProblemsConfig
from tasks.recipe import STAGES, Node
from tasks.registry import models
from tasks.rewards.term import Term
from tasks.settings import Settings, in_order

MAY_BE_EMPTY = (
    {"length_schedule", "report_to", "settings", "arguments", "benchmarks", "pass_at", "instructions"}
    | {"most_per_domain", "general"}
    | {
        *(
            "splits",
            "remove",
            "answer",
            "choices",
            "incorrect",
            "tests",
            "setup",
            "kind",
            "only",
            "metadata",
            "fixed",
        )
    }
)
"""Lists and mappings that mean something when they are empty."""


def below(kind: Any) -> Iterator[type[Settings]]:
    """The settings models in an annotation, and in theirs."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from below(field.annotation)
    for argument in get_args(kind):
        yield from below(argument)


MODELS = {
    model.__name__: model
    for root in (
        *(stage.config for stage in STAGES.values()),
        StudentConfig,
        *models("tasks.problems.sources", Source).values(),
        *models("tasks.rewards.terms", Term).values(),
    )
    for model in below(root)
}
FIELDS = [(model, name) for model in MODELS.values() for name in model.model_fields]


def kinds(annotation: Any) -> set[Any]:
    """The plain types that a field takes, without None."""
    if get_origin(annotation) is Annotated or get_origin(annotation) is Union or "|" in str(annotation):
        return {k for a in get_args(annotation) for k in kinds(a)} - {type(None)}
    return {get_origin(annotation) or annotation}


def objections(model: type[Settings], name: str, value: Any) -> list[str]:
    """What the model says of this field's value."""
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        return [e["msg"] for e in error.errors() if name in e["loc"] or f"{name} = " in e["msg"]]
    return []


def test_the_models_are_found():
    assert {"RLConfig", "Sampling", "Curriculum", "Accuracy", "GymTask", "BaseConfig", "Readability"} <= set(
        MODELS
    )


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=[f"{m.__name__}.{n}" for m, n in FIELDS])
def test_a_wrong_type_is_refused_in_one_sentence(model, name):
    found = kinds(model.model_fields[name].annotation)
    wrong = []
    if found <= {int, float}:
        wrong += [True, False, "many", [1]]
    if found == {int}:
        wrong += ["3", 1.5]
    if found == {bool}:
        wrong += [1, 0, "yes", "true"]
    if found <= {tuple, dict} and name not in MAY_BE_EMPTY:
        wrong += [[], {}]
    for value in wrong:
        said = objections(model, name, value)
        assert said, value
        assert all("\n" not in sentence for sentence in said)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("steps", True, "steps = true: must be a number"),
        ("domains", [], "domains = .*at least 1 item"),
        ("rewards", [], "rewards = .*at least 1 item"),
        ("length_schedule", [{"step": True, "max_completion_length": 9}], r"step = true: must be a number"),
        ("bf16", "yes", "bf16 = 'yes': must be true or false"),
        ("steps", "45", "steps = '45': must be a valid integer"),
        ("lerning_rate", 1, r"lerning_rate is not a setting: did you mean learning_rate\?"),
        ("engine", {"nme": "vllm"}, r"engine\.nme is not a setting: did you mean name\?"),
        ("rewards", [{"name": "overlength", "bufer": 3}], r"bufer is not a setting: did you mean buffer\?"),
        ("curriculum", {"stages": [{"stp": 0}]}, r"stp is not a setting: did you mean step\?"),
    ],
)
def test_an_override_that_cannot_be_is_one_sentence(key, value, sentence):
    with pytest.raises(PresetError, match=rf"^config of r1-zero: .*{sentence}") as caught:
        configured(load_pipeline("tiny").node("r1-zero"), {key: value})
    assert "\n" not in str(caught.value)


def test_a_number_in_text_is_read_where_yaml_makes_it_text():
    node = load_pipeline("tiny").node("r1-zero")
    assert configured(node, {"learning_rate": "1e-5"}).config.learning_rate == 1e-5


@pytest.mark.parametrize("overrides", [{"sampling": {"max_new_tokens": 40}}, {"sampling.max_new_tokens": 40}])
def test_an_override_changes_the_setting_that_it_names(overrides):
    node = load_pipeline("tiny").node("evaluation")
    config = configured(node, overrides).config
    assert (config.sampling.max_new_tokens, config.sampling.temperature, config.sampling.top_p) == (
        40,
        0.6,
        0.95,
    )
    assert config.model_copy(update={"sampling": node.config.sampling}) == node.config


def test_overrides_reach_any_depth_and_replace_lists():
    problems = load_pipeline("tiny").node("cold-start")
    config = configured(problems, {"readability": {"repetition": {"ngram": 5}}, "domains": ["math"]}).config
    assert (config.readability.repetition.ngram, config.readability.repetition.max_repeats) == (5, 3)
    assert config.domains == ("math",)
    assert configured(problems, {"sampling": {"temperature": 0.7}}).config.sampling.max_new_tokens == 112


leaves = st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
documents = st.recursive(leaves, lambda inner: st.dictionaries(st.sampled_from("abcd"), inner), max_leaves=8)


@given(
    st.dictionaries(st.sampled_from("abcd"), documents), st.dictionaries(st.sampled_from("abcd"), documents)
)
def test_a_merge_keeps_what_it_does_not_name(document, changes):
    done = merged(document, [], changes)
    assert merged(done, [], changes) == done
    assert merged(document, [], {}) == document
    for name, value in document.items():
        if name not in changes:
            assert done[name] == value
    for name, value in changes.items():
        if not (isinstance(value, dict) and isinstance(document.get(name), dict)):
            assert done[name] == value


# ---- the order of mappings ------------------------------------------------------------------------


def shuffled(document: Any, rng: random.Random) -> Any:
    """The document with every mapping in another order."""
    if isinstance(document, dict):
        names = list(document)
        rng.shuffle(names)
        return {name: shuffled(document[name], rng) for name in names}
    return [shuffled(item, rng) for item in document] if isinstance(document, list) else document


PIPELINES = {name: load_pipeline(name) for name in ("tiny", "smollm2-135m")}
NODES = {f"{p} {n}": node for p, pipeline in PIPELINES.items() for n, node in pipeline.nodes.items()}


@pytest.mark.parametrize("name", NODES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_no_stage_sees_the_order_of_a_mapping(name, seed):
    node = NODES[name]
    document = node.config.model_dump(mode="json")
    config = node.stage.config.model_validate(shuffled(document, random.Random(seed)))
    assert json.dumps(config.model_dump(mode="json")) == json.dumps(document)
    assert repr(config) == repr(node.config)


def jsonb(value: Any) -> Any:
    """The value as Postgres gives it back: the keys of mappings by length, then by bytes."""
    if isinstance(value, dict):
        return {
            name: jsonb(value[name]) for name in sorted(value, key=lambda name: (len(name), name.encode()))
        }
    return [jsonb(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", NODES)
def test_a_flow_does_not_depend_on_what_postgres_does_to_its_parameters(name):
    from flows.stage_flows import flow_parameters

    node = NODES[name]
    sent = json.loads(json.dumps(flow_parameters(node, "tiny", "tiny", "tiny-student", {})))
    received = configured(node, jsonb(sent).get("config") or {})
    assert repr(received.config) == repr(node.config)
    assert received.config.cache_document() == node.config.cache_document()


def orders(config: dict[str, Any]) -> list[ProblemsConfig]:
    return [ProblemsConfig.model_validate(shuffled(config, random.Random(seed))) for seed in range(4)]


GYM = {
    "tasks": {
        "chain_sum": {"domain": "math", "train": 6, "held_out": 3, "settings": {"min_terms": 2, "max_terms": 4}},
        "letter_counting": {"domain": "logic", "train": 4, "held_out": 2},
        "lcm": {"domain": "math", "train": 4, "held_out": 2},
    },
    "name": "reasoning-gym",
}  # fmt: skip
WORLD = {
    "train": {"math": 9, "code": 5, "stem": 4, "logic": 6, "general": 3},
    "held_out": {"stem": 2, "math": 3},
    "name": "tiny-world",
}


@pytest.mark.parametrize("source", [GYM, WORLD], ids=["reasoning-gym", "tiny-world"])
def test_equal_keys_mean_equal_problems(source):
    configs = orders({"sources": [source]})
    made = [(key_of(Node("problems", STAGES["problems"], config), {}), draw(config)) for config in configs]
    assert len({key for key, _ in made}) == 1
    assert all(drawn == made[0][1] for _, drawn in made)


def test_order_and_numbers_given_in_python_count_as_little():
    counts = {"math": 3, "code": 2}
    back = dict(reversed(counts.items()))
    assert repr(TinyWorld(train=counts, held_out=back)) == repr(TinyWorld(train=back, held_out=counts))
    task = {"domain": "math", "train": 1, "held_out": 1}
    one, other = ({**task, "settings": {"max_terms": n}} for n in (2, 2.0))
    assert repr(ReasoningGym(tasks={"lcm": one})) == repr(ReasoningGym(tasks={"lcm": other}))


def test_the_inputs_of_a_job_have_one_order():
    from artifacts.refs import Ref
    from tasks.job.spec import BuildSpec
    from tasks.kinds import Kind

    refs = {f"checkpoint.{n}": Ref(kind=Kind.checkpoint, digest=str(n) * 64) for n in range(5)}
    given = {"node": "report", "stage": "report", "config": {}, "key": "0" * 64, "ref_name": "tiny/report"}
    specs = [BuildSpec(inputs=inputs, **given) for inputs in (refs, dict(reversed(refs.items())))]
    assert specs[0].model_dump_json() == specs[1].model_dump_json()


def test_in_order_reaches_every_mapping():
    assert json.dumps(in_order({"b": [{"d": 1, "c": ({"f": 1, "e": 2},)}], "a": 0})) == (
        '{"a": 0, "b": [{"c": [{"e": 2, "f": 1}], "d": 1}]}'
    )


def test_presets_and_students_still_load():
    assert read_preset("paper")
    assert load_student("llama-8b")
