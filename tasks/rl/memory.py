"""Whether the worst step fits: an estimate before anything runs, and on a GPU the step itself.

Counted for training in float32 master weights with AdamW: weights, gradients, two moments, the reference;
the logits and activations of one micro-batch at the longest prompt and completion (`tasks.training.memory`);
keys and values of the completions sampled at once.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from tasks.rl import packing
from tasks.rl.packing import Rows
from tasks.rl.stage import RLConfig
from tasks.training.attention import use_flash_attention
from tasks.training.memory import HEAD_TOKENS, ModelShape, Precision, activation_bytes
from tasks.training.models import compile_layers
from tasks.training.settings import recomputes

_FLOAT = 4
_ADAM = 2
_LAYER_VALUES = 24
"""Values of the hidden size that a layer keeps for the backward pass, per token (with recomputation 1)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: int
    """Policy and reference."""
    training: int
    """Gradients and optimiser."""
    step: int
    """Logits and activations of one micro-batch."""
    sampling: int
    """Keys and values of the completions, where the engine keeps them in this process's memory."""

    @property
    def peak(self) -> int:
        """Sampling and the update do not happen at the same time."""
        return self.weights + self.training + max(self.step, self.sampling)


def worst_case(model: PreTrainedModel, config: RLConfig, longest_prompt: int) -> Memory:
    """At the longest prompt and completion that the settings allow."""
    shape, parameters = model.config, model.num_parameters()
    longest = config.longest_completion
    row = longest_prompt + longest
    share_of_update = -(-config.batch_size // config.launch.processes) * row
    tokens = max(row, min(config.micro_batch_tokens, share_of_update))
    trained = _adapter_parameters(model, config.lora.rank) if config.lora else parameters
    copies = 2 if config.kl_coef > 0 and config.lora is None else 1
    share = 1 if config.launch.strategy == "ddp" else config.launch.processes
    at_once = min(config.engine.batch_size, config.batch_size * config.mini_batches_per_rollout)
    cached = 2 * at_once * (longest_prompt + longest) * _key_width(shape) * shape.num_hidden_layers
    return Memory(
        weights=_FLOAT * parameters * copies // share,
        training=_FLOAT * trained * (1 + _ADAM) // share,
        step=_step_bytes(model, config, tokens),
        sampling=_FLOAT * cached if config.engine.entry.caches_in_trainer else 0,
    )


def _step_bytes(model: PreTrainedModel, config: RLConfig, tokens: int) -> int:
    """Logits and activations of a micro-batch of so many tokens; only roughly where no shape is known."""
    recompute = recomputes(config.recompute, model.num_parameters())
    try:
        shape = ModelShape.of(model.config.get_text_config().to_dict())
    except ValueError:
        kept = 1 if recompute else _LAYER_VALUES
        hidden = model.config.hidden_size * (model.config.num_hidden_layers * kept + _LAYER_VALUES)
        head = 2 * min(tokens, HEAD_TOKENS) * model.config.vocab_size
        return (_FLOAT // (2 if config.bf16 else 1)) * tokens * hidden + _FLOAT * head
    precision = Precision.of(config.bf16, config.launch.strategy == "fsdp2")
    return activation_bytes(shape, tokens, tokens, precision, recompute, torch.cuda.is_available())


def check_memory(model: PreTrainedModel, config: RLConfig, longest_prompt: int) -> None:
    """Before step 0.

    Raises:
        ValueError: the worst step does not fit this machine.
    """
    need = worst_case(model, config, longest_prompt)
    if torch.cuda.is_available():
        if config.launch.processes == 1 and config.lora is None:
            _try_worst_step(model.cuda(), config, longest_prompt, need)
        return
    free = psutil.virtual_memory().available
    if config.launch.processes * need.peak > free:
        raise ValueError(
            f"the longest step needs about {need.peak / 2**30:.1f} GiB a process "
            f"({need.step / 2**30:.1f} of it for one micro-batch) and {free / 2**30:.1f} GiB are free: lower "
            "micro_batch_tokens, engine.batch_size or max_completion_length"
        )


def _try_worst_step(model: PreTrainedModel, config: RLConfig, longest_prompt: int, need: Memory) -> None:
    """One forward and backward pass of a full micro-batch, with room for the rest of training and the engine.

    Raises:
        ValueError: out of memory.
    """
    total = torch.cuda.mem_get_info()[1]
    engine = config.engine
    free = total * (1 - engine.gpu_memory_share if engine.entry.takes_gpu_share else 1)
    torch.cuda.reset_peak_memory_stats()
    try:
        worst_step(model, config, longest_prompt)
        held = 2 * _FLOAT * model.num_parameters()  # weights and gradients are in the peak already
        used = torch.cuda.max_memory_allocated() + need.training + need.weights - held
    except torch.cuda.OutOfMemoryError:
        used = total + 1
    model.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.empty_cache()
    if used > free:
        raise ValueError(
            f"the longest step (micro-batch of {config.micro_batch_tokens} tokens) does not fit the GPU's "
            f"{total / 2**30:.0f} GiB: lower micro_batch_tokens or max_completion_length, or set "
            "lora or launch"
        )


def worst_step(model: PreTrainedModel, config: RLConfig, longest_prompt: int) -> None:
    """Forward and backward of `micro_batch_tokens`, in rows of the greatest length; gradients are left.

    As the trainer does it: what is compiled here it need not compile again.
    """
    longest = config.longest_completion
    rows = max(1, (config.micro_batch_tokens - longest_prompt) // longest)
    pack = packing.pack(Rows.from_lists([[0] * longest_prompt] * rows, [[0] * longest] * rows), range(rows))
    use_flash_attention(model, config.bf16)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    model.train()
    recompute, changed = recomputes(config.recompute, model.num_parameters()), [model]
    if config.compile_layers:
        compile_layers(model, recompute)
        changed += model.get_decoder().layers
    elif recompute:
        model.gradient_checkpointing_enable()
    with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bf16):
        packing.score(model, pack, model.device)[0].mean().backward()
    # The trainer does all of this itself, and puts its own head on.
    model.gradient_checkpointing_disable()
    for module in changed:
        del module.forward


def _adapter_parameters(model: PreTrainedModel, rank: int) -> int:
    """Of low-rank adapters on every linear layer."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    return sum(rank * (m.in_features + m.out_features) for m in layers)


def _key_width(shape: Any) -> int:
    """Values of a token's keys in one layer."""
    heads = shape.num_attention_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // heads
    return (getattr(shape, "num_key_value_heads", None) or heads) * size
