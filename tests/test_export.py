import json

import pytest

from artifacts.errors import StoreError
from artifacts.manifest import load_manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import write_table
from tasks.export import evaluations_of, export_model
from tasks.kinds import Kind
from tasks.rendering import chat_template, render_prompt
from tasks.tables import SCORES, TABLES
from tests.artifacts.builders import manifest_for, publish, publish_recipe

SCORE = {
    "domain": "math", "metric": "pass_at_1", "value": 0.625, "low": 0.5, "high": 0.75, "questions": 40,
    "samples_per_question": 8,
}  # fmt: skip


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "store"))


def publish_model(store, tmp_path, node="dev1", parents=None, without="", **more):
    draft = tmp_path / "drafts" / node
    (draft / "model").mkdir(parents=True)
    (draft / "model" / "config.json").write_text('{"eos_token_id": 7, "bos_token_id": null}')
    (draft / "model" / "generation_config.json").write_text('{"pad_token_id": 3, "temperature": 1.0}')
    (draft / "model" / "tokenizer_config.json").write_text('{"eos_token": "<e>"}')
    (draft / "model" / "chat_template.jinja").write_text(chat_template("plain"))
    (draft / "model" / "model.safetensors").write_bytes(b"weights")
    if without:
        (draft / "model" / without).unlink()
    return store.publish(draft, manifest_for(node, parents, **more), TABLES)


def test_the_exported_folder_is_complete(store, tmp_path):
    base = publish(store, tmp_path, "base")
    ref = publish_model(store, tmp_path, parents={"checkpoint": base}, config={"learning_rate": 5e-5})
    draft = tmp_path / "evaluation"
    write_table(draft / "scores.parquet", [SCORE], SCORES)
    store.publish(draft, manifest_for("evaluation", {"checkpoint": ref}, Kind.evaluation), TABLES)
    out = export_model(store, ref, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert (out / "model.safetensors").read_bytes() == b"weights"
    assert json.loads((out / "generation_config.json").read_text()) == {
        "eos_token_id": 7, "pad_token_id": 3, "do_sample": True, "temperature": 0.6, "top_p": 0.95,
    }  # fmt: skip
    assert (out / "chat_template.jinja").read_text() == chat_template("plain")
    card = (out / "README.md").read_text()
    for part in (
        "| math | pass_at_1 | 0.625 | 0.500 to 0.750 | 40 | 8 |",
        f"└─ checkpoint: base (checkpoint, {base.short})",
        ref.digest,
        '"learning_rate": 5e-05',
    ):
        assert part in card


def test_the_card_says_when_there_are_no_scores(store, tmp_path):
    out = export_model(store, publish_model(store, tmp_path), tmp_path / "out")
    assert "No evaluation of this checkpoint is in the store." in (out / "README.md").read_text()


def test_what_cannot_be_exported_is_refused(store, tmp_path):
    ref = publish_model(store, tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(StoreError, match="is not empty"):
        export_model(store, ref, tmp_path / "full")
    with pytest.raises(StoreError, match=r"holds no model/config\.json"):
        export_model(store, publish(store, tmp_path, "base"), tmp_path / "out")
    old = publish_model(store, tmp_path, "old", without="chat_template.jinja")
    with pytest.raises(StoreError, match=r"holds no model/chat_template\.jinja"):
        export_model(store, old, tmp_path / "out")
    with pytest.raises(StoreError, match="only a checkpoint"):
        export_model(store, publish(store, tmp_path, "p", kind=Kind.problems), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluations_are_found_by_their_checkpoint(store, tmp_path):
    refs = publish_recipe(store, tmp_path)
    evaluation = publish(store, tmp_path, "evaluation", {"checkpoint": refs["dev1"]}, kind=Kind.evaluation)
    assert [m.ref for m in evaluations_of(store, refs["dev1"])] == [evaluation]
    assert evaluations_of(store, Ref(kind=Kind.checkpoint, digest="0" * 64)) == []
    assert load_manifest(store.fetch(evaluation)).parents == {"checkpoint": refs["dev1"]}


@pytest.mark.slow
def test_the_exported_model_loads_and_answers(store, tmp_path, tiny_model):
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    draft = tmp_path / "draft"
    shutil.copytree(tiny_model, draft / "model")
    (draft / "model" / "chat_template.jinja").write_text(chat_template("plain"))
    ref = store.publish(draft, manifest_for("dev1"), TABLES)
    out = export_model(store, ref, tmp_path / "out")
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    chat = [{"role": "user", "content": "what is 1 + 2"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == render_prompt("plain", "what is 1 + 2")
    inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
    assert model.generation_config.temperature == 0.6
    assert model.generate(**inputs, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]
