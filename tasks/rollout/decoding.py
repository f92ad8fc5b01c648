"""Sampling from a Hugging Face causal model, lean enough for small models on CPUs.

Differs from `generate` in speed and in what decides a draw: each row has its own seed, and the token of
step t is the inverse of the row's distribution at a uniform number hashed from (seed, t). So a
completion is the same whatever shares its batch, up to the rounding of the matrix products.
What makes it fast: equal prompts are read once, keys and values lie in buffers that are not copied each
step, grouped-query attention is not expanded, finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tasks.rollout.llama import Llama, LlamaSteps
from tasks.rollout.settings import Sampling

ATTENTION = "grouped_sdpa"
"""Load the model with `attn_implementation=ATTENTION`; any other works too, more slowly."""

_SLIDING = "sliding_attention"
_DROP_BELOW = 0.75
"""Finished rows leave once fewer than this share of the batch still runs."""
_NUCLEUS_FIRST = 64
"""Top-p looks at this many tokens first, and sorts the vocabulary only where they do not suffice."""


def _grouped_attention(
    module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """One query a row: the heads that share keys become the queries, so the keys need no copies."""
    if q.shape[2] != 1:
        return sdpa_attention_forward(module, q, k, v, mask, **kwargs)
    rows, heads, _, size = q.shape
    grouped = q.reshape(rows, k.shape[1], -1, size)
    out = torch.nn.functional.scaled_dot_product_attention(
        grouped, k, v, attn_mask=mask, scale=kwargs.get("scaling")
    )
    return out.reshape(rows, 1, heads, v.shape[-1]), None


AttentionInterface.register(ATTENTION, _grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class BufferLayer(DynamicLayer):
    """Keys and values (rows, heads, positions, size) in buffers that double when full."""

    def __init__(self) -> None:
        super().__init__()
        self.used = 0

    def get_seq_length(self) -> int:
        return self.used

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.used + key_states.shape[2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._key_buffer = self._value_buffer = key_states.new_empty(0)
        if self.used == 0 or end > self._key_buffer.shape[2]:
            self._key_buffer = self._grown(self._key_buffer, key_states, end)
            self._value_buffer = self._grown(self._value_buffer, value_states, end)
        self._key_buffer[:, :, self.used : end] = key_states
        self._value_buffer[:, :, self.used : end] = value_states
        self.used = end
        self._show()
        return self.keys, self.values

    def select(self, rows: torch.Tensor) -> None:
        """Keep (or repeat) these rows."""
        self._key_buffer = self._rows(self._key_buffer, rows)
        self._value_buffer = self._rows(self._value_buffer, rows)
        self._show()

    def _show(self) -> None:
        self.keys = self._key_buffer[:, :, : self.used]
        self.values = self._value_buffer[:, :, : self.used]

    def _grown(self, buffer: torch.Tensor, states: torch.Tensor, end: int) -> torch.Tensor:
        rows, heads, _, size = states.shape
        grown = states.new_empty(rows, heads, max(2 * end, 64), size)
        if self.used:
            grown[:, :, : self.used] = buffer[:, :, : self.used]
        return grown

    def _rows(self, buffer: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        taken = buffer.new_empty(len(rows), *buffer.shape[1:])
        taken[:, :, : self.used] = buffer[:, :, : self.used].index_select(0, rows.to(buffer.device))
        return taken


def require_full_attention(model: PreTrainedModel) -> None:
    """Raises ValueError for models whose cache this loop does not know (recurrent layers, ...)."""
    if other := _layer_kinds(model) - {"full_attention", _SLIDING}:
        raise ValueError(
            f"{model.config.model_type} has layers of {', '.join(sorted(other))}: the transformers engine "
            "decodes attention only; set engine.name to vllm"
        )


def _layer_kinds(model: PreTrainedModel) -> set[str]:
    return set(getattr(model.config, "layer_types", None) or ["full_attention"])


def _masks(model: PreTrainedModel, mask: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
    """What the model takes for `mask` (rows, 1, queries, keys), whose last query stands at the last key.

    Models with sliding windows take a mask for each kind of layer. Their keys all stay in the cache, so that
    rows can leave the batch in one way for every model.
    """
    if _SLIDING not in _layer_kinds(model):
        return mask
    queries, keys = mask.shape[-2:]
    places = torch.arange(keys, device=mask.device)
    near = places[None] > places[keys - queries :, None] - model.config.sliding_window
    return {"full_attention": mask, _SLIDING: mask & near}


@dataclass(frozen=True)
class DrawnRow:
    """One row's tokens, the last one an end token unless the row was cut by length."""

    tokens: list[int]
    logprobs: list[float]
    """With which each token was drawn; empty unless asked for."""


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    end_tokens: frozenset[int],
    batch_size: int,
) -> list[list[int]]:
    """The tokens written after each prompt, in the order of the prompts. Raises as `write`."""
    rows = dict(write(model, prompts, sampling, seeds, end_tokens, batch_size))
    return [rows[i].tokens for i in range(len(prompts))]


@torch.inference_mode()
def write(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    end_tokens: frozenset[int],
    batch_size: int,
    logprobs: bool = False,
) -> Iterator[tuple[int, DrawnRow]]:
    """Yields (row, what was drawn) for each prompt (token ids) as rows leave the batch.

    Length is cut at `sampling.max_new_tokens` or where the model's context ends.

    Raises:
        ValueError: an empty prompt, or one that fills the model's context.
    """
    require_full_attention(model)
    room = _room(model, prompts, sampling.max_new_tokens)
    # Prompts are padded to the longest of their batch, so batches of similar length waste least.
    longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(prompts), batch_size):
        batch = longest_first[start : start + batch_size]
        rows = _decode_batch(
            model, [prompts[i] for i in batch], sampling, [seeds[i] for i in batch],
            [room[i] for i in batch], end_tokens, logprobs,
        )  # fmt: skip
        for place, drawn in rows:
            yield batch[place], drawn


class _Drafts:
    """The tokens that a batch has drawn so far, and their log-probabilities if wanted.

    Rows keep their place here when they leave the batch; -1 marks positions that were never drawn.
    """

    def __init__(self, rows: int, width: int, logprobs: bool, device: torch.device) -> None:
        self._tokens = torch.full((rows, width), -1, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(rows, width, device=device) if logprobs else None

    def put(self, step: int, rows: torch.Tensor, token: torch.Tensor, logits: torch.Tensor, t: float) -> None:
        """Token `step` of these rows, drawn from these logits at temperature `t`."""
        self._tokens[rows, step] = token
        if self._logprobs is not None:
            logprobs = torch.log_softmax(logits / t, dim=-1)
            self._logprobs[rows, step] = logprobs.gather(1, token.clamp(min=0)[:, None]).squeeze(1)

    def row(self, place: int) -> DrawnRow:
        tokens: list[int] = self._tokens[place].tolist()
        tokens = tokens[: tokens.index(-1)] if -1 in tokens else tokens
        return DrawnRow(
            tokens, [] if self._logprobs is None else self._logprobs[place, : len(tokens)].tolist()
        )


def _room(model: PreTrainedModel, prompts: Sequence[Sequence[int]], wanted: int) -> list[int]:
    """How many tokens each completion may have."""
    context = getattr(model.config, "max_position_embeddings", None) or 2**31
    lengths = [len(p) for p in prompts]
    if lengths and not 0 < min(lengths) <= max(lengths) < context:
        raise ValueError(
            f"prompts have {min(lengths)} to {max(lengths)} tokens: the model reads 1 to {context - 1}; "
            "leave the others out"
        )
    return [min(wanted, context - n) for n in lengths]


def _decode_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    room: Sequence[int],
    end_tokens: frozenset[int],
    logprobs: bool,
) -> Iterator[tuple[int, DrawnRow]]:
    """Yields (place in the batch, what was drawn) as rows leave the batch."""
    device = model.device
    logits, steps = _read_prompts(model, prompts, max(room))
    ends = torch.tensor(sorted(end_tokens), device=device)
    limits = torch.tensor(room, device=device)
    seed = np.array(seeds, dtype=np.uint64)
    rows = torch.arange(len(prompts), device=device)
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    drafts = _Drafts(len(prompts), max(room), logprobs, device)

    for step in range(max(room)):
        token = draw(logits, sampling, torch.from_numpy(uniform(seed, step)).to(device))
        drafts.put(step, rows, torch.where(running, token, -1), logits, sampling.temperature)
        running &= ~torch.isin(token, ends) & (step + 1 < limits)
        alive = int(running.sum())
        if alive == 0:
            break
        # Rows leave in bulk: copying the cache of the rows that stay costs more than a few idle rows do.
        if alive < _DROP_BELOW * len(rows):
            yield from ((place, drafts.row(place)) for place in rows[~running].tolist())
            kept = running.nonzero().squeeze(1)
            steps.keep(kept)
            rows, token = rows[kept], token[kept]
            limits, running, seed = limits[kept], running[kept], seed[kept.cpu().numpy()]
        logits = steps.logits(token)
    yield from ((place, drafts.row(place)) for place in rows.tolist())


class _ModelSteps:
    """One token a row by the model itself; `mask` (rows, positions) goes as far as the rows may get."""

    def __init__(
        self, model: PreTrainedModel, cache: Cache, mask: torch.Tensor, position: torch.Tensor
    ) -> None:
        self._model, self._cache, self._mask, self._position = model, cache, mask, position

    def keep(self, rows: torch.Tensor) -> None:
        """Of the rows only these, which are then numbered anew."""
        for layer in self._cache.layers:
            layer.select(rows)
        self._mask, self._position = self._mask[rows], self._position[rows]

    def logits(self, token: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) after one more token (rows,)."""
        seen = self._mask[:, None, None, : self._cache.get_seq_length() + 1]
        logits = _logits(self._model, token[:, None], _masks(self._model, seen), self._position, self._cache)
        self._position = self._position + 1
        return logits


def _read_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], room: int
) -> tuple[torch.Tensor, _ModelSteps | LlamaSteps]:
    """Logits after each prompt (rows, vocabulary), and what goes on from there."""
    distinct = {tuple(p): i for i, p in enumerate(dict.fromkeys(map(tuple, prompts)))}
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in distinct], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in distinct], device=model.device)
    cache = Cache(layers=_buffers(model))
    position = (mask.cumsum(1) - 1).clamp(min=0)
    shown: Any = mask
    if _SLIDING in _layer_kinds(model):
        # Padding sees itself: a query that sees nothing becomes NaN, which 0 times its value does not remove.
        seen = (
            torch.ones_like(ids[0].expand(width, width), dtype=torch.bool).tril() & mask[:, None, None].bool()
        )
        shown = _masks(model, seen | torch.eye(width, dtype=torch.bool, device=model.device))
    logits = _logits(model, ids, shown, position, cache)
    rows = torch.tensor([distinct[tuple(p)] for p in prompts], device=model.device)
    if llama := Llama.of(model):
        return logits[rows], LlamaSteps(llama, cache.layers, _buffers(model), mask.bool(), rows)
    if len(distinct) < len(prompts):
        for layer in cache.layers:
            layer.select(rows)
        logits, mask = logits[rows], mask[rows]
    ones = torch.ones(len(prompts), room, dtype=torch.bool, device=model.device)
    position = torch.tensor([[len(p)] for p in prompts], device=model.device)
    return logits, _ModelSteps(model, cache, torch.cat([mask.bool(), ones], dim=1), position)


def _buffers(model: PreTrainedModel) -> list[BufferLayer]:
    return [BufferLayer() for _ in range(model.config.num_hidden_layers)]


def _logits(
    model: PreTrainedModel, ids: torch.Tensor, mask: Any, position: torch.Tensor, cache: Cache
) -> torch.Tensor:
    """Logits of the last position in float32, shape (rows, vocabulary)."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


def draw(logits: torch.Tensor, sampling: Sampling, uniform_numbers: torch.Tensor) -> torch.Tensor:
    """One token a row, the inverse of the row's distribution at its number in [0, 1). Shape (rows,)."""
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        probabilities = _nucleus(probabilities, sampling.top_p)
    cumulated = probabilities.cumsum(dim=-1, dtype=torch.float64)
    target = uniform_numbers[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, target, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Everything less likely than the likeliest tokens that together reach `top_p` set to 0.

    The order stays the vocabulary's: two tokens of almost the same probability may swap ranks from one
    batch to another, and must not swap places under the draw.
    """
    values = probabilities.topk(min(_NUCLEUS_FIRST, probabilities.shape[1]), dim=-1).values
    if bool((values.sum(-1) < top_p).any()):
        values = probabilities.sort(dim=-1, descending=True).values
    kept = (values.cumsum(dim=-1) - values < top_p).sum(dim=-1, keepdim=True)
    return torch.where(probabilities >= values.gather(1, kept - 1), probabilities, 0)


def uniform(seeds: np.ndarray, step: int) -> np.ndarray:
    """Numbers in [0, 1) from 64-bit seeds and a step: one SplitMix64 output each. Float64."""
    with np.errstate(over="ignore"):
        z = seeds.astype(np.uint64) + np.uint64((step + 1) * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
