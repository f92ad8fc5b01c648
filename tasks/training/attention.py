"""Attention for training on packed rows: PyTorch's flash kernel on a GPU, a dense mask elsewhere.

The kernel takes rows of different lengths that lie end to end, so nothing is padded, nothing is compiled, and
no mask is there. Where a group shares a prompt, the softmax of a completion's token runs over two sets of
keys: the prompt that is shared, and its own row up to itself. The kernel is called once for each; it returns
the logarithm of the sum below the softmax, so the two results add up to the one over all keys:

    l = log(exp(l1) + exp(l2)),    o = o1 exp(l1 - l) + o2 exp(l2 - l)

Backward, the kernel is again called for each set, with o and l of both together: it makes the probabilities
from l, and needs o only for the term that all keys of a query share. Ring attention works in the same way.

Both directions are operators of torch's own kind, so that a compiled layer is one piece: the compiler calls
them and does not look inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._dynamo.decorators import mark_unbacked
from transformers import AttentionInterface, PreTrainedModel

FLASH = "packed_rows"
"""Its name in transformers, which looks for a kernel on the hub where `flash` is part of a name."""
_FULL, _SLIDING = "full_attention", "sliding_attention"
_WIDEST_HEAD = 256
"""The kernel's limit."""


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


@dataclass(frozen=True)
class Segments:
    """Pieces that lie end to end: where each begins and the last one ends, and the length of the longest."""

    starts: torch.Tensor
    """(pieces + 1,) int32"""
    longest: int

    @classmethod
    def of(cls, lengths: np.ndarray, device: torch.device) -> Segments:
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return cls(_of_any_length(starts, device), int(lengths.max(initial=0)))


def _of_any_length(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """A tensor whose length a compiled layer asks nothing about: it would be compiled again for a length that
    is 0 or 1, or happens to be that of something else."""
    tensor = torch.from_numpy(values).to(device)
    mark_unbacked(tensor, 0)
    return tensor


@dataclass(frozen=True)
class FlashPack:
    """A pack's layout as the kernel takes it."""

    pieces: Segments
    """Every shared prompt and every row."""
    seeing: torch.Tensor
    """(Q,) places of the tokens that see a shared prompt, group after group; none where nothing is shared."""
    seen: torch.Tensor
    """(K,) places of the shared tokens."""
    seeing_segments: Segments
    """A piece a group that has both."""
    seen_segments: Segments

    @classmethod
    def of(cls, layout: PackLayout, device: torch.device) -> FlashPack:
        new = (np.diff(layout.group, prepend=-1) != 0) | (np.diff(layout.own, prepend=-1) != 0)
        lengths = np.diff(np.append(np.flatnonzero(new), len(new)))
        groups = int(layout.group[-1]) + 1
        prompts, rows = (np.bincount(layout.group[part], minlength=groups) for part in _parts(layout))
        both = (prompts > 0) & (rows > 0)
        seen, seeing = (
            _of_any_length(np.flatnonzero(part & both[layout.group]), device) for part in _parts(layout)
        )
        seen_segments, seeing_segments = (Segments.of(counts[both], device) for counts in (prompts, rows))
        return cls(Segments.of(lengths, device), seeing, seen, seeing_segments, seen_segments)


def _parts(layout: PackLayout) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens are shared, and which belong to one row."""
    return layout.own == 0, layout.own > 0


class PackedAttention(torch.autograd.Function):
    """softmax(q k' scale) v of a pack. q: (N, heads, width); k, v: (N, key heads, width)."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pack: FlashPack, scale: float
    ) -> torch.Tensor:
        places, ctx.longest = _parameters(pack)
        ctx.scale = scale
        out, lse = ATTEND(q, k, v, places, ctx.longest, scale)
        ctx.save_for_backward(q, k, v, out, lse, *places)
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        q, k, v, out, lse, *places = ctx.saved_tensors
        return *_attend_backward(grad, q, k, v, out, lse, places, ctx.longest, ctx.scale), None, None


def _parameters(pack: FlashPack) -> tuple[list[torch.Tensor], list[int]]:
    """What an operator of torch can take instead of the pack."""
    segments = (pack.pieces, pack.seeing_segments, pack.seen_segments)
    return [pack.seeing, pack.seen, *(s.starts for s in segments)], [s.longest for s in segments]


def _pack(places: list[torch.Tensor], longest: list[int]) -> FlashPack:
    """The pack of `_parameters`."""
    seeing, seen, *starts = places
    pieces, *shared = map(Segments, starts, longest)
    return FlashPack(pieces, seeing, seen, *shared)


@torch.library.custom_op("r1::packed_attention", mutates_args=())
def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, places: list[torch.Tensor], longest: list[int],
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Result (N, heads, width) and log-sum-exp (heads, N)."""
    pack = _pack(places, longest)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    out, lse = flash_forward(q, k, v, pack.pieces, pack.pieces, True, scale)
    if len(pack.seeing):
        seeing, seen = pack.seeing, pack.seen
        part, part_lse = flash_forward(
            q[seeing], k[seen], v[seen], pack.seeing_segments, pack.seen_segments, False, scale
        )
        both = torch.logaddexp(lse[:, seeing], part_lse)  # (heads, Q)
        of_row, of_prompt = ((x - both).exp().T[..., None] for x in (lse[:, seeing], part_lse))
        out[seeing] = (out[seeing] * of_row + part * of_prompt).to(out.dtype)
        lse[:, seeing] = both
    return out.contiguous(), lse.contiguous()  # as they are already, and as compiled code was promised


@torch.library.custom_op("r1::packed_attention_backward", mutates_args=())
def _attend_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor,
    lse: torch.Tensor, places: list[torch.Tensor], longest: list[int], scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of q, k and v."""
    pack = _pack(places, longest)
    grad, q, k, v = grad.contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    dq, dk, dv = flash_backward(grad, q, k, v, out, lse, pack.pieces, pack.pieces, True, scale)
    if len(pack.seeing):
        seeing, seen = pack.seeing, pack.seen
        parts = flash_backward(
            grad[seeing], q[seeing], k[seen], v[seen], out[seeing], lse[:, seeing].contiguous(),
            pack.seeing_segments, pack.seen_segments, False, scale,
        )  # fmt: skip
        for whole, at, part in zip((dq, dk, dv), (seeing, seen, seen), parts, strict=True):
            whole.index_add_(0, at, part)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


@_attend.register_fake
def _(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)


@_attend_backward.register_fake
def _(_grad: torch.Tensor, *qkv: Any) -> tuple[torch.Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in qkv[:3])


ATTEND = torch.ops.r1.packed_attention.default
"""(q, k, v, ...): result (N, heads, width) and log-sum-exp (heads, N)."""


def flash_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, queries: Segments, keys: Segments, causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Result (queries, heads, width) and log-sum-exp (heads, queries)."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, queries.starts, keys.starts, queries.longest, keys.longest, 0.0, causal, False, scale=scale
    )
    return out, lse


def flash_backward(
    grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor,
    lse: torch.Tensor, queries: Segments, keys: Segments, causal: bool, scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of q, k and v."""
    unused = lse.new_empty(0)  # the state of dropout, which nobody asked for
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.ops.aten._flash_attention_backward(
        grad, q, k, v, out, lse, queries.starts, keys.starts, queries.longest, keys.longest, 0.0, causal,
        unused, unused, scale=scale,
    )  # fmt: skip
    return found


def _flash_attention(
    module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: None,
    scaling: float | None = None, flash_pack: FlashPack | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """As transformers calls it: q (1, heads, N, width), k and v (1, key heads, N, width)."""
    if flash_pack is None:
        raise ValueError(f"{FLASH} is for packs: give `pack_inputs` of the pack to the model")
    if torch.is_autocast_enabled(q.device.type):  # rotary embeddings and norms leave q and k in float32
        q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    return PackedAttention.apply(q, k, v, flash_pack, scaling or q.shape[-1] ** -0.5)[None], None


AttentionInterface.register(FLASH, _flash_attention)


def use_flash_attention(model: PreTrainedModel, bf16: bool) -> None:
    """Where there is a GPU and the kernel can do what the model asks; else the model keeps its own attention,
    which takes a dense mask. The kernel works in 16 bits."""
    if torch.cuda.is_available() and bf16 and flash_can(model):
        model.set_attn_implementation(FLASH)


def flash_can(model: PreTrainedModel) -> bool:
    """Whether all layers attend to everything before, with heads that the kernel takes."""
    config: Any = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = _kinds(config) == {_FULL} and getattr(config, "attn_logit_softcapping", None) is None
    one_width = getattr(config, "v_head_dim", width) == width
    fits = one_width and width <= _WIDEST_HEAD and width % 8 == 0
    return bool(model._supports_attention_backend) and plain and fits


def pack_inputs(layout: PackLayout, config: Any, device: torch.device) -> dict[str, Any]:
    """What the model is given so that each token sees what it should: the pack for the kernel, or a mask.

    Raises:
        ValueError: a layer that has no mask of tokens.
    """
    if config._attn_implementation == FLASH:
        return {"flash_pack": FlashPack.of(layout, device)}
    kinds = _kinds(config)
    if unknown := kinds - {_FULL, _SLIDING}:
        raise ValueError(
            f"layers of kind {sorted(unknown)} cannot be trained on packed rows: take another base"
        )
    masks = {kind: _mask(layout, config, kind, device) for kind in kinds}
    return {"attention_mask": masks if len(kinds) > 1 else next(iter(masks.values()))}


def _kinds(config: Any) -> set[str]:
    windowed = _SLIDING if getattr(config, "sliding_window", None) else _FULL
    return set(getattr(config, "layer_types", None) or (windowed,))


def _mask(layout: PackLayout, config: Any, kind: str, device: torch.device) -> torch.Tensor:
    """(1, 1, N, N) whether a token sees another."""
    group, own, position = (
        torch.from_numpy(values.astype(np.int32)).to(device)
        for values in (layout.group, layout.own, layout.positions)
    )
    mine = (own[None, :] == 0) | (own[:, None] == own[None, :])
    seen = ((group[:, None] == group[None, :]) & mine).tril()
    if kind == _SLIDING:
        seen &= position[:, None] - position[None, :] < config.sliding_window
    return seen[None, None]
