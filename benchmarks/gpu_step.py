"""One GRPO step on a GPU: this project's trainer against TRL's GRPOTrainer with colocated vLLM, in turn.

    python -m benchmarks.gpu_step SMOLLM2_FOLDER [--work w1 w2] [--steps 5]   all contestants, a process each
    python -m benchmarks.gpu_step TINY_FOLDER --work dry --only ours             the same code on a CPU

    w1   the model of the folder: 16 questions x 16 outputs of exactly 300 tokens
    w2   a Qwen2.5-1.5B with random weights: 32 x 16 outputs of exactly 1,024 tokens
    dry  the model of the folder: 4 x 4 outputs of 16 tokens, sampled by transformers

The end token is ignored on both sides: a policy that shortens its answers makes any step fast. Rewards, which
are counts of digits, differ inside each group; `learned_from` says of how many groups. The KL coefficient
is 0.001 in all. `trl` is TRL at its defaults but for our batch, `trl-best` with the settings of `BEST`.
Seconds are medians over the steps after the second. `mfu` is that of the update: the tokens that are
forwarded (a group's prompt once), TRL's `compute_flops_per_token` with its causal correction, recomputation
not counted, over 989 TFLOP/s.

`ours-compiled` and `ours-recompute` have a setting changed. Other variants undo one thing (`UNDONE`), so that
what it gains can be told: compare with `ours` in the same run. `ours-whole-logits` has packs of 8,192 tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import PrinterCallback, Qwen2Config, TrainerCallback
from trl.trainer.utils import adjusted_mfu, compute_flops_per_token, compute_mfu

from benchmarks.rl_step import PROBLEMS, UNDO, digits, plain_trl
from tasks.rl import packing, sampler, train
from tasks.rl import trainer as trainer_module
from tasks.rl.packing import Pack, Rows
from tasks.rl.prompts import Prompts
from tasks.rl.stage import RLConfig
from tasks.rl.train import build_trainer
from tasks.rl.trainer import GroupTrainer
from tasks.rollout.engine import Engine, SampledModel
from tasks.rollout.engines import open_engine
from tasks.rollout.settings import EngineSettings
from tasks.tokenizer import load_tokenizer
from tasks.training.attention import pack_inputs
from tasks.training.models import load_policy

_PARTS = ("generate_s", "reward_s", "sync_s", "score_s", "update_s")
PEAK = 989e12
"""FLOP/s of an H100 in bf16, dense."""
_WARM_UP = 2
_SHARE = 0.3
"""Of the GPU's memory, for vLLM, on both sides."""
_VLLM = EngineSettings(name="vllm", gpu_memory_share=_SHARE)

WORK: dict[str, dict[str, Any]] = {
    "w1": {"questions_per_step": 16, "group_size": 16, "max_completion_length": 300, "engine": _VLLM},
    "w2": {"questions_per_step": 32, "group_size": 16, "max_completion_length": 1_024, "engine": _VLLM},
    "dry": {"questions_per_step": 4, "group_size": 4, "max_completion_length": 16},
}
BUDGET = {"w1": 32_768, "w2": 8_192, "dry": 128}
BEST: dict[str, Any] = {
    # No log-probabilities from vLLM and no second scoring of the old policy.
    "vllm_importance_sampling_correction": False,
    "gradient_checkpointing": False,
}
BEST_MICRO_BATCH = {"w1": 64, "w2": 8, "dry": 8}
CONTESTANTS = ("ours", "trl", "trl-best", "ours")
OTHER_BUDGET = {("ours-compiled", "w2"): 12_800, ("ours-whole-logits", "w1"): 8_192}
"""Where compiled layers leave room for longer packs, as they keep less for the backward pass, and where whole
logits leave none."""


def settings(work: str, steps: int, **other: Any) -> RLConfig:
    template = "plain" if work == "dry" else "r1-few-shot"
    given = WORK[work] | {"micro_batch_tokens": BUDGET[work]} | other
    return RLConfig(
        template=template, steps=steps, mini_batches_per_rollout=1, learning_rate=1e-6, bf16=work != "dry",
        checkpoint_every=10_000, **given,
    )  # fmt: skip


def qwen(tokenizer_folder: Path, folder: Path) -> Path:
    """A Qwen2.5-1.5B with random weights; the tokenizer is that of the folder."""
    from transformers import AutoModelForCausalLM

    config = Qwen2Config(
        vocab_size=151_936, hidden_size=1_536, intermediate_size=8_960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tokenizer = load_tokenizer(tokenizer_folder)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def endless() -> Iterator[None]:
    """The trainer that is built inside samples without an end token."""

    def opened(given: EngineSettings, sampled: SampledModel) -> Engine:
        return open_engine(given, replace(sampled, end_tokens=frozenset()))

    with mock.patch.object(train, "open_engine", opened):
        yield


def ours(config: RLConfig, folder: Path, model_folder: Path, variant: str) -> Any:
    tokenizer, model = load_tokenizer(model_folder), load_policy(model_folder)
    prompts = Prompts.of(PROBLEMS, config, tokenizer)
    with endless():
        trainer = build_trainer(config, folder, model_folder, model, tokenizer, prompts, digits)
    return trainer


def theirs(config: RLConfig, folder: Path, model_folder: Path, variant: str, work: str) -> Any:
    best = variant == "trl-best"
    generation: dict[str, Any] = {"generation_kwargs": {"ignore_eos": True}}
    if work != "dry":
        generation |= {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": _SHARE}
        generation |= {"vllm_max_model_length": 2_048}
    if best:
        generation |= BEST
    else:
        generation["gradient_checkpointing"] = True  # TRL's default
    return plain_trl(config, folder, model_folder, BEST_MICRO_BATCH[work] if best else 8, **generation)


# ---- one thing undone --------------------------------------------------------------------------


def _old_policy_scored() -> Any:
    """The old policy's log-probabilities for each rollout, though its first update is on policy."""
    rollout = GroupTrainer._rollout

    def scored(self: GroupTrainer, rows: list[Any]) -> Any:
        batch = rollout(self, rows)
        ids, mask = (
            torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], dim=1)
            for name in ("ids", "mask")
        )
        written = batch["completion_mask"].bool()
        self._scored(self.model, Rows.of(ids, mask, written.shape[1]), written)
        return batch

    return mock.patch.object(GroupTrainer, "_rollout", scored)


def _score_by_whole_logits(
    model: Any, packed: Pack, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `packing.score` returns, by way of all logits of a pack at once."""
    ids, positions, labels, labelled = (
        torch.from_numpy(values).to(device)
        for values in (packed.input_ids, packed.layout.positions, packed.labels, packed.labelled)
    )
    places = pack_inputs(packed.layout, packing._configured(model), device)
    logits = model(input_ids=ids[None], position_ids=positions[None], **places).logits[0]
    logps = logits.float().log_softmax(-1)[labelled]
    return logps.gather(-1, labels[labelled, None])[:, 0], -(logps.exp() * logps).sum(-1)


UNDONE: dict[str, Callable[[], Any]] = {
    "ours-no-shared-prompt": UNDO["a prompt forwarded for every row"],
    "ours-logprobs": lambda: mock.patch.object(sampler, "_SCORED_EVERY", 1),
    "ours-old-policy": _old_policy_scored,
    "ours-whole-logits": lambda: mock.patch.object(packing, "score", _score_by_whole_logits),
    "ours-float32-reference": lambda: mock.patch.object(trainer_module, "halve_linear_layers"),
}
"""Variant -> a context in which one thing of ours is not there."""
VARIANTS = ("ours-recompute", "ours-compiled", *UNDONE)


class Clock(TrainerCallback):
    """The time at which each step ended, told as a line `STEP`: a contestant that is cut off has some."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if len(self.ends) > 1:
            print(f"STEP {len(self.ends)} {self.ends[-1] - self.ends[-2]:.2f} s", flush=True)


@contextmanager
def counted(forwarded: list[int]) -> Iterator[None]:
    """The tokens of each pack that is learned from are appended."""
    score = packing.score

    def counting(model: Any, packed: Pack, device: torch.device) -> Any:
        if torch.is_grad_enabled():
            forwarded.append(len(packed.input_ids))
        return score(model, packed, device)

    with mock.patch.object(packing, "score", counting):
        yield


def measured(variant: str, work: str, steps: int, model_folder: Path, scratch: Path) -> dict[str, Any]:
    begun = time.perf_counter()
    compiled = "compiled" in variant
    config = settings(
        work, steps + _WARM_UP, compile_layers=compiled, recompute="recompute" in variant,
        micro_batch_tokens=OTHER_BUDGET.get((variant, work), BUDGET[work]),
    )  # fmt: skip
    if work == "w2":
        model_folder = qwen(model_folder, scratch / "qwen")
    forwarded: list[int] = []
    with UNDONE.get(variant, nullcontext)(), counted(forwarded):
        if variant.startswith("ours"):
            trainer = ours(config, scratch / "trainer", model_folder, variant)
        else:
            trainer = theirs(config, scratch / "trainer", model_folder, variant, work)
        clock = Clock()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        opened = time.perf_counter()
        trainer.train()
    log = [entry for entry in trainer.state.log_history if "reward" in entry][_WARM_UP:]
    spans = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)][_WARM_UP - 1 :]

    def median(name: str) -> float:
        return statistics.median(entry.get(name, 0.0) for entry in log)

    found = {
        "step_s": statistics.median(spans),
        **{
            part: median(f"r1/{part}") for part in ("generate_s", "reward_s", "sync_s", "score_s", "update_s")
        },
        "tokens": config.batch_size * median("completions/mean_length"),
        "learned_from": round((1 - median("frac_reward_zero_std")) * config.questions_per_step, 1),
        "open_s": opened - begun,
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found |= {"trainer_gib": torch.cuda.max_memory_allocated() / 2**30, "gpu_gib": (total - free) / 2**30}
    if forwarded:
        tokens = sum(forwarded) / (steps + _WARM_UP)
        length = 350 + config.max_completion_length
        found |= {"forwarded": tokens, "mfu": mfu(trainer.model.config, length, tokens / found["update_s"])}
    return {name: round(value, 3) for name, value in found.items()}


def mfu(shape: Any, length: int, tokens_per_second: float) -> float:
    """Of an update, in percent, for rows of `length` tokens."""
    used = compute_mfu(compute_flops_per_token(shape, length), tokens_per_second, 1, PEAK)
    return adjusted_mfu(used, shape, length)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", nargs="+", choices=sorted(WORK), default=["w1", "w2"])
    parser.add_argument("--only", nargs="+", choices=sorted({*CONTESTANTS, *VARIANTS}), default=CONTESTANTS)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--here", action="store_true", help="in this process")
    given = parser.parse_args()
    if given.here:
        with tempfile.TemporaryDirectory() as scratch:
            found = measured(given.only[0], given.work[0], given.steps, given.model, Path(scratch))
        print("RESULT " + json.dumps(found), flush=True)
        return
    for work in given.work:
        for contestant in given.only:
            command = [
                sys.executable, "-m", "benchmarks.gpu_step", str(given.model), "--here", "--work", work,
                "--only", contestant, "--steps", str(given.steps),
            ]  # fmt: skip
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            ) as process:
                assert process.stdout is not None
                last: deque[str] = deque(maxlen=40)
                for line in process.stdout:
                    last.append(line)
                    if line.startswith(("STEP ", "RESULT ")):
                        print(work, contestant, line, end="", flush=True)
            if process.returncode:
                print(work, contestant, f"ended with {process.returncode}:", *last, flush=True)


if __name__ == "__main__":
    main()
