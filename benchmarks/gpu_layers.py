"""Forward and backward of single packs on a GPU: milliseconds, utilisation, and which kernels take them.

    python -m benchmarks.gpu_layers                 every case, one after another
    python -m benchmarks.gpu_layers --only pack     one
    python -m benchmarks.gpu_layers --tiny          small shapes, on a CPU too

    attention   the flash kernel's forward and backward for two packs of 16,384 tokens of a Qwen2.5-7B, and
                cuDNN's forward beside it: milliseconds, TFLOP/s, the time that a new shape takes
    layer       four layers of a Qwen2.5-7B in bfloat16, as FSDP2 gives them, that recompute their activations
                on a pack of 16,384 tokens; the same compiled, with attention's results kept, and the
                recomputation around what is compiled or inside of it
    pack        a whole Qwen2.5-1.5B in float32 under autocast, compiled, with TRL's head: seven or twelve
                completions of 1,024 tokens after a prompt of 350, as in W2 of `benchmarks.gpu_step`

Weights and tokens are random. TFLOP/s count the arithmetic of weights and causal attention three times,
recomputation not at all. Kernels' times are torch's profiler's, of one more pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, Qwen2ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from benchmarks.gpu_sft import qwen_config
from tasks.rl import packing
from tasks.training.attention import (
    PackLayout,
    Segments,
    flash_backward,
    flash_forward,
    pack_inputs,
    use_flash_attention,
)
from tasks.training.memory import PUBLISHED, ModelShape
from tasks.training.models import compile_layers
from tasks.training.recompute import keep_attention

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
TINY = ModelShape(64, 128, 2, 4, 2, 16, 500, False)
LAYERS = 4
_KERNELS = 12


def model_of(shape: ModelShape, layers: int, dtype: torch.dtype) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    with DEVICE:
        model = Qwen2ForCausalLM(qwen_config(replace(shape, layers=layers), 32_768)).to(dtype)
    use_flash_attention(model, bf16=True)
    return model.train()


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """Of one call, after one that is not counted."""
    work()
    _wait()
    begun = time.perf_counter()
    for _ in range(times):
        work()
    _wait()
    return (time.perf_counter() - begun) / times


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def show_kernels(work: Callable[[], object]) -> None:
    with profile(activities=[ProfilerActivity.CUDA if ON_GPU else ProfilerActivity.CPU]) as found:
        work()
        _wait()
    attribute = "self_device_time_total" if ON_GPU else "self_cpu_time_total"
    spent = {event.key: getattr(event, attribute) for event in found.key_averages()}
    total = sum(spent.values())
    print(f"    kernels {total / 1e3:.1f} ms:")
    for name in sorted(spent, key=lambda key: -spent[key])[:_KERNELS]:
        print(f"    {spent[name] / 1e3:8.2f} ms {100 * spent[name] / total:5.1f}%  {name[:90]}")


def attention(tiny: bool) -> None:
    if not ON_GPU:
        print("attention  not run: the kernels are for GPUs")
        return
    for lengths in ([172, 84], [256]) if tiny else ([11_000, 5_384], [16_384]):
        _attention_of(lengths)


def _attention_of(lengths: list[int]) -> None:
    shape = PUBLISHED["Qwen/Qwen2.5-Math-7B"]
    q, k, v = (
        torch.randn(sum(lengths), heads, shape.head_size, device=DEVICE, dtype=torch.bfloat16)
        for heads in (shape.heads, shape.key_heads, shape.key_heads)
    )
    rows, scale = Segments.of(np.array(lengths), DEVICE), shape.head_size**-0.5
    forward = partial(flash_forward, q, k, v, rows, rows, True, scale)
    out, lse = forward()
    backward = partial(flash_backward, out, q, k, v, out, lse, rows, rows, True, scale)
    cudnn = partial(
        torch.ops.aten._cudnn_attention_forward, q, k, v, None, rows.starts, rows.starts, rows.longest,
        rows.longest, True, 0.0, True, scale=scale,
    )  # fmt: skip
    begun = time.perf_counter()
    gap = float((cudnn()[0].float() - out.float()).abs().max())
    first = time.perf_counter() - begun
    print(f"attention  {lengths} cuDNN: differs by {gap:.4f}, {first:.2f} s for a new shape")
    arithmetic = sum(2 * shape.heads * shape.head_size * n * n for n in lengths)
    cases = (("flash", forward, 1), ("flash backward", backward, 2.5), ("cuDNN", cudnn, 1))
    for name, work, factor in cases:
        took = seconds(work, 10)
        rate = factor * arithmetic / took / 1e12
        print(f"attention  {lengths} {name}: {took * 1e3:.2f} ms, {rate:.0f} TFLOP/s", flush=True)


def layer(tiny: bool) -> None:
    for named, prepare in RECOMPUTING.items():
        _layer_of(tiny, named, prepare)


def _recompute_around(model: PreTrainedModel) -> None:
    compile_layers(model)
    model.gradient_checkpointing_enable()
    keep_attention(model)


RECOMPUTING: dict[str, Callable[[PreTrainedModel], None]] = {
    "recomputed whole": PreTrainedModel.gradient_checkpointing_enable,
    "compiled, recomputed around, attention kept": _recompute_around,
    "compiled, recomputed inside": partial(compile_layers, recompute=True),
    "compiled, recomputed inside, attention kept": partial(
        compile_layers, recompute=True, keeps_attention=True
    ),
}


def _layer_of(tiny: bool, named: str, prepare: Callable[[PreTrainedModel], None]) -> None:
    shape = TINY if tiny else PUBLISHED["Qwen/Qwen2.5-Math-7B"]
    lengths = [30, 20] if tiny else [11_000, 5_384]
    rows = np.repeat(np.arange(len(lengths)), lengths)
    positions = np.concatenate([np.arange(n) for n in lengths])
    layout = PackLayout(rows, np.zeros_like(rows), positions)
    tokens = torch.randint(0, shape.vocabulary, (1, len(rows)), device=DEVICE)
    places = torch.from_numpy(positions).to(DEVICE)[None]
    model = model_of(shape, LAYERS, torch.bfloat16)
    prepare(model)

    def step() -> None:
        inputs = pack_inputs(layout, model.config, DEVICE)
        out = model.model(input_ids=tokens, position_ids=places, use_cache=False, **inputs)
        out.last_hidden_state.float().pow(2).mean().backward()

    torch._dynamo.reset()
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    took = seconds(step)
    peak = torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else 0.0
    weights = sum(p.numel() for p in model.model.layers.parameters())
    used = _arithmetic(weights, len(rows), shape, LAYERS, sum(n * n / 2 for n in lengths)) / took / 1e12
    print(f"layer  {named}: {took * 1e3 / LAYERS:.1f} ms a layer, {used:.0f} TFLOP/s, peak {peak:.1f} GiB")
    show_kernels(step)


def pack(tiny: bool) -> None:
    for answers in (2, 3) if tiny else (7, 12):
        _pack_of(tiny, answers)


def _pack_of(tiny: bool, answers: int) -> None:
    shape = TINY if tiny else PUBLISHED["Qwen/Qwen2.5-Math-1.5B"]
    length, asked = (8, 5) if tiny else (1_024, 350)
    model = model_of(shape, shape.layers, torch.float32)
    compile_layers(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    draw = np.random.default_rng(0).integers
    prompt = draw(0, shape.vocabulary, asked).tolist()
    written = draw(0, shape.vocabulary, (answers, length)).tolist()
    rows = packing.Rows.from_lists([prompt] * answers, written)
    packed = packing.pack(rows, range(answers))

    def score() -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return packing.score(model, packed, DEVICE)[0]

    def step() -> None:
        score().mean().backward()

    torch._dynamo.reset()
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    took, forward, count = seconds(step), seconds(torch.no_grad()(score)), len(packed.input_ids)
    peak = torch.cuda.max_memory_allocated() / 2**30 if ON_GPU else 0.0
    pairs = answers * length * (asked + length / 2) + asked * asked / 2
    used = _arithmetic(model.num_parameters(), count, shape, shape.layers, pairs) / took / 1e12
    print(
        f"pack  {count} tokens: {took * 1e3:.0f} ms, {used:.0f} TFLOP/s, peak {peak:.1f} GiB; "
        f"forward {forward * 1e3:.0f} ms", flush=True,
    )  # fmt: skip
    show_kernels(step)


def _arithmetic(weights: int, tokens: int, shape: ModelShape, layers: int, pairs: float) -> float:
    """FLOP of a forward and backward pass; `pairs` of a query and a key that it sees."""
    return 6 * weights * tokens + 3 * layers * 4 * shape.heads * shape.head_size * pairs


CASES: dict[str, Callable[[bool], None]] = {"attention": attention, "layer": layer, "pack": pack}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    for name in given.only:
        CASES[name](given.tiny)


if __name__ == "__main__":
    main()
