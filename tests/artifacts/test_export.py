import json

import jinja2
import pytest

from artifacts.errors import StoreError
from artifacts.export import QUESTION, chat_template, export_model
from artifacts.refs import Kind
from artifacts.tables import write_table
from flows.cli.store import trained_template
from tasks.rendering import render_prompt
from tests.artifacts.builders import manifest_for, publish

SCORE = {
    "domain": "math", "metric": "pass_at_1", "value": 0.625, "low": 0.5, "high": 0.75, "questions": 40,
    "samples_per_question": 8,
}  # fmt: skip


def publish_model(store, tmp_path, node="dev1", parents=None, **more):
    draft = tmp_path / "drafts" / node
    (draft / "model").mkdir(parents=True)
    (draft / "model" / "config.json").write_text('{"eos_token_id": 7, "bos_token_id": null}')
    (draft / "model" / "generation_config.json").write_text('{"pad_token_id": 3, "temperature": 1.0}')
    (draft / "model" / "tokenizer_config.json").write_text('{"eos_token": "<e>", "chat_template": "old"}')
    (draft / "model" / "model.safetensors").write_bytes(b"weights")
    return store.publish(draft, manifest_for(node, parents, **more))


def render(template, messages):
    return jinja2.Environment().from_string(template).render(messages=messages, eos_token="<e>")


@pytest.mark.parametrize("template", ["r1", "plain"])
def test_the_chat_template_writes_what_training_wrote(template):
    jinja = chat_template(render_prompt(template, QUESTION))
    question = 'What is {1} + "2"?\nIt\'s {{ not }} a trap.'
    asked = [{"role": "user", "content": question}]
    assert render(jinja, asked) == render_prompt(template, question)
    again = [
        *asked,
        {"role": "assistant", "content": " <answer>3</answer>"},
        {"role": "user", "content": "Why?"},
    ]
    assert render(jinja, again) == (
        render_prompt(template, question) + " <answer>3</answer><e>" + render_prompt(template, "Why?")
    )
    system = [{"role": "system", "content": "Be brief."}, *asked]
    assert render(jinja, system) == render_prompt(template, f"Be brief.\n\n{question}")


def test_a_template_needs_one_place_for_the_question():
    with pytest.raises(StoreError, match="must hold"):
        chat_template("User: Assistant:")


def test_the_exported_folder_is_complete(store, tmp_path):
    base = publish(store, tmp_path, "base")
    ref = publish_model(store, tmp_path, parents={"checkpoint": base}, config={"learning_rate": 5e-5})
    draft = tmp_path / "evaluation"
    write_table(draft / "scores.parquet", [SCORE], "scores")
    store.publish(draft, manifest_for("evaluation", {"checkpoint": ref}, Kind.evaluation))
    out = export_model(store, ref, tmp_path / "out", "User: {question} Assistant:")
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert (out / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((out / "generation_config.json").read_text()) == {
        "eos_token_id": 7, "pad_token_id": 3, "do_sample": True, "temperature": 0.6, "top_p": 0.95,
    }  # fmt: skip
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"eos_token": "<e>"}
    card = (out / "README.md").read_text()
    for part in (
        "| math | pass_at_1 | 0.625 | 0.500 to 0.750 | 40 | 8 |",
        f"└─ checkpoint: base (checkpoint, {base.short})",
        ref.digest,
        '"learning_rate": 5e-05',
    ):
        assert part in card


def test_the_card_says_when_there_are_no_scores(store, tmp_path):
    out = export_model(store, publish_model(store, tmp_path), tmp_path / "out", QUESTION)
    assert "No evaluation of this checkpoint is in the store." in (out / "README.md").read_text()


def test_what_cannot_be_exported_is_refused(store, tmp_path):
    ref = publish_model(store, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(StoreError, match="is not empty"):
        export_model(store, ref, tmp_path / "full", QUESTION)
    with pytest.raises(StoreError, match=r"holds no model/config\.json"):
        export_model(store, publish(store, tmp_path, "base"), tmp_path / "out", QUESTION)
    with pytest.raises(StoreError, match="only a checkpoint"):
        export_model(store, publish(store, tmp_path, "p", kind=Kind.problems), tmp_path / "out", QUESTION)
    assert not (tmp_path / "out").exists()


def test_the_template_is_the_one_of_the_nearest_stage_that_names_one(store, tmp_path):
    base = publish(store, tmp_path, "base")
    zero = publish(store, tmp_path, "zero", {"checkpoint": base}, config={"template": "plain"})
    dev1 = publish(store, tmp_path, "dev1", {"checkpoint": base, "dataset": zero})
    assert trained_template(store, store.manifest(dev1.digest)) == "plain"
    assert trained_template(store, store.manifest(base.digest)) == "r1"
    publish(store, tmp_path, "e", {"checkpoint": base}, Kind.evaluation, config={"template": "plain"})
    assert trained_template(store, store.manifest(base.digest)) == "plain"


@pytest.mark.slow
def test_the_exported_model_loads_and_answers(store, tmp_path, tiny_model):
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    draft = tmp_path / "draft"
    shutil.copytree(tiny_model, draft / "model")
    ref = store.publish(draft, manifest_for("dev1"))
    out = export_model(store, ref, tmp_path / "out", render_prompt("plain", QUESTION))
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    chat = [{"role": "user", "content": "what is 1 + 2"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == render_prompt("plain", "what is 1 + 2")
    inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    assert model.generation_config.temperature == 0.6
    assert model.generate(**inputs, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]
