"""A pack gives every row what the row alone would get."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config
from trl.trainer.utils import add_fused_lm_head

from tasks.rl import packing
from tasks.rl.packing import Rows
from tasks.training.attention import pack_inputs

_SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
SHAPES = {
    "llama": LlamaConfig(**_SIZES),
    "qwen2": Qwen2Config(**_SIZES),
    "mistral, a window of 6 tokens": MistralConfig(**_SIZES, sliding_window=6),
    "gemma 3, a window in every other layer": Gemma3TextConfig(
        **_SIZES, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
}


def rows_of(lengths: list[tuple[int, list[int]]], seed: int = 0) -> Rows:
    """Groups as (tokens of the prompt, tokens of each completion), with random tokens."""
    draw = np.random.default_rng(seed)
    prompts, completions = [], []
    for prompt_tokens, completion_tokens in lengths:
        prompt = draw.integers(0, 50, prompt_tokens).tolist()
        prompts += [prompt] * len(completion_tokens)
        completions += [draw.integers(0, 50, n).tolist() for n in completion_tokens]
    return Rows.from_lists(prompts, completions)


def model_of(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[name], attn_implementation="sdpa")
    add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
    return model.float().eval()


def plain(model: torch.nn.Module, rows: Rows, i: int) -> torch.Tensor:
    """Log-probabilities of the row alone, from its logits."""
    ids = torch.tensor([*rows.prompts[i], *rows.completions[i]])[None]
    start = len(rows.prompts[i])
    logits = model(input_ids=ids).logits[0, start - 1 : -1] / 0.7
    return logits.log_softmax(-1).gather(1, ids[0, start:, None])[:, 0]


@pytest.mark.parametrize("name", SHAPES)
def test_log_probabilities_and_gradients_are_those_of_the_rows_alone(name):
    model, rows = model_of(name), rows_of([(9, [5, 1, 30]), (1, [4, 4]), (40, [12, 70, 3])])
    weights = torch.linspace(-1, 1, sum(map(len, rows.completions)))
    packs = packing.plan(rows, range(len(rows.prompts)), budget=100)
    assert len(packs) > 1
    packed = torch.cat([packing.score(model, packing.pack(rows, p), torch.device("cpu"))[0] for p in packs])
    (packed * weights).sum().backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    alone = torch.cat([plain(model, rows, i) for pack in packs for i in pack])
    (alone * weights).sum().backward()
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    for parameter_name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[parameter_name], parameter.grad, atol=1e-5, rtol=1e-4)


_GROUPS = st.lists(
    st.tuples(st.integers(1, 400), st.lists(st.integers(0, 300), min_size=1, max_size=5)),
    min_size=1, max_size=5,
)  # fmt: skip


@settings(deadline=None)
@given(lengths=_GROUPS, budget=st.integers(1, 1000), at_least=st.integers(1, 6))
def test_every_row_is_in_one_pack_within_the_budget(lengths, budget, at_least):
    rows = rows_of(lengths)
    everything = list(range(len(rows.prompts)))
    packs = packing.plan(rows, everything, budget, at_least)
    assert sorted(i for pack in packs for i in pack) == everything
    assert len(packs) >= min(at_least, len(everything))
    for pack in packs:
        tokens = int((packing.pack(rows, pack).labels != -100).sum())
        shared = sum(rows.shared(i) for i in {int(rows.groups[i]): i for i in pack}.values())
        assert tokens + shared <= budget or len(pack) == 1


def test_a_prompt_is_computed_once_for_its_group_wherever_its_rows_stand():
    in_order = rows_of([(101, [10] * 16), (50, [1] * 4)])
    shuffled = in_order.some(np.random.default_rng(0).permutation(20).tolist())
    everything = Rows.from_lists(shuffled.prompts, shuffled.completions)
    (chosen,) = packing.plan(everything, [i for i in range(20) if len(everything.prompts[i]) == 101], 1_000)
    packed = packing.pack(everything, chosen)
    assert len(packed.input_ids) == 260  # 100 + 16 x 10
    assert int((packed.labels != -100).sum()) == 160


def test_a_layer_of_another_kind_is_refused():
    config = Qwen2Config(**_SIZES, layer_types=["full_attention", "full_attention"])
    config.layer_types = ["full_attention", "linear_attention"]
    packed = packing.pack(rows_of([(3, [2])]), [0])
    with pytest.raises(ValueError, match="linear_attention"):
        pack_inputs(packed.layout, config, torch.device("cpu"))
