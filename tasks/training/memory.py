"""How much memory a training step takes, from a model's shape alone: no weights, no torch.

Counted for dense decoders of the Llama kind (RMS norms, gated feed-forward layer, grouped keys): parameters,
what the backward pass needs of a layer for each token, TRL's fused head. `tests/sft/test_memory.py` holds it
against the tensors that are alive in real steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOAT, HALF = 4, 2
"""Bytes of a float32 and of a bfloat16 value."""
HEAD_TOKENS, _HEAD_WIDTH = 4_096, 32_768
"""Of a tile of logits in TRL 1.16's fused head (`trl/kernels/chunked_logprob.py`)."""


@dataclass(frozen=True)
class ModelShape:
    """What of a model's configuration decides its size."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """From `config.json`.

        Raises:
            ValueError: the model is of another kind.
        """
        kind = config.get("model_type", "?")
        try:
            heads = int(config["num_attention_heads"])
            shape = cls(
                hidden=config["hidden_size"],
                intermediate=config["intermediate_size"],
                layers=config["num_hidden_layers"],
                heads=heads,
                key_heads=config.get("num_key_value_heads") or heads,
                head_size=config.get("head_dim") or config["hidden_size"] // heads,
                vocabulary=config["vocab_size"],
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except KeyError as error:
            raise ValueError(f"memory is not estimated for a {kind}: its config has no {error}") from error
        if config.get("kv_lora_rank") or config.get("num_local_experts") or config.get("num_experts"):
            raise ValueError(f"memory is not estimated for a {kind}, which is no dense decoder")
        return shape

    @property
    def layer_parameters(self) -> int:
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        return self.hidden * (2 * queries + 2 * keys + 3 * self.intermediate + 2)

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        outer = self.embedding * (1 if self.tied else 2) + self.hidden
        return self.layers * self.layer_parameters + outer

    def adapter_parameters(self, rank: int) -> int:
        """Of low-rank adapters on every linear layer but the output layer."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        attention = 2 * (self.hidden + queries) + 2 * (self.hidden + keys)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))


@dataclass(frozen=True)
class Precision:
    """In which bytes a value is kept: `stream` between layers, `matrix` where matrices are multiplied."""

    stream: int
    matrix: int

    @classmethod
    def of(cls, bf16: bool, sharded: bool) -> Precision:
        """Autocast leaves the stream in float32; FSDP2's mixed precision makes it bfloat16 as well."""
        return cls(HALF if bf16 and sharded else FLOAT, HALF if bf16 else FLOAT)


def layer_bytes(shape: ModelShape, precision: Precision, flash: bool) -> int:
    """What the backward pass needs of one layer, per token."""
    norm = FLOAT * shape.hidden + precision.stream * shape.hidden + precision.matrix * shape.hidden
    if precision == Precision(FLOAT, FLOAT):
        norm = 3 * FLOAT * shape.hidden
    queries, keys = shape.heads * shape.head_size, shape.key_heads * shape.head_size
    repeated = keys if flash else queries  # a dense mask takes a key head for every query head
    attention = precision.matrix * (3 * queries + 2 * repeated)
    feed_forward = precision.matrix * 4 * shape.intermediate
    return 2 * norm + attention + feed_forward


def activation_bytes(
    shape: ModelShape, tokens: int, trained: int, precision: Precision, recompute: bool, on_gpu: bool,
    keeps_attention: bool = False,
) -> int:  # fmt: skip
    """Of a forward and backward pass over `tokens`, of which `trained` carry loss. With `keeps_attention`
    what is recomputed is not attention (`tasks.training.recompute`)."""
    layer = layer_bytes(shape, precision, on_gpu)
    working = precision.matrix * 3 * shape.intermediate  # gradients inside the feed-forward layer
    attention = (precision.matrix * shape.head_size + FLOAT) * shape.heads  # its result and log-sum-exp
    kept = precision.stream * shape.hidden + attention * keeps_attention if recompute else layer
    mask = 0 if on_gpu else tokens * tokens * (1 + FLOAT)
    in_layer = tokens * (layer * recompute + working)
    scored = trained if on_gpu else tokens
    return tokens * kept * shape.layers + max(in_layer, head_bytes(shape, scored, precision, on_gpu)) + mask


def head_bytes(shape: ModelShape, tokens: int, precision: Precision, on_gpu: bool) -> int:
    """Of TRL's fused head in its backward pass over so many scored tokens: a tile of logits, which torch
    without Triton copies seven times in float32, and the gradients of its input and weight."""
    rows = min(tokens, HEAD_TOKENS)
    tile = precision.matrix * rows * _HEAD_WIDTH
    copies = 0 if on_gpu else 7 * FLOAT * rows * min(shape.vocabulary, _HEAD_WIDTH)
    return tile + copies + FLOAT * (tokens * shape.hidden + shape.embedding)


PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelShape(576, 1_536, 30, 9, 3, 64, 49_152, True),
    "Qwen/Qwen2.5-Math-1.5B": ModelShape(1_536, 8_960, 28, 12, 2, 128, 151_936, True),
    "Qwen/Qwen2.5-Math-7B": ModelShape(3_584, 18_944, 28, 28, 4, 128, 152_064, False),
    "Qwen/Qwen2.5-14B": ModelShape(5_120, 13_824, 48, 40, 8, 128, 152_064, False),
    "Qwen/Qwen2.5-32B": ModelShape(5_120, 27_648, 64, 40, 8, 128, 152_064, False),
    "meta-llama/Llama-3.1-8B": ModelShape(4_096, 14_336, 32, 32, 8, 128, 128_256, False),
    "meta-llama/Llama-3.3-70B-Instruct": ModelShape(8_192, 28_672, 80, 64, 8, 128, 128_256, False),
}
"""Of bases that presets and students name, as their `config.json` has them, for machines without the hub."""


def read_shape(folder: Path) -> ModelShape:
    """Of a Hugging Face folder. Raises as `ModelShape.of`."""
    return ModelShape.of(json.loads((folder / "config.json").read_text()))
