"""Language models in a preset: names that a stranger's file must not get past, and what a key is called."""

import pytest
import yaml

from tasks.presets import CONFIGS, PresetError, load_preset, outside_files

SECRET = "sk-very-secret-0123456789"


def preset(tmp_path, section, setting, value):
    document = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    document[section][setting] = value
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(document))
    return str(tmp_path / "my.yaml")


def endpoint(url="http://127.0.0.1:8000/v1", **more):
    return {"name": "endpoint", "url": url, "model": "m"} | more


@pytest.mark.parametrize(
    ("section", "setting"),
    [("cold-start", "refiner"), ("mixture", "judge"), ("mixture", "writer"), ("reward-models", "judge")],
)
def test_a_host_elsewhere_must_be_allowed(tmp_path, monkeypatch, section, setting):
    path = preset(tmp_path, section, setting, endpoint("https://api.example.com/v1"))
    with pytest.raises(
        PresetError, match=rf"{section}\.{setting}\.url = .* set R1_ALLOW_SERVER=api\.example\.com"
    ):
        load_preset(path)
    monkeypatch.setenv("R1_ALLOW_SERVER", "api.example.com")
    load_preset(path)
    monkeypatch.delenv("R1_ALLOW_SERVER")
    load_preset(preset(tmp_path, section, setting, endpoint()))


def test_a_pasted_key_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(PresetError) as refused:
        load_preset(preset(tmp_path, "cold-start", "refiner", endpoint(key=SECRET)))
    assert "NAME of the environment variable" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_an_edited_file_of_examples_is_another_input(tmp_path):
    examples = tmp_path / "reviewed.jsonl"
    examples.write_text("{}")
    path = preset(tmp_path, "cold-start", "refiner", endpoint())
    config = load_preset(path, {"cold-start.examples": str(examples)}).cold_start
    before = outside_files(config)
    examples.write_text("{ }")
    assert before.keys() == outside_files(config).keys() == {"examples"}
    assert before != outside_files(config)


def test_how_fast_and_how_dear_a_model_is_does_not_decide_the_result(tmp_path):
    def key(**more):
        path = preset(tmp_path, "mixture", "judge", endpoint(**more))
        return load_preset(path).mixture.cache_document()

    assert key() == key(concurrency=3, requests_per_minute=9, attempts=2, timeout_seconds=5, price_prompt=1)
    assert key() != key(model="other")
    assert key() != key(sampling={"temperature": 1.0})


def test_a_rule_may_be_named_plainly(tmp_path):
    named = load_preset(preset(tmp_path, "cold-start", "refiner", {"name": "lexicon"})).cold_start
    assert named == load_preset("tiny").cold_start
