"""Attention for training on packed rows: FlexAttention on a GPU, where a mask of tokens x tokens would not
fit, and a dense mask elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.masking_utils import flex_attention_mask

FLEX = "packed_flex_attention"
BLOCK = 128
"""Tokens on a side of a block that FlexAttention computes or leaves out."""
_FULL, _SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class PackLayout:
    """Where the rows of a pack of N tokens lie. A token sees, up to its own place, its row and what the rows
    of its group share."""

    group: np.ndarray
    """(N,) rising; a token sees no other group."""
    own: np.ndarray
    """(N,) 0: shared by the group; else the row's number in the group, rising from 1 on."""
    positions: np.ndarray
    """(N,) of each token in its own row."""


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


def packed_mask(layout: PackLayout, config: Any, device: torch.device) -> Any:
    """What each token sees, as the model takes it: a mask, or one for each kind of layer that it has.

    Made from numbers of whole blocks on the CPU; as transformers calls it, torch's `create_block_mask` is
    compiled, and again for new lengths. The length is a multiple of `BLOCK`.
    """
    windowed = _SLIDING if getattr(config, "sliding_window", None) else _FULL
    kinds = set(getattr(config, "layer_types", None) or (windowed,))
    if unknown := kinds - {_FULL, _SLIDING}:
        raise ValueError(
            f"layers of kind {sorted(unknown)} cannot be trained on packed rows: take another base"
        )
    masks = {kind: _mask(layout, config, kind, device) for kind in kinds}
    return masks if len(kinds) > 1 else next(iter(masks.values()))


def _mask(layout: PackLayout, config: Any, kind: str, device: torch.device) -> torch.Tensor | BlockMask:
    window = config.sliding_window if kind == _SLIDING else None
    # Only what is known of the query is looked up: the mask is computed for every pair of a block.
    row, group, shared, position = (
        torch.from_numpy(values.astype(np.int32)).to(device)
        for values in (*_starts(layout), layout.positions)
    )

    def sees(_batch: Any, _head: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        seen = (k <= q) & ((k >= row[q]) | ((k >= group[q]) & (k < shared[q])))
        return seen if window is None else seen & (position[q] - position[k] < window)

    if config._attn_implementation != FLEX:
        every = torch.arange(len(layout.own), device=device)
        return sees(None, None, every[:, None], every[None, :])[None, None]
    some, all_ = (torch.from_numpy(blocks).to(device) for blocks in _blocks(layout, window is None))
    return BlockMask.from_kv_blocks(*_listed(some), *_listed(all_), BLOCK_SIZE=BLOCK, mask_mod=sees)


def _starts(layout: PackLayout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each token the places where its row and its group begin, and where the group's shared part ends."""
    place = np.arange(len(layout.own))
    new_group = np.diff(layout.group, prepend=-1) != 0
    new_row = new_group | (np.diff(layout.own, prepend=-1) != 0)
    row, group = (np.maximum.accumulate(np.where(new, place, 0)) for new in (new_row, new_group))
    shared = np.bincount(layout.group[layout.own == 0], minlength=layout.group[-1] + 1)
    return row, group, group + shared[layout.group]


def _blocks(layout: PackLayout, may_be_whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """(queries, keys) booleans for pairs of blocks: tokens that must be looked at one by one, and pairs in
    which every query sees every key. All other pairs are left out."""
    group, own = (values.reshape(-1, BLOCK) for values in (layout.group, layout.own))
    first, last = group[:, 0], group[:, -1]
    one_group = first == last
    low, high = own.min(axis=1), own.max(axis=1)
    number = np.arange(len(group))
    earlier = number[:, None] > number[None, :]
    same = one_group[:, None] & one_group[None, :] & (first[:, None] == first[None, :])
    # In one group the rows follow each other, so a later block can see an earlier one that holds a part of
    # the shared prompt or of the row with which the later one begins.
    apart = same & (low[None, :] > 0) & (high[None, :] < low[:, None])
    possible = (earlier | np.eye(len(group), dtype=bool)) & (last[None, :] >= first[:, None]) & ~apart
    one_row = same & (low == high)[:, None] & (low == high)[None, :] & (low[:, None] == low[None, :])
    whole = earlier & same & ((high == 0)[None, :] | one_row) & may_be_whole
    return possible & ~whole, whole


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many key blocks each query block has, and their numbers: (1, 1, queries) and (.., keys)."""
    count = blocks.sum(dim=1, dtype=torch.int32)
    numbers = blocks.int().argsort(dim=1, descending=True, stable=True).int()
    return count[None, None], numbers[None, None]
