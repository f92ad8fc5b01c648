"""Loading and saving Hugging Face folders for training."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from tasks.rollout.decoding import ATTENTION
from tasks.tokenizer import Codec, listed
from tasks.training.recompute import recomputing
from tasks.training.settings import LoraSettings

disable_progress_bar()

LEAN = {
    "ban_recompute_used_far_apart": False,
    "ban_recompute_long_fusible_chains": False,
    "ban_recompute_materialized_backward": False,
}
"""Settings of torch's partitioner, which chooses what a compiled layer keeps for its backward pass: by itself
casts of all weights to bfloat16, norms and the product of the gate. With these they are computed again, but
no matrix product is. For two small layers that was a third and a half of the memory; packs can be longer."""


def load_policy(folder: Path, dtype: torch.dtype = torch.float32, spread: bool = False) -> PreTrainedModel:
    """The causal model in float32 master weights (autocast does bf16); dropout is off in training too.

    `spread` puts it on the first GPU, and what does not fit there on the next ones: to sample from it.
    """
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True,
        device_map="sequential" if spread else None,
    )  # fmt: skip


def compile_layers(model: PreTrainedModel, recompute: bool = False, keeps_attention: bool = False) -> None:
    """Have torch compile each layer: norms, rotary embeddings and gates then pass over memory fewer times.

    Only the layer's own `forward` is compiled, so what FSDP2 puts around a layer stays outside. With
    `recompute` it recomputes its activations in the backward pass; nothing else may do that then. Packs
    differ in length, hence dynamic shapes. The first update takes half a minute more, on a slow processor
    two minutes.
    """
    # A layer's own numbers (attention's scale, epsilon) are constants: as symbols they have it traced twice.
    torch._dynamo.config.specialize_float = True
    for name, value in LEAN.items():
        setattr(torch._functorch.config, name, value)
    for layer in model.get_decoder().layers:
        forward = recomputing(layer.forward, keeps_attention) if recompute else layer.forward
        layer.forward = torch.compile(forward, dynamic=True)


def with_adapters(model: PreTrainedModel, lora: LoraSettings, seed: int) -> PeftModel:
    """The model with fresh adapters on every linear layer; only they are trained."""
    torch.manual_seed(seed)
    return get_peft_model(model, adapters(lora))


def adapters(lora: LoraSettings) -> LoraConfig:
    """The settings as PEFT's."""
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path,
    template: str | None = None, weights: dict[str, torch.Tensor] | None = None,
) -> None:  # fmt: skip
    """Write a folder that `from_pretrained`, vLLM and `generate` can use: safetensors, tokenizer, configs.

    `chat_template.jinja` renders a question as the prompt `template` that the model was trained on; None
    leaves the tokenizer's own. `weights` stand for the model's own, where it holds only a part of them.
    """
    if model.can_generate():
        ends = model.generation_config.eos_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id if ends is None else ends
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    if template is not None:
        tokenizer.chat_template = Codec(tokenizer).chat_template(template)
    model.config.use_cache = True  # training with recomputed activations turns it off
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)


def halve_linear_layers(model: torch.nn.Module) -> None:
    """Linear layers in bfloat16, to which autocast would round their weights at every pass: the same values
    with half the memory. An output layer that shares its weight with the embedding stays as it is."""
    shared = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and id(module.weight) not in shared:
            module.to(torch.bfloat16)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a completion: the tokenizer's and those the model's generation config names."""
    named = listed(model.generation_config.eos_token_id)
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *named]))
