"""Loading and saving Hugging Face folders for training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from tasks.rendering import Template, chat_template
from tasks.rollout.decoding import ATTENTION, decode
from tasks.rollout.settings import Sampling

CHECKPOINTING_FROM = 1_000_000_000
"""Models of this many parameters recompute activations in the backward pass."""

disable_progress_bar()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, padding on the left; `tokenizer.json` decides where there is one.

    Raises:
        ValueError: it has no end-of-sequence token.
    """
    loader = PreTrainedTokenizerFast if (folder / "tokenizer.json").exists() else AutoTokenizer
    tokenizer = loader.from_pretrained(folder, padding_side="left")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer in {folder} has no eos_token: set one in tokenizer_config.json")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(folder: Path) -> PreTrainedModel:
    """The causal model in float32 master weights (autocast does bf16); dropout is off in training too."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=ATTENTION, local_files_only=True
    )


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path,
    template: Template | None = None, weights: dict[str, torch.Tensor] | None = None,
) -> None:  # fmt: skip
    """Write a folder that `from_pretrained`, vLLM and `generate` can use: safetensors, tokenizer, configs.

    `chat_template.jinja` is made from the prompt `template` that the model was trained on; None leaves the
    tokenizer's own. `weights` stand for the model's own, where it holds only a part of them.
    """
    if model.can_generate():
        ends = model.generation_config.eos_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id if ends is None else ends
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if template is not None:
        tokenizer.chat_template = chat_template(template)
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a completion: the tokenizer's and those the model's generation config names."""
    named = model.generation_config.eos_token_id
    listed = [named] if isinstance(named, int) else list(named or [])
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *listed]))


def ends_by_itself(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[list[int]], longest: int
) -> float:
    """Share of sampled completions that end in an end token within twice the `longest` one seen (tokens)."""
    ends = frozenset(end_token_ids(model, tokenizer))
    training, sampling = model.training, Sampling(temperature=0.6, top_p=0.95, max_new_tokens=2 * longest)
    written = decode(model.eval(), prompts, sampling, range(len(prompts)), ends, len(prompts))
    model.train(training)
    return sum(row[-1] in ends for row in written) / len(written)
