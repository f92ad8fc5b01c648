"""Tokenisation of each family, from the base's folder to what every stage reads and writes."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tasks.base.load import run
from tasks.base.stage import BaseConfig
from tasks.rendering import parse_completion, render_prompt
from tasks.tokenizer import Codec
from tests.families.bases import FAMILIES, VARIANTS, write_base
from tests.jobs import local_job

ANSWER = " <think> first 3 + 4 = 7 </think> <answer> 7 </answer>"
QUESTION = "what is 3 + 4?"
STARTS = ["", " ", "  ", "\n", "\n\n", "<", "</", "1", "é", "你好", "x"]
texts = st.builds(
    lambda start, body, end: start + body + end,
    st.sampled_from(STARTS),
    st.text(st.sampled_from("ab 1+<>/\n.?é你thinkanswer"), max_size=30),
    st.sampled_from(["", ANSWER, " ", "\n"]),
)  # fmt: skip


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Each variant's folder, as its makers would publish it."""
    return {name: write_base(v, tmp_path_factory.mktemp(f"base-{name}")) for name, v in VARIANTS.items()}


@pytest.fixture(scope="session")
def imported(published, tmp_path_factory):
    """The model folder that the base stage makes of it."""
    folders = {}
    for name, folder in published.items():
        job = local_job(tmp_path_factory.mktemp(name), "base", "base", {})
        run(BaseConfig(model=str(folder)), job)
        folders[name] = job.draft / "model"
    return folders


@pytest.fixture(scope="session")
def codecs(imported):
    return {name: Codec.of(folder) for name, folder in imported.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_prompt_begins_once_and_does_not_end(name, codecs, published):
    family, codec = VARIANTS[name], codecs[name]
    (ids,) = codec.tokens([render_prompt("plain", QUESTION)])
    tokens = codec.tokenizer.convert_ids_to_tokens(ids)
    assert tuple(tokens[: len(family.start)]) == family.start
    assert codec.special_inside(ids[len(family.start) :]) == []
    # What its makers' tokenizer reads, without the end token that one of them appends.
    theirs = AutoTokenizer.from_pretrained(published[name])(render_prompt("plain", QUESTION)).input_ids
    if name == "llama2-ending":
        assert theirs.pop() == codec.tokenizer.eos_token_id
    assert ids == theirs


@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_reads_a_prompt_as_the_stages_do(name, imported, codecs):
    """By the tokenizer, and by the chat template that a later stage saves."""
    codec, tokenizer = codecs[name], AutoTokenizer.from_pretrained(imported[name])
    for template in ("plain", "r1", "Question: {question}\nAnswer: 你 🙂"):
        (ids,) = codec.tokens([codec.prompt(template, QUESTION)])
        assert tokenizer(render_prompt(template, QUESTION)).input_ids == ids
        tokenizer.chat_template = codec.chat_template(template)
        asked = [{"role": "user", "content": QUESTION}]
        assert tokenizer.apply_chat_template(asked).input_ids == ids


@pytest.mark.parametrize("name", VARIANTS)
def test_a_completion_is_text_behind_a_prompt_and_then_the_end(name, codecs):
    family, codec = VARIANTS[name], codecs[name]
    (ids,) = codec.completions([ANSWER])
    assert codec.tokenizer.convert_ids_to_tokens(ids)[-1] == family.end
    assert codec.special_inside(ids) == []
    assert codec.texts([ids]) == [ANSWER]
    assert parse_completion(codec.texts([ids])[0]).well_formed
    # The text is cut where words begin, so reading it in one piece gives the same tokens.
    prompt = codec.prompt("plain", QUESTION)
    assert codec.tokens([prompt])[0] + ids[:-1] == codec.tokens([prompt + ANSWER])[0]


@pytest.mark.parametrize("name", VARIANTS)
def test_text_comes_back(name, codecs):
    codec = codecs[name]

    @settings(max_examples=60, deadline=None)
    @given(texts)
    def comes_back(text):
        (ids,) = codec.completions([text])
        assert codec.texts([ids]) == [text]
        assert codec.completions(codec.texts([ids])) == [ids]

    comes_back()


@pytest.mark.parametrize("name", VARIANTS)
def test_only_text_is_decoded(name, codecs):
    """Start and padding tokens at the edges are no text; the tags are, whatever kind of token they are."""
    codec = codecs[name]
    (ids,) = codec.completions([ANSWER])
    silent = {codec.tokenizer.bos_token_id, codec.tokenizer.pad_token_id} - {None}
    for edge in silent:
        assert codec.texts([[edge, *ids]]) == codec.texts([[*ids, edge]]) == [ANSWER]
    for tag in ("<think>", "</think>"):
        assert codec.texts([ids])[0].count(tag) == 1


@pytest.mark.parametrize("name", VARIANTS)
def test_names_of_special_tokens_are_text(name, codecs):
    """In a question, where `<s>` may be HTML, and in a completion."""
    codec, family = codecs[name], VARIANTS[name]
    for special in {*family.start, family.end}:
        (prompt,) = codec.tokens([codec.prompt("plain", f"what does {special} mean?")])
        assert codec.special_inside(prompt[len(family.start) :]) == []
        (ids,) = codec.completions([f" <think> {special} </think> <answer> 1 </answer>"])
        assert codec.special_inside(ids) == []
        assert codec.texts([ids]) == [f" <think> {special} </think> <answer> 1 </answer>"]
        number = codec.tokenizer.convert_tokens_to_ids(special)
        assert codec.special_inside([ids[0], number, *ids[1:]]) == [special]


def test_chat_renders_as_the_models_own_template(imported, codecs):
    asked = [{"role": "user", "content": QUESTION}]
    for name in ("llama3", "qwen2.5", "qwen3", "gemma3", "smollm2"):
        tokenizer = AutoTokenizer.from_pretrained(imported[name])
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True).input_ids
        assert codecs[name].tokens([codecs[name].prompt("chat", QUESTION)]) == [ids]


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpt2", "has no chat template of its own"), ("deepseek", "writes <think> in the model's place")],
)
def test_a_chat_template_that_cannot_be_used_is_one_sentence(name, message, codecs):
    with pytest.raises(ValueError, match=message) as caught:
        codecs[name].prompt("chat", QUESTION)
    assert "\n" not in str(caught.value)


def test_a_chat_template_without_the_start_token_gets_it(published, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(published["llama3"], folder)
    jinja = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(jinja.replace("{{ bos_token }}", ""))
    job = local_job(tmp_path, "base", "base", {})
    run(BaseConfig(model=str(folder)), job)
    codec = Codec.of(job.draft / "model")
    (ids,) = codec.tokens([codec.prompt("chat", QUESTION)])
    asked = [{"role": "user", "content": QUESTION}]
    tokenizer = AutoTokenizer.from_pretrained(job.draft / "model")
    assert tokenizer.apply_chat_template(asked, add_generation_prompt=True).input_ids == ids
    assert codec.tokenizer.convert_ids_to_tokens(ids).count("<|begin_of_text|>") == 1


def test_the_end_token_is_one_at_which_generation_ends(published, tmp_path):
    """Instruct models name another one in their generation settings than their tokenizer does."""
    folder = tmp_path / "base"
    shutil.copytree(published["llama3"], folder)
    codec = Codec.of(folder)
    other = codec.tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    document = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(document | {"eos_token_id": [other]}))
    job = local_job(tmp_path, "base", "base", {})
    run(BaseConfig(model=str(folder)), job)
    codec = Codec.of(job.draft / "model")
    assert codec.completions([ANSWER])[0][-1] == other
    assert codec.end_tokens == {other}


def test_a_byte_level_tokenizer_in_a_llama_folder_is_not_read_as_sentencepiece(published, tmp_path):
    """DeepSeek's distilled models name `LlamaTokenizerFast`; transformers 5 makes another tokenizer of it."""
    folder = tmp_path / "base"
    shutil.copytree(published["deepseek-distilled"], folder)
    settings_file = folder / "tokenizer_config.json"
    settings_file.write_text(
        json.dumps(json.loads(settings_file.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"})
    )
    job = local_job(tmp_path, "base", "base", {})
    run(BaseConfig(model=str(folder)), job)
    codec, as_published = Codec.of(job.draft / "model"), Codec.of(published["deepseek-distilled"])
    prompt = render_prompt("r1", "x² = 4, 所以?")
    assert codec.tokens([prompt]) == as_published.tokens([prompt])
    assert AutoTokenizer.from_pretrained(job.draft / "model")(prompt).input_ids == codec.tokens([prompt])[0]


def test_the_families_are_all_here():
    assert set(FAMILIES) <= set(VARIANTS)
