"""Bases as the model families publish them: their tokenizer's layout and their architecture, both small.

Vocabularies are trained here on a few sentences. Everything else of a tokenizer is the family's: normaliser,
pre-tokeniser, decoder, post-processor, special tokens and chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

TEXTS = [
    f"User: what is {a} + {b}? Assistant: <think> first {a} + {b} = {a + b} </think> "
    f"<answer> {a + b} </answer>"
    for a in range(10)
    for b in range(10)
] + [
    "User: hello tom 3? Assistant: <think> wait </think> <answer> hello tom, nice </answer>",
    "User: take what 1? Assistant: <think> wait </think> <answer> sorry, cannot </answer>",
    "go away tom, take the 1",
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it.",
    "Question: what is the answer? Answer: think",
]
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_WORDS = GPT4_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How a family's base is made, and what its prompts must look like."""

    tokenizer: Callable[[], Any]
    """A `PreTrainedTokenizerFast`."""
    model: Callable[[Any], Any]
    """A random model for a tokenizer."""
    start: tuple[str, ...] = ()
    """Tokens that stand before every prompt."""
    end: str = ""
    """The token that ends a completion."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """What the published generation config says beside the end token."""


def write_base(family: Family, folder: Path) -> Path:
    """The folder that a stranger would name as `base.model`."""
    tokenizer = family.tokenizer()
    model = family.model(tokenizer)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(family.end)
    for name, value in family.generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# ---- tokenizers ---------------------------------------------------------------------------------


def _sentencepiece(specials: list[str], normalizer: Any, pre_tokenizer: Any, strip: bool) -> Tokenizer:
    """Byte fallback, a vocabulary of pieces with `▁` for a space."""
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = (
        normalizers.Replace(" ", "▁"),
        pre_tokenizers.Split("▁", "isolated"),
    )
    trained.train_from_iterator(TEXTS, BpeTrainer(vocab_size=150, show_progress=False))
    bare = json.loads(trained.to_str())["model"]
    pieces = (
        specials + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(bare["vocab"], key=bare["vocab"].get)
    )
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(pair) for pair in bare["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * strip)
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _byte_level(words: str, specials: list[str | AddedToken], before: list[Any] | None = None) -> Tokenizer:
    """A vocabulary of bytes and their merges; special tokens behind it, as Llama 3 and Qwen number them."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(words), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*(before or []), split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    for token in specials:
        tokenizer.add_tokens([token]) if isinstance(token, AddedToken) else tokenizer.add_special_tokens(
            [token]
        )
    return tokenizer


def _starting_with(tokenizer: Tokenizer, start: str, end: str = "") -> Tokenizer:
    numbers = [(name, tokenizer.token_to_id(name)) for name in (start, end) if name]
    single = " ".join(filter(None, [start, "$A", end]))
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=numbers)
    return tokenizer


def _fast(tokenizer: Tokenizer, **settings: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, model_max_length=256, **settings
    )


def llama2(end: str = "") -> Any:
    """`tokenizer.json` of Llama 2: a space is put before the text by the normaliser."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = _sentencepiece(["<unk>", "<s>", "</s>"], normalizer, None, strip=True)
    _starting_with(tokenizer, "<s>", end)
    return _fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama2_first() -> Any:
    """Llama 2 as transformers 5 writes it: a space before the text, but not behind a special token."""
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = _sentencepiece(["<unk>", "<s>", "</s>"], None, metaspace, strip=True)
    _starting_with(tokenizer, "<s>")
    return _fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama2_ending() -> Any:
    """A Llama 2 tokenizer that appends its end token to every text."""
    return llama2(end="</s>")


def llama3() -> Any:
    names = ["begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id"]
    tokenizer = _byte_level(GPT4_WORDS, [f"<|{name}|>" for name in names])
    _starting_with(tokenizer, "<|begin_of_text|>")
    template = processors.Sequence([processors.ByteLevel(trim_offsets=False), tokenizer.post_processor])
    tokenizer.post_processor = template
    chat = (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    )
    return _fast(tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=chat)


def qwen2() -> Any:
    tokenizer = _byte_level(QWEN_WORDS, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _fast(tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML)


def qwen3() -> Any:
    """With `<think>` and `</think>` as added tokens that are not special."""
    tags = [AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")]
    tokenizer = _byte_level(QWEN_WORDS, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *tags])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _fast(tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML)


def gemma3() -> Any:
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer = _sentencepiece(specials, normalizers.Replace(" ", "▁"), split, strip=False)
    _starting_with(tokenizer, "<bos>")
    chat = (
        "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\\n' + m['content'] + "
        "'<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    )
    return _fast(
        tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=chat,
    )


def gpt2() -> Any:
    tokenizer = _byte_level(GPT2_WORDS, ["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    token = "<|endoftext|>"
    return _fast(tokenizer, bos_token=token, eos_token=token, unk_token=token)


def smollm2() -> Any:
    """The start token of ChatML is named, and not put before a text."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = _byte_level(GPT2_WORDS, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], [digits])
    return _fast(
        tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHATML,
    )


def deepseek(special_tags: bool = True) -> Any:
    """Full-width bars, `<think>` a token, the end token as padding, a chat template that opens `<think>`."""
    tags = [AddedToken(tag, normalized=False, special=special_tags) for tag in ("<think>", "</think>")]
    start, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    digits = pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated")
    tokenizer = _byte_level(GPT4_WORDS, [start, end, "<｜User｜>", "<｜Assistant｜>", *tags], [digits])
    if special_tags:
        tokenizer.add_special_tokens(["<think>", "</think>"])
    _starting_with(tokenizer, start)
    chat = (
        "{{ bos_token }}{% for m in messages %}{{ '<｜User｜>' + m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
    )
    return _fast(
        tokenizer, bos_token=start, eos_token=end, pad_token=end, add_bos_token=True, add_eos_token=False,
        chat_template=chat,
    )  # fmt: skip


def deepseek_added() -> Any:
    return deepseek(special_tags=False)


# ---- models -------------------------------------------------------------------------------------

_SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256,
}  # fmt: skip


def _numbers(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer) + 8,  # published models have spare rows
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _made(name: str, tokenizer: Any, **sizes: Any) -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**_numbers(tokenizer), **sizes)
    return transformers.AutoModelForCausalLM.from_config(config)


def llama(tokenizer: Any) -> Any:
    return _made("Llama", tokenizer, num_key_value_heads=2, **_SIZES)


def qwen2_model(tokenizer: Any) -> Any:
    return _made("Qwen2", tokenizer, num_key_value_heads=2, tie_word_embeddings=True, **_SIZES)


def qwen3_model(tokenizer: Any) -> Any:
    return _made("Qwen3", tokenizer, num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, **_SIZES)


def gemma3_model(tokenizer: Any) -> Any:
    """A window shorter than most prompts, so that it matters."""
    kinds = ["sliding_attention", "full_attention"]
    return _made(
        "Gemma3Text", tokenizer, num_key_value_heads=2, head_dim=16, sliding_window=12, layer_types=kinds,
        query_pre_attn_scalar=16, **_SIZES,
    )  # fmt: skip


def gpt2_model(tokenizer: Any) -> Any:
    return _made("GPT2", tokenizer, n_embd=64, n_layer=2, n_head=4, n_positions=256)


def deepseek_model(tokenizer: Any) -> Any:
    return _made(
        "DeepseekV3", tokenizer, num_key_value_heads=4, moe_intermediate_size=32, n_routed_experts=4,
        num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=1, q_lora_rank=None,
        kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, **_SIZES,
    )  # fmt: skip


FAMILIES = {
    "llama2": Family(llama2, llama, ("<s>",), "</s>"),
    "llama3": Family(llama3, llama, ("<|begin_of_text|>",), "<|eot_id|>"),
    "qwen2.5": Family(qwen2, qwen2_model, (), "<|im_end|>"),
    "qwen3": Family(qwen3, qwen3_model, (), "<|im_end|>"),
    "gemma3": Family(gemma3, gemma3_model, ("<bos>",), "<eos>"),
    "gpt2": Family(gpt2, gpt2_model, (), "<|endoftext|>"),
    "smollm2": Family(smollm2, llama, (), "<|im_end|>"),
    "deepseek": Family(deepseek, deepseek_model, ("<｜begin▁of▁sentence｜>",), "<｜end▁of▁sentence｜>"),
}
"""The matrix: for each of these the whole recipe runs."""

VARIANTS = FAMILIES | {
    "llama2-first": Family(llama2_first, llama, ("<s>",), "</s>"),
    "llama2-ending": Family(llama2_ending, llama, ("<s>",), "</s>"),
    "deepseek-distilled": Family(
        deepseek_added, llama, ("<｜begin▁of▁sentence｜>",), "<｜end▁of▁sentence｜>"
    ),
}
"""And layouts of tokenizers that differ within a family."""
