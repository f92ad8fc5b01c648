import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.keys import cache_key, canonical, canonical_json
from artifacts.refs import Ref
from tasks.kinds import Kind

INPUTS = {"checkpoint": Ref(kind=Kind.checkpoint, digest="a" * 64)}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcde"), inner, max_size=4),
)
configs = st.dictionaries(st.sampled_from(["lr", "steps", "seed", "name"]), documents)


def key(config, inputs=INPUTS, version=1):
    return cache_key("sft", version, config, inputs)


@given(configs, st.randoms())
def test_order_of_keys_does_not_matter(config, random):
    items = list(config.items())
    random.shuffle(items)
    assert key(dict(items)) == key(config)


@given(configs)
def test_a_config_read_back_from_json_has_the_same_key(config):
    assert key(json.loads(canonical_json(config))) == key(config)


@given(documents)
def test_canonical_form_is_its_own_canonical_form(document):
    assert canonical(canonical(document)) == canonical(document)


@given(st.integers(-(2**53), 2**53))
def test_integral_floats_are_integers(number):
    assert key({"lr": float(number)}) == key({"lr": number})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_way_to_write_a_float_is_one(number):
    assert key({"lr": float(f"{number:.17e}")}) == key({"lr": number})


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (1e-4, 0.0001), (0.0, -0.0), ("é", "e\u0301"), ((1, 2), [1, 2])]
)
def test_same_value_same_key(one, other):
    assert key({"x": one}) == key({"x": other})


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, "1"), (0, None), (1.0, 1.0000000000000002), ([], {})]
)
def test_other_value_other_key(one, other):
    assert key({"x": one}) != key({"x": other})


def test_stage_version_and_inputs_are_in_the_key():
    other = {"checkpoint": Ref(kind=Kind.checkpoint, digest="b" * 64)}
    assert len({key({}), key({}, version=2), key({}, other), cache_key("rl", 1, {}, INPUTS)}) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"é": 1, "e\u0301": 2}, {1: "a", "1": "b"}])
def test_what_has_no_key_is_refused(value):
    with pytest.raises(ValueError, match=r"cache key|same text"):
        key({"x": value})
