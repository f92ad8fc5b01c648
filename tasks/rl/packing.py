"""Completions of a policy update laid end to end, each question's prompt forwarded once.

    rows of the batch     p1 .. pm  c1 .. cn       (one group: the prompt is the same)
                          p1 .. pm  d1 .. dk
    a pack                [p1 .. pm-1] [pm c1 .. cn-1] [pm d1 .. dk-1] [next group] ...

There is no padding but the few tokens that fill the last block of attention. A token sees the shared part of
its own group and what lies before it in its own row, so every log-probability is that of the row alone, to
rounding. The prompt's last token is repeated for each row: its successor differs from row to row, and so each
position has one label.

The idea is that of TRL 1.16's `TreeRow` (experimental, `async_grpo.packing`), which folds any common prefix
into a tree, token by token in Python: 4.7 s for 512 rows of 1,024 tokens on a busy core, where this took
0.1 s, since in GRPO the shared prefix is the group's prompt. Its attention kernel is downloaded from a hub;
here it is PyTorch's FlexAttention on a GPU, and a dense mask elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.masking_utils import flex_attention_mask

from tasks.rollout.decoding import ATTENTION

_BLOCK = 128
"""Tokens on a side of a block that FlexAttention computes or leaves out."""
_NO_LABEL = -100
_FULL, _SLIDING = "full_attention", "sliding_attention"
FLEX = "packed_flex_attention"


def _flex_attention(
    module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """FlexAttention in the precision of autocast: rotary embeddings leave queries and keys in float32."""
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
    out: tuple[torch.Tensor, torch.Tensor | None] = flex_attention_forward(module, q, k, v, mask, **kwargs)
    return out


AttentionInterface.register(FLEX, _flex_attention)
AttentionMaskInterface.register(FLEX, flex_attention_mask)


@dataclass(frozen=True)
class Rows:
    """A batch without its padding. Rows with equal prompts are a group, wherever they stand: TRL shuffles the
    rows of a rollout before it cuts it into updates."""

    prompts: list[np.ndarray]
    completions: list[np.ndarray]
    groups: np.ndarray
    """(rows,) the number of each row's prompt, in the order in which the prompts appear."""

    @classmethod
    def from_lists(cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Rows:
        """From token ids."""
        asked, written = [np.asarray(p) for p in prompts], [np.asarray(c) for c in completions]
        numbers: dict[bytes, int] = {}
        groups = [numbers.setdefault(prompt.tobytes(), len(numbers)) for prompt in asked]
        return cls(asked, written, np.array(groups))

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, completion_width: int) -> Rows:
        """From (rows, width) tokens whose prompts are padded on the left, completions on the right."""
        tokens, used = ids.cpu().numpy(), mask.bool().cpu().numpy()
        left = tokens.shape[1] - completion_width
        prompts = [row[keep] for row, keep in zip(tokens[:, :left], used[:, :left], strict=True)]
        completions = [row[keep] for row, keep in zip(tokens[:, left:], used[:, left:], strict=True)]
        return cls.from_lists(prompts, completions)

    def some(self, chosen: Sequence[int]) -> Rows:
        """The chosen rows."""
        pairs = [self.prompts[i] for i in chosen], [self.completions[i] for i in chosen]
        return Rows(*pairs, self.groups[list(chosen)])

    def tokens(self, row: int) -> int:
        """What a row adds to a pack that holds its group's prompt."""
        return len(self.completions[row])

    def shared(self, row: int) -> int:
        """Tokens of the prompt that the group shares."""
        return len(self.prompts[row]) - 1


@dataclass(frozen=True)
class Pack:
    """One forward pass. N tokens, of which T have a label: the completions of `rows`, one after another."""

    rows: list[int]
    input_ids: np.ndarray
    """(N,)"""
    positions: np.ndarray
    """(N,) of each token in its own row."""
    labels: np.ndarray
    """(N,) the next token, or `_NO_LABEL`."""
    group: np.ndarray
    """(N,) rising; a token sees no other group. Padding is a group of its own."""
    own: np.ndarray
    """(N,) 0: shared by the group; else the row's number in the group, from 1 on."""


def plan(rows: Rows, chosen: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """The chosen rows in packs of at most `budget` tokens; a longer row has a pack of its own.

    Packs are about equally long. A group stands in more than one pack only where it does not fit, and its
    prompt is then computed in each. `at_least`: so many packs, as processes must make equally many passes.
    """
    chosen = sorted(chosen, key=lambda i: (rows.groups[i], i))
    total = sum(rows.tokens(i) for i in chosen)
    total += sum(rows.shared(next(g)) for _, g in groupby(chosen, key=lambda i: rows.groups[i]))
    aim = max(1, -(-total // max(1, -(-total // budget))))
    packs: list[list[int]] = []
    used = 0
    for i in chosen:
        fresh = not packs or rows.groups[packs[-1][-1]] != rows.groups[i]
        need = rows.tokens(i) + rows.shared(i) * fresh
        # Once a pack is as long as the mean, the next one begins where a group does.
        if not packs or used + need > budget or (fresh and used + need // 2 > aim):
            packs.append([])
            used, need = 0, rows.tokens(i) + rows.shared(i)
        packs[-1].append(i)
        used += need
    while len(packs) < min(at_least, len(chosen)):
        longest = max(range(len(packs)), key=lambda k: len(packs[k]))
        half = len(packs[longest]) // 2
        packs[longest : longest + 1] = [packs[longest][:half], packs[longest][half:]]
    return packs


def pack(rows: Rows, chosen: Sequence[int]) -> Pack:
    """Lay the chosen rows end to end, filled up to whole blocks."""
    ids, positions, labels, group, own = [], [], [], [], []

    def add(tokens: np.ndarray, start: int, targets: np.ndarray, number: int, row: int) -> None:
        ids.append(tokens)
        positions.append(np.arange(start, start + len(tokens)))
        labels.append(targets)
        group.append(np.full(len(tokens), number))
        own.append(np.full(len(tokens), row))

    number = -1
    for number, (_, members) in enumerate(groupby(chosen, key=lambda i: rows.groups[i])):
        for row, i in enumerate(members, 1):
            prompt, completion = rows.prompts[i], rows.completions[i]
            shared = len(prompt) - 1
            if row == 1:
                add(prompt[:-1], 0, np.full(shared, _NO_LABEL), number, 0)
            if len(completion):
                add(np.append(prompt[-1], completion[:-1]), shared, completion, number, row)
    tokens = sum(map(len, ids))
    missing = max(1, -(-tokens // _BLOCK)) * _BLOCK - tokens
    add(np.zeros(missing, dtype=int), 0, np.full(missing, _NO_LABEL), number + 1, 0)
    joined = (np.concatenate(parts) for parts in (ids, positions, labels, group, own))
    return Pack(list(chosen), *joined)


def score(model: Any, packed: Pack, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(T,) log-probabilities of the pack's completion tokens, and their entropies where the model's head
    makes them. `model` has TRL's fused head (`add_fused_lm_head`): no logits are kept."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)[None]

    out = model(
        input_ids=tensor(packed.input_ids), position_ids=tensor(packed.positions),
        attention_mask=attention(packed, _configured(model), device),
        shift_labels=tensor(packed.labels), fused_lm_head=True,
    )  # fmt: skip
    trained = tensor(packed.labels) != _NO_LABEL
    return out.log_probs[trained], None if out.entropy is None else out.entropy[trained]


def use_packed_attention(model: PreTrainedModel, device: torch.device) -> str:
    """Choose the attention that reads the masks of `attention`; returns the one that was set before."""
    before: str = model.config._attn_implementation
    flex = device.type == "cuda" and model._supports_flex_attn
    model.set_attn_implementation(FLEX if flex else ATTENTION)
    return before


def attention(packed: Pack, config: Any, device: torch.device) -> Any:
    """What each token sees, as the model takes it: a mask, or one for each kind of layer that it has."""
    windowed = _SLIDING if getattr(config, "sliding_window", None) else _FULL
    kinds = set(getattr(config, "layer_types", None) or (windowed,))
    if unknown := kinds - {_FULL, _SLIDING}:
        raise ValueError(f"layers of kind {sorted(unknown)} cannot share a prompt: train another base")
    masks = {kind: _mask(packed, config, kind, device) for kind in kinds}
    return masks if len(kinds) > 1 else next(iter(masks.values()))


def _mask(packed: Pack, config: Any, kind: str, device: torch.device) -> torch.Tensor | BlockMask:
    window = config.sliding_window if kind == _SLIDING else None
    # Only what is known of the query is looked up: the mask is computed for every pair of a block.
    row, group, shared, position = (
        torch.from_numpy(values.astype(np.int32)).to(device)
        for values in (*_starts(packed), packed.positions)
    )

    def sees(_batch: Any, _head: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        seen = (k <= q) & ((k >= row[q]) | ((k >= group[q]) & (k < shared[q])))
        return seen if window is None else seen & (position[q] - position[k] < window)

    if config._attn_implementation != FLEX:
        every = torch.arange(len(packed.own), device=device)
        return sees(None, None, every[:, None], every[None, :])[None, None]
    some, all_ = (torch.from_numpy(blocks).to(device) for blocks in _blocks(packed, window is None))
    return BlockMask.from_kv_blocks(*_listed(some), *_listed(all_), BLOCK_SIZE=_BLOCK, mask_mod=sees)


def _starts(packed: Pack) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each token the places where its row and its group begin, and where the group's shared part ends."""
    place = np.arange(len(packed.own))
    new_group = np.diff(packed.group, prepend=-1) != 0
    new_row = new_group | (np.diff(packed.own, prepend=-1) != 0)
    row, group = (np.maximum.accumulate(np.where(new, place, 0)) for new in (new_row, new_group))
    shared = np.bincount(packed.group[packed.own == 0], minlength=packed.group[-1] + 1)
    return row, group, group + shared[packed.group]


def _blocks(packed: Pack, may_be_whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """(queries, keys) booleans for pairs of blocks: tokens that must be looked at one by one, and pairs in
    which every query sees every key. All other pairs are left out."""
    group, own = (values.reshape(-1, _BLOCK) for values in (packed.group, packed.own))
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


def _configured(model: Any) -> Any:
    """The settings of the model inside what Accelerate, DDP and PEFT put around it."""
    inner = getattr(model, "module", model)
    return inner.config.get_text_config()
