"""One token a row of a plain Llama on a CPU: what transformers' modules compute, in less time.

With 64 rows of `tiny` a step took transformers 18 ms. 4 ms of it were Python, whatever the number of rows;
6 ms were attention, which reads keys and values from memory: each row's copy of its prompt's, and padding. So
the layers are read off the model and computed here in fewer calls, and rows with the same prompt look at one
copy of it. Another model, or one with adapters or other positions, gets None and goes on with transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, silu
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class _Layer:
    """Weights of a layer; those that are multiplied with the same vector lie in one matrix."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: torch.Tensor
    out_bias: torch.Tensor | None
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            layer.input_layernorm.weight, *_joined(attention.q_proj, attention.k_proj, attention.v_proj),
            attention.o_proj.weight, attention.o_proj.bias,
            layer.post_attention_layernorm.weight, *_joined(mlp.gate_proj, mlp.up_proj),
            mlp.down_proj.weight, mlp.down_proj.bias,
        )  # fmt: skip


def _joined(*linears: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor | None]:
    biases = [found.bias for found in linears if found.bias is not None]
    return torch.cat([found.weight for found in linears]), torch.cat(biases) if biases else None


class Llama:
    """A model's weights as they are now, ready for steps of one token a row."""

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        self.layers = [_Layer.of(layer) for layer in body.layers]
        self.embedding, self.norm = body.embed_tokens.weight, body.norm.weight
        self.head = model.lm_head.weight
        self.epsilon, self.scale = config.rms_norm_eps, body.layers[0].self_attn.scaling
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        places = torch.arange(config.max_position_embeddings)[None]
        self.cos, sin = (table[0, :, None] for table in body.rotary_emb(self.embedding, places))
        # Of a vector's halves (a, b), (-b, a) is multiplied with the sine: here (b, a) with (-sine, sine).
        self.half = sin.shape[-1] // 2
        self.sin = torch.cat([-sin[..., : self.half], sin[..., self.half :]], dim=-1)

    @classmethod
    def of(cls, model: PreTrainedModel) -> Llama | None:
        """None for what this does not compute."""
        fits = (
            type(model) is LlamaForCausalLM
            and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
            and all(
                type(module) is torch.nn.Linear
                for name, module in model.named_modules()
                if name.endswith(("_proj", "_head"))
            )
            and model.config.rope_parameters["rope_type"] == "default"
            and model.config.hidden_act == "silu"
            and not torch.is_autocast_enabled("cpu")
        )
        return cls(model) if fits else None


class LlamaSteps:
    """The rows of a batch: `read` holds a layer each with the keys and values of the distinct prompts, `mask`
    (prompts, positions) says where these are no padding, and `prompt` is each row's."""

    def __init__(
        self, llama: Llama, read: Sequence[DynamicLayer], written: Sequence[DynamicLayer],
        mask: torch.Tensor, prompt: torch.Tensor,
    ) -> None:  # fmt: skip
        self._llama, self._written = llama, written
        self._read = [(layer.keys.contiguous(), layer.values.contiguous()) for layer in read]
        self._mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
        self._position = mask.sum(1)[prompt]
        self._place(prompt)

    def _place(self, prompt: torch.Tensor) -> None:
        """Each row's place among (prompts, most rows of a prompt): rows of one prompt are one product."""
        self._prompt = prompt
        self._most = int(prompt.bincount().max())
        order = prompt.argsort(stable=True)
        first = torch.searchsorted(prompt[order], prompt[order])
        nth = torch.empty_like(order)
        nth[order] = torch.arange(len(order)) - first
        self._places = prompt * self._most + nth

    def keep(self, rows: torch.Tensor) -> None:
        """Of the rows only these, which are then numbered anew."""
        for layer in self._written:
            layer.select(rows)
        self._position = self._position[rows]
        asked, prompt = self._prompt[rows].unique(return_inverse=True)
        if len(asked) < len(self._mask):
            self._read = [(keys[asked], values[asked]) for keys, values in self._read]
            self._mask = self._mask[asked]
        self._place(prompt)

    def logits(self, token: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) after one more token (rows,)."""
        llama = self._llama
        rows, heads, keys = len(token), llama.heads, llama.key_heads
        cos, sin = llama.cos[self._position], llama.sin[self._position]
        x = llama.embedding[token]
        width = x.shape[-1:]
        for layer, read, written in zip(llama.layers, self._read, self._written, strict=True):
            normed = rms_norm(x, width, layer.attention_norm, llama.epsilon)
            qkv = linear(normed, layer.qkv, layer.qkv_bias).view(rows, heads + 2 * keys, -1)
            turned = qkv[:, : heads + keys]
            turned = torch.addcmul(turned * cos, turned.roll(llama.half, -1), sin)
            own = written.update(turned[:, heads:, None], qkv[:, heads + keys :, None])
            q = (turned[:, :heads] * llama.scale).view(rows, keys, heads // keys, -1)
            x = x + linear(self._attended(q, read, own).reshape(rows, -1), layer.out, layer.out_bias)
            normed = rms_norm(x, width, layer.mlp_norm, llama.epsilon)
            gate, up = linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
            x = x + linear(silu(gate) * up, layer.down, layer.down_bias)
        self._position = self._position + 1
        return linear(rms_norm(x, width, llama.norm, llama.epsilon), llama.head)

    def _attended(
        self, q: torch.Tensor, read: tuple[torch.Tensor, torch.Tensor], own: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """q: (rows, key heads, queries of one, size), as the result."""
        on_prompt = self._of_rows(self._of_prompts(q) @ read[0].mT + self._mask[:, None, None])
        seen = torch.cat([on_prompt, q @ own[0].mT], dim=-1).softmax(-1)
        width = on_prompt.shape[-1]
        of_prompt = self._of_rows(self._of_prompts(seen[..., :width]) @ read[1])
        return of_prompt + seen[..., width:] @ own[1]

    def _of_prompts(self, values: torch.Tensor) -> torch.Tensor:
        """(rows, key heads, n, size) as (prompts, key heads, most rows x n, size), 0 where no row is."""
        _, heads, n, size = values.shape
        spread = values.new_zeros(len(self._mask) * self._most, heads, n, size)
        spread[self._places] = values
        apart = spread.view(-1, self._most, heads, n, size).transpose(1, 2)
        return apart.reshape(-1, heads, self._most * n, size)

    def _of_rows(self, values: torch.Tensor) -> torch.Tensor:
        """The way back."""
        prompts, heads, _, size = values.shape
        apart = values.view(prompts, heads, self._most, -1, size).transpose(1, 2)
        return apart.reshape(prompts * self._most, heads, -1, size)[self._places]
