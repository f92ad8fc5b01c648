"""The folder that a model server gets: template, sampling, and tags that stay in the text."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from tasks.rendering import TAGS, chat_template
from tasks.serving.folder import served_folder
from tasks.tokenizer import Codec

TURN = [{"role": "user", "content": "what is 2 + 3?"}]
THINKS = "{% for m in messages %}{{ m['content'] }}{% endfor %}\n<think>\n"


@pytest.fixture
def source(tiny_model, tmp_path):
    """A copy of the random model, to be changed."""
    return shutil.copytree(tiny_model, tmp_path / "source")


@pytest.mark.parametrize(
    ("own", "asked", "prompt"),
    [
        ("", "plain", "User: what is 2 + 3? Assistant:"),
        (chat_template("plain"), "", "User: what is 2 + 3? Assistant:"),
        ("{{ messages[0]['content'] }}!", "", "what is 2 + 3?!"),
        ("{{ messages[0]['content'] }}!", "chat", "what is 2 + 3?!"),
        ("{{ messages[0]['content'] }}!", "Q {question} A", "Q what is 2 + 3? A"),
    ],
)
def test_the_template_is_the_models_own_or_what_was_asked_for(source, tmp_path, own, asked, prompt):
    if own:
        (source / "chat_template.jinja").write_text(own)
    served = served_folder(source, tmp_path / "out", "tiny", asked)
    tokenizer = AutoTokenizer.from_pretrained(served.folder)
    assert tokenizer.apply_chat_template(TURN, tokenize=False, add_generation_prompt=True) == prompt
    assert not served.opens_thinking


def test_a_model_without_a_template_gets_the_published_one(source, tmp_path):
    served = served_folder(source, tmp_path / "out", "tiny")
    assert (Path(served.folder) / "chat_template.jinja").read_text() == chat_template("r1")
    with pytest.raises(ValueError, match="template chat: tiny has no chat template of its own"):
        served_folder(source, tmp_path / "other", "tiny", "chat")


def test_a_template_that_opens_the_thinking_is_noticed(source, tmp_path):
    (source / "chat_template.jinja").write_text(THINKS)
    assert served_folder(source, tmp_path / "out", "tiny").opens_thinking


@pytest.mark.parametrize("limited", [True, False])
def test_sampling_is_the_published_one_and_the_weights_are_not_copied(source, tmp_path, limited):
    served = served_folder(source, tmp_path / "out", "tiny", default_limit=limited)
    settings = GenerationConfig.from_pretrained(served.folder)
    assert (settings.temperature, settings.top_p, settings.top_k, settings.do_sample) == (0.6, 0.95, 0, True)
    assert settings.max_new_tokens == (512 if limited else None)
    assert (Path(served.folder) / "model.safetensors").is_symlink()
    assert "temperature" not in (source / "generation_config.json").read_text()


def test_tags_that_are_special_tokens_stay_in_what_a_server_decodes(source, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_special_tokens({"additional_special_tokens": list(TAGS)})
    tokenizer.save_pretrained(source)
    text = "<think>2</think><answer>3</answer>"
    before = AutoTokenizer.from_pretrained(source)
    assert before.decode(before(text).input_ids, skip_special_tokens=True) == "23"
    served = served_folder(source, tmp_path / "out", "tiny")
    after = AutoTokenizer.from_pretrained(served.folder)
    assert after.decode(after(text).input_ids, skip_special_tokens=True) == text
    assert after(text).input_ids == before(text).input_ids
    assert after.decode(after("2<|end|>").input_ids, skip_special_tokens=True) == "2"
    assert served.tags_are_tokens


def test_what_looks_like_a_special_token_in_a_message_is_text(source, tmp_path):
    served = served_folder(source, tmp_path / "out", "tiny")
    codec = Codec.of(source)
    assert served.plain("a <|end|> <think> b") == "a < |end|> <think> b"
    assert codec.prompt("plain", "a <|end|>") == f"User: {served.plain('a <|end|>')} Assistant:"
    assert json.loads((Path(served.folder) / "config.json").read_text())["vocab_size"]
