"""Fixtures: a small random model with a real tokenizer; no Prefect server and no hub in sight."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.trained"]

# How fast a machine draws inputs is not what is tested: in a fresh checkout the first text takes seconds.
settings.register_profile("r1", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("r1")

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", GOMP_SPINCOUNT="3000")
for name in [n for n in os.environ if n.startswith("PREFECT_")]:
    del os.environ[name]

WORDS = """
User Assistant <think> </think> <answer> </answer> what is compute the answer so result first then
wait check ok
hello tom nice sorry cannot ask take thanks go away who tallest 你好 计算 等于多少 所以结果是
0 1 2 3 4 5 6 7 8 9 + - * / = ( ) , . ? : A B C D x f def return
"""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with a random 2-layer Llama (hidden size 64) and its word-level fast tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_model(tokenizer).save_pretrained(folder)
    return folder


def build_tokenizer():
    """Words, digits one by one, single signs; a token carries the space before it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|unknown|>"]
    words = special + list(dict.fromkeys(space + w for w in WORDS.split() for space in ("", " ")))
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=special[2]))
    pattern = Regex(r" ?</?(?:think|answer)>| ?[A-Za-z]+| ?[0-9]| ?\p{Han}+| ?[^\sA-Za-z0-9]|\s")
    backend.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=special[0], eos_token=special[1], unk_token=special[2],
        clean_up_tokenization_spaces=False, padding_side="left", model_max_length=512,
    )  # fmt: skip


def build_model(tokenizer, layers: int = 2, hidden: int = 64, intermediate: int = 128, heads: int = 4):
    """A random Llama with the tokenizer's vocabulary and special tokens.

    Not Qwen2: transformers' AutoTokenizer reads every folder of model type qwen2 with Qwen2's own
    byte-pair pattern, whatever its tokenizer files say.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads, attention_bias=True,
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def one_thread(monkeypatch):
    """A job of one thread on a machine with two processors (`tasks.processors`)."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
