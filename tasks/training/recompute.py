"""Layers that compute their activations again in the backward pass keep what their attention returned.

Recomputing saves memory and costs another forward pass. Of a layer's parts attention is the dearest to repeat
for its size: the kernel's time grows with the length of a row, its result does not. For Qwen2.5-7B and packs
of 16,384 tokens the results of all layers take 3.1 GiB.

A compiled layer recomputes inside of what is compiled (`recomputing`): the compiler sees both passes and
leaves out of the second what no gradient needs. That is the last matrix product, 29% of the arithmetic of
such a layer. Around a layer that is not compiled it is Accelerate or transformers that have it recompute
(`keep_attention`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

from tasks.training.attention import ATTEND

KERNELS = [
    ATTEND,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""Attention over packs, and the kernel of a CPU."""


def keep_attention(model: torch.nn.Module) -> None:
    """For every layer of the model that recomputes, by Accelerate's wrapper (FSDP2) or by transformers' own.

    Both recompute everything, and neither can be told otherwise in its settings.
    """
    again = _checkpoint(keeps_attention=True)
    for module in model.modules():
        if isinstance(module, CheckpointWrapper):
            module.checkpoint_fn = again
        elif isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module._gradient_checkpointing_func = again


def recomputing(forward: Callable[..., Any], keeps_attention: bool) -> Callable[..., Any]:
    """A layer's forward pass, to be compiled, that keeps its input and, if so wanted, attention's results."""
    return partial(_checkpoint(keeps_attention), forward)


def _checkpoint(keeps_attention: bool) -> Callable[..., Any]:
    # Nothing in a layer is drawn, so no state of a random generator is kept.
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    if not keeps_attention:  # the compiler knows no other `context_fn`, not even one that does nothing
        return again
    return partial(again, context_fn=partial(create_selective_checkpoint_contexts, KERNELS))
