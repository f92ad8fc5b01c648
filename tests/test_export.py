import json
import re
import shutil

import pytest
import yaml

from artifacts.errors import StoreError
from artifacts.manifest import load_manifest
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import write_table
from tasks.base.licence import licence_of_card
from tasks.export import evaluations_of, export_model
from tasks.kinds import Kind
from tasks.rendering import chat_template, render_prompt
from tasks.tables import SCORES, TABLES
from tests.artifacts.builders import manifest_for, publish, publish_recipe

SCORE = {
    "by": "domain", "group": "math", "metric": "pass_at_1", "value": 0.625, "low": 0.5, "high": 0.75,
    "questions": 40, "samples_per_question": 8,
}  # fmt: skip


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "store"))


def publish_model(store, tmp_path, node="dev1", parents=None, without="", template=None, **more):
    draft = tmp_path / "drafts" / node
    (draft / "model").mkdir(parents=True)
    (draft / "model" / "config.json").write_text('{"eos_token_id": 7, "bos_token_id": null}')
    (draft / "model" / "generation_config.json").write_text('{"pad_token_id": 3, "temperature": 1.0}')
    (draft / "model" / "tokenizer_config.json").write_text('{"eos_token": "<e>"}')
    (draft / "model" / "chat_template.jinja").write_text(template or chat_template("plain"))
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


def publish_base(store, tmp_path, **summary):
    summary = {"model": "owner/base-1b", "parameters": 1_234_567_890, "revision": "c" * 40} | summary
    draft = manifest_for("base", config={"model": "owner/base-1b", "revision": "main"}, summary=summary)
    return publish_drafted(store, tmp_path, "base", draft.model_copy(update={"stage": "base"}))


def publish_drafted(store, tmp_path, node, manifest, **tables):
    draft = tmp_path / "drafts" / node
    draft.mkdir(parents=True)
    (draft / "note.txt").write_text(node)
    for name, rows in tables.items():
        write_table(draft / f"{name}.parquet", rows, TABLES[name])
    return store.publish(draft, manifest, TABLES)


def problem_rows(*sources):
    for number, (source, licence, split) in enumerate(sources):
        yield {
            "id": f"p{number}", "domain": "math", "language": "en", "prompt": "1 + 1", "answer": "2",
            "verifier": "exact", "verifier_args": "{}", "source": source, "licence": licence, "split": split,
            "metadata": "{}",
        }  # fmt: skip


def card_of(store, ref, out):
    return (export_model(store, ref, out) / "README.md").read_text()


def test_the_card_says_what_a_user_needs(store, tmp_path):
    base = publish_base(store, tmp_path, licence="apache-2.0")
    rows = problem_rows(
        ("olympiad", "cc-by-4.0", "train"), ("olympiad", "cc-by-4.0", "train"), ("web", "", "train"),
        ("olympiad", "cc-by-4.0", "held_out"),
    )  # fmt: skip
    problems = publish_drafted(
        store, tmp_path, "problems", manifest_for("problems", kind=Kind.problems), problems=list(rows)
    )
    zero = publish(
        store, tmp_path, "zero", {"checkpoint": base, "problems": problems}, config={"template": "plain"}
    )
    cold = publish(store, tmp_path, "cold", {"checkpoint": zero}, Kind.dataset, config={"template": "r1"})
    ref = publish_model(store, tmp_path, parents={"checkpoint": base, "dataset": cold})
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 1234}
    evaluation = manifest_for(
        "evaluation", {"checkpoint": ref}, Kind.evaluation, config={"sampling": sampling}
    )
    publish_drafted(store, tmp_path, "evaluation", evaluation, scores=[SCORE])
    card = card_of(store, ref, tmp_path / "out")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == "owner/base-1b"
    for part in (
        f"- base: owner/base-1b, revision `{'c' * 40}`",
        "- licence of the base: apache-2.0",
        "- parameters: 1,234,567,890",
        "prompt template of training: `r1`",  # of the nearest ancestor that has one
        chat_template("plain"),
        "do_sample True, temperature 0.6, top_p 0.95",
        "sampling: max_new_tokens 1234, temperature 0.6, top_p 0.95.",
        "| olympiad | cc-by-4.0 | 2 |\n| web | not recorded | 1 |",
        "max_new_tokens=1234",
        "sampling.max_tokens = 1234",
    ):
        assert part in card


def test_the_card_invents_nothing(store, tmp_path):
    ref = publish_model(store, tmp_path, parents={"checkpoint": publish_base(store, tmp_path)})
    card = card_of(store, ref, tmp_path / "out")
    assert "- licence of the base: not recorded" in card
    assert "prompt template of training: not recorded" in card
    assert "No problems in the lineage" in card
    alone = card_of(store, publish_model(store, tmp_path, "other"), tmp_path / "alone")
    assert "- base: not recorded" in alone
    assert "base_model" not in alone
    assert "parameters" not in alone


def test_a_folder_is_no_name_of_the_hub_in_the_card(store, tmp_path):
    manifest = manifest_for("base", config={"model": "my/folder"}, summary={"model": "my/folder"})
    base = publish_drafted(store, tmp_path, "base", manifest.model_copy(update={"stage": "base"}))
    card = card_of(store, publish_model(store, tmp_path, parents={"checkpoint": base}), tmp_path / "out")
    assert "- base: my/folder\n" in card
    assert "base_model" not in card


@pytest.mark.parametrize("text", ["a | b\n# head", "<script>alert(1)</script>", "[l](javascript:x)"])
def test_what_strangers_write_stays_text_in_the_card(store, tmp_path, text):
    base = publish_base(store, tmp_path, model=text, licence=text, revision=text)
    rows = list(problem_rows((text, text, "train")))
    problems = publish_drafted(
        store, tmp_path, "problems", manifest_for("problems", kind=Kind.problems), problems=rows
    )
    ref = publish_model(store, tmp_path, parents={"checkpoint": base, "problems": problems})
    card = card_of(store, ref, tmp_path / "out")
    words = card.split("\n---\n", 1)[1].partition("## Settings")[0]
    assert "<script>" not in words
    assert "](" not in words
    assert "\n# head" not in words
    assert yaml.safe_load(card.split("---\n")[1])["base_model"].strip()


def test_a_chat_template_cannot_leave_its_block(store, tmp_path):
    ref = publish_model(store, tmp_path, template="```\n# heading\n" + "x" * 5_000)
    card = card_of(store, ref, tmp_path / "out")
    assert "\n````jinja\n```\n# heading\n" in card
    assert "\n````\n… and 1,014 more characters" in card


def test_the_snippets_of_the_card_are_python(store, tmp_path):
    card = card_of(store, publish_model(store, tmp_path), tmp_path / "out")
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert ["transformers" in s for s in snippets] == [True, False]
    for snippet in snippets:
        compile(snippet, "card", "exec")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: deepseek\n---\n", "deepseek"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\ntags: [a]\n---\nlicense: mit", ""),
        ("license: mit", ""),
        ("---\nlicense: [\n---\n", ""),
        ("---\nlicense: 3\n---\n", ""),
        ("---\n- mit\n---\n", ""),
        ("", ""),
    ],
)
def test_the_licence_of_a_base_is_what_its_card_names(tmp_path, card, licence):
    (tmp_path / "README.md").write_text(card)
    assert licence_of_card(tmp_path / "README.md") == licence
    assert licence_of_card(tmp_path / "none.md") == ""


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
    snippet = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)[1]
    exec(snippet.replace("FOLDER", str(out)).replace("max_new_tokens=256", "max_new_tokens=4"), {})
