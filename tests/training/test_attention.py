"""Attention over packs. The flash kernel needs a GPU; what is done with its results is tested with functions
that compute the same in plain PyTorch, and on a GPU with the kernel."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from tasks.rl import packing
from tasks.rl.packing import Rows
from tasks.training import attention
from tasks.training.attention import FlashPack, PackedAttention, flash_can, pack_inputs, use_flash_attention
from tasks.training.models import LEAN, compile_layers
from tasks.training.recompute import keep_attention

_CPU = torch.device("cpu")
_GROUPS = st.lists(
    st.tuples(st.integers(1, 20), st.lists(st.integers(0, 12), min_size=1, max_size=4)),
    min_size=1, max_size=4,
)  # fmt: skip


def plain_scores(q, k, queries, keys, causal, scale):
    """(heads, queries, keys) with minus infinity where a query does not see a key."""
    number = [
        torch.repeat_interleave(torch.arange(len(s.starts) - 1), s.starts.diff().long())
        for s in (queries, keys)
    ]
    seen = number[0][:, None] == number[1][None, :]
    assert seen.any(dim=1).all()  # the real kernel would return no number
    seen = seen.tril() if causal else seen
    scores = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)) * scale
    return scores.masked_fill(~seen, -torch.inf)


def plain_forward(q, k, v, queries, keys, causal, scale):
    scores = plain_scores(q, k, queries, keys, causal, scale)
    values = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
    return out, scores.logsumexp(-1)


def plain_backward(grad, q, k, v, out, lse, queries, keys, causal, scale):
    """As the kernel: from the result and the log-sum-exp that it is given, not from its own."""
    shared = q.shape[1] // k.shape[1]
    kk, vv = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    p = (plain_scores(q, k, queries, keys, causal, scale) - lse[..., None]).exp()
    dv = torch.einsum("hqk,qhd->khd", p, grad)
    ds = p * (torch.einsum("qhd,khd->hqk", grad, vv) - (grad * out).sum(-1).T[..., None]) * scale
    dk = torch.einsum("hqk,qhd->khd", ds, q)
    return (
        torch.einsum("hqk,khd->qhd", ds, kk),
        *(x.unflatten(1, (-1, shared)).sum(2) for x in (dk, dv)),
    )


def pack_of(groups):
    """Of questions with prompts and completions of these lengths."""
    prompts = [[i] * prompt for i, (prompt, answers) in enumerate(groups) for _ in answers]
    completions = [[9] * answer for _, answers in groups for answer in answers]
    return packing.pack(Rows.from_lists(prompts, completions), range(len(prompts)))


def layout_of(groups):
    return pack_of(groups).layout


def dense(q, k, v, layout):
    config = LlamaConfig(attn_implementation="sdpa")
    mask = pack_inputs(layout, config, q.device)["attention_mask"]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    return out[0].transpose(0, 1)


def compared(layout, device, dtype):
    """Result and gradients of the pack's attention, and of a dense mask's in float32."""
    found = []
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(len(layout.own), heads, 8, generator=generator) for heads in (4, 2, 2, 4)]
    for flash in (True, False):
        *qkv, grad = (x.to(device, dtype if flash else torch.float32) for x in drawn)
        qkv = [x.detach().requires_grad_() for x in qkv]
        pack = FlashPack.of(layout, device)
        out = PackedAttention.apply(*qkv, pack, 8**-0.5) if flash else dense(*qkv, layout)
        out.backward(grad)
        found.append([out, *(x.grad for x in qkv)])
    return zip(*found, strict=True)


@settings(deadline=None, max_examples=60)
@given(groups=_GROUPS)
def test_two_sets_of_keys_add_up_to_the_attention_over_both(groups):
    layout = layout_of(groups)
    if not len(layout.own):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "flash_forward", plain_forward)
        patch.setattr(attention, "flash_backward", plain_backward)
        for ours, plain in compared(layout, _CPU, torch.float32):
            torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("groups", [[(300, [100, 1, 200])], [(40, [5, 0]), (1, [7, 8]), (130, [129])]])
def test_the_kernel_on_a_gpu_gives_what_a_dense_mask_gives(groups):
    for ours, plain in compared(layout_of(groups), torch.device("cuda"), torch.bfloat16):
        torch.testing.assert_close(ours.float(), plain, atol=3e-2, rtol=3e-2)


def test_the_pieces_of_a_pack():
    """One token of a prompt is repeated for its rows: (4 - 1) shared, then rows of 2 and 1. A prompt of one
    token shares nothing. A question without completions keeps its prompt for itself."""
    pack = FlashPack.of(layout_of([(4, [2, 1]), (1, [3]), (6, [0])]), _CPU)
    assert pack.pieces.starts.tolist() == [0, 3, 5, 6, 9, 14]
    assert pack.pieces.longest == 5
    assert pack.seeing.tolist() == [3, 4, 5]
    assert pack.seen.tolist() == [0, 1, 2]
    assert pack.seeing_segments.starts.tolist() == [0, 3]


def test_rows_that_share_nothing_need_one_call():
    layout = attention.PackLayout(np.array([0, 0, 1]), np.zeros(3, dtype=int), np.array([0, 1, 0]))
    pack = FlashPack.of(layout, _CPU)
    assert (pack.pieces.starts.tolist(), len(pack.seeing)) == ([0, 2, 3], 0)


_SIZES = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "can"),
    [
        (LlamaForCausalLM(LlamaConfig(**_SIZES)), True),
        (LlamaForCausalLM(LlamaConfig(**_SIZES, head_dim=12)), False),
        (Gemma2ForCausalLM(Gemma2Config(**_SIZES, head_dim=8)), False),  # sliding windows, capped logits
    ],
)
def test_models_that_the_kernel_cannot_serve_keep_their_own_attention(model, can, monkeypatch):
    assert flash_can(model) == can
    before = model.config._attn_implementation
    use_flash_attention(model, bf16=True)
    assert model.config._attn_implementation == before  # no GPU here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    use_flash_attention(model, bf16=False)
    assert model.config._attn_implementation == before
    use_flash_attention(model, bf16=True)
    assert model.config._attn_implementation == (attention.FLASH if can else before)


def in_the_kernels_place(monkeypatch):
    """Has the plain functions called; how often each was."""
    runs = Counter()

    def counted(name, kernel):
        def call(*words):
            runs[name] += 1
            return kernel(*words)

        monkeypatch.setattr(attention, name, call)

    counted("flash_forward", plain_forward)
    counted("flash_backward", plain_backward)
    return runs


def model_with(name):
    """The same model each time, with the attention of this name."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**_SIZES)).train()
    add_fused_lm_head(model)
    model.set_attn_implementation(name)
    return model


def scored(model, packs):
    """Log-probabilities and gradients, pack after pack."""
    found = []
    for packed in packs:
        model.zero_grad()
        logps, _ = packing.score(model, packed, _CPU)
        logps.sum().backward()
        found += [logps.detach(), *(p.grad.clone() for p in model.parameters())]
    return found


@pytest.mark.parametrize("recompute", ["nothing", "everything", "all but attention"])
def test_a_model_is_given_its_pack_through_all_layers(monkeypatch, recompute):
    """The same log-probabilities and gradients with the kernel's attention as with a mask."""
    in_the_kernels_place(monkeypatch)
    packs = [pack_of([(3, [2, 3]), (2, [1])])]
    model = model_with(attention.FLASH)
    if recompute != "nothing":
        model.gradient_checkpointing_enable()
    if recompute == "all but attention":
        keep_attention(model)
    for ours, plain in zip(scored(model, packs), scored(model_with("sdpa"), packs), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_a_compiled_layer_is_one_piece_for_every_pack(monkeypatch, kept):
    """Packs of other lengths, with nothing shared or everything, compile nothing again; where layers
    recompute their activations, attention still runs once a layer and direction."""
    runs = in_the_kernels_place(monkeypatch)
    packs = [
        pack_of(groups)
        for groups in (
            [(5, [3, 4]), (6, [2, 2, 7])], [(1, [4, 5])], [(9, [9])], [(20, [30, 1, 2]), (1, [3]), (8, [0])],
        )
    ]  # fmt: skip
    model = model_with(attention.FLASH)
    compile_layers(model, recompute=kept, keeps_attention=kept)
    torch._dynamo.reset()
    counters.clear()
    found = scored(model, packs)
    assert (dict(counters["graph_break"]), counters["stats"]["unique_graphs"]) == ({}, 1)
    assert counters["aot_autograd"]["total"] == 1  # traced once
    # Four packs through two layers; a second set of keys in the three packs that share something.
    assert runs == {"flash_forward": (4 + 3) * 2, "flash_backward": (4 + 3) * 2}
    for ours, plain in zip(found, scored(model_with("sdpa"), packs), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_compiled_layer_keeps_less_than_torch_would_and_no_copy_of_its_weights(monkeypatch):
    """For the backward pass, in float32 under autocast as RL trains."""
    in_the_kernels_place(monkeypatch)
    packed, torchs = pack_of([(31, [40, 32])]), dict.fromkeys(LEAN, True)
    values, copies = {}, {}
    for name in ("ours", "torch's"):
        torch._dynamo.reset()
        with torch._functorch.config.patch(torchs):  # what `compile_layers` sets ends with the block
            model = model_with(attention.FLASH)
            compile_layers(model)
            with torch._functorch.config.patch(torchs if name == "torch's" else {}):
                kept = kept_for_backward(model, packed)
        sizes = [(len(packed.input_ids) in t.shape, t.numel()) for t in kept]
        values[name] = sum(n for of_tokens, n in sizes if of_tokens)
        copies[name] = sum(n for of_tokens, n in sizes if not of_tokens)
    assert (
        copies["torch's"] - copies["ours"]
        > sum(p.numel() for name, p in model.model.layers.named_parameters() if "proj" in name) * 0.9
    )
    assert values["ours"] < 0.8 * values["torch's"]


def kept_for_backward(model, packed):
    """Tensors that autograd saves of a pack, each once, without the parameters."""

    def score():
        with torch.autocast("cpu", torch.bfloat16):
            return packing.score(model, packed, _CPU)

    score()  # compiles
    saved, own = {}, {p.data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.setdefault(t.data_ptr(), t), lambda t: t):
        kept = score()
    del kept
    return [t for place, t in saved.items() if place not in own]
