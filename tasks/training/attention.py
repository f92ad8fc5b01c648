"""FlexAttention for training on packed rows, where a mask of tokens x tokens would not fit a GPU."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.masking_utils import flex_attention_mask

FLEX = "packed_flex_attention"


def _flex_attention(
    module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """In the precision of autocast: rotary embeddings and norms leave queries and keys in float32."""
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
    out: tuple[torch.Tensor, torch.Tensor | None] = flex_attention_forward(module, q, k, v, mask, **kwargs)
    return out


AttentionInterface.register(FLEX, _flex_attention)
AttentionMaskInterface.register(FLEX, flex_attention_mask)


def use_flex_attention(model: PreTrainedModel) -> None:
    """Where there is a GPU and the model can; else it keeps its own, which takes a dense mask."""
    if torch.cuda.is_available() and model._supports_flex_attn:
        model.set_attn_implementation(FLEX)
