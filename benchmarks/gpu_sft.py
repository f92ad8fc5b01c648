"""SFT of a full Qwen2.5-7B architecture on one or more GPUs, through the stage's own code.

    python -m benchmarks.gpu_sft size --processes 2     updates of 64 rows: tokens/s, utilisation, memory
    python -m benchmarks.gpu_sft resume --processes 2   updates of 8 rows; killed after a checkpoint, resumed
    python -m benchmarks.gpu_sft lora                   updates of adapters on one card
    python -m benchmarks.gpu_sft size --tiny            the same code with a tiny shape, an eighth of the rows

    --context 16384     tokens of the longest row and of a micro-batch (32,768)
    --fill full         every row as long as the context; `mixed` (default): from an eighth of it to all of it
    --optimizer adamw_8bit    needs torchao
    --compile           with `compile_layers`
    --rows 64           of an update (`resume`: 8)
    --publish           write the trained model too (30 GB of float32)

Weights are random and made here from the configuration, tokens are those of the tiny world: nothing is
downloaded. Encoding, packing, the launch layer, the optimiser and checkpoints are those of `tasks.sft`. Left
out is only the probe after training, since a few updates do not teach a random model to end. Utilisation is
TRL's `compute_flops_per_token` with its causal correction at each row's length (adapters: two thirds, as base
weights get no gradient), recomputation not counted, over 989 TFLOP/s. The first update compiles and is left
out. Disk: 15 GB for the model, 91 GB for a checkpoint of `resume`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl.trainer.utils import adjusted_mfu, compute_flops_per_token

from artifacts.refs import Ref
from artifacts.tables import write_table
from tasks.job import Input, Job
from tasks.kinds import Kind
from tasks.settings import REPOSITORY
from tasks.sft import train as sft
from tasks.sft.memory import sft_memory
from tasks.sft.stage import SFTConfig
from tasks.sft.tokens import token_rows
from tasks.tables import SFT as SFT_TABLE
from tasks.tokenizer import load_tokenizer
from tasks.training.checkpoints import newest_checkpoint
from tasks.training.launching import process_number, train_in_processes
from tasks.training.memory import PUBLISHED, ModelShape
from tasks.training.row_order import row_order
from tasks.training.settings import LaunchSettings, LoraSettings

PEAK = 989e12
"""FLOP/s of an H100 in bf16, dense."""
TOKENIZER = REPOSITORY / "tasks/tiny_world/weights/tiny-base/"
QWEN = PUBLISHED["Qwen/Qwen2.5-Math-7B"]
TINY = ModelShape(64, 192, 2, 4, 2, 16, 4_096, False)
_GIB = 2**30
_STARTED = time.time()
"""Of this process."""


def qwen_config(shape: ModelShape, context: int) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied, max_position_embeddings=context, bos_token_id=None,
    )  # fmt: skip


def write_model(shape: ModelShape, context: int, folder: Path) -> None:
    """Random weights in bfloat16, made on the GPU where there is one."""
    tokenizer = load_tokenizer(TOKENIZER)
    tokenizer.save_pretrained(folder)
    config = qwen_config(shape, context)
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        Qwen2ForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    torch.cuda.empty_cache()  # this process lives on beside those that train


def write_rows(lengths: list[int], folder: Path) -> None:
    """Rows of so many tokens, of which about 30 are the prompt."""
    tokenizer = load_tokenizer(TOKENIZER)
    word = next(w for w in (" the", " is", " first", " so") if len(tokenizer(w).input_ids) == 1)
    prompt = "User: what is 1 + 2? Assistant:"
    spent = len(tokenizer(prompt).input_ids) + 1  # and the end token
    rows = [
        {"problem_id": str(i), "domain": "math", "language": "en", "prompt": prompt,
         "completion": word * (length - spent), "source": "benchmark"}
        for i, length in enumerate(lengths)
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "sft.parquet", rows, SFT_TABLE)


class Meter(TrainerCallback):
    """One line an update and process in `meter-N.jsonl`; no checkpoint after the last update."""

    def __init__(self, folder: Path, checkpoints: bool) -> None:
        self._path = folder / f"meter-{process_number()}.jsonl"
        self._checkpoints, self._begun, self._ended = checkpoints, 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell(f"training begins after update {state.global_step}")

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self._ended = _now()
        memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        line = {"step": state.global_step, "seconds": self._ended - self._begun, "peak": memory}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._tell(f"update {state.global_step}: {line['seconds']:.2f} s, peak {memory / _GIB:.1f} GiB")
        control.should_save &= self._checkpoints and state.global_step < args.max_steps
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._tell(f"checkpoint {state.global_step} sealed {_now() - self._ended:.1f} s after its update")

    def _tell(self, what: str) -> None:
        if process_number() == 0:
            print(f"{time.time() - _STARTED:6.1f} s  {what}", flush=True)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def train(config: SFTConfig, job: Job) -> None:
    """The stage's `train` with a meter; what each process runs."""
    asked = json.loads((job.folder / "asked.json").read_text())
    build = sft.build_trainer

    def metered(*args: Any) -> Any:
        trainer = build(*args)
        trainer.add_callback(Meter(job.folder, asked["mode"] == "resume"))
        return trainer

    leave = sft._leave if asked["publish"] else lambda *_: None
    with mock.patch.multiple(sft, build_trainer=metered, _leave=leave):
        sft.train(config, job)


def settings(args: argparse.Namespace) -> SFTConfig:
    """The paper's for a 7B student (B.4.3, Table 6), in updates of 64 rows or 8."""
    usual = {"size": 64, "resume": 8, "lora": 64}[args.mode] // (8 if args.tiny else 1)
    rows = args.rows or max(usual, 2)  # one for each process
    launch = LaunchSettings(processes=args.processes, strategy="fsdp2" if args.processes > 1 else "ddp")
    return SFTConfig(
        epochs=1, batch_size=rows, micro_batch_tokens=args.context, max_length=args.context,
        learning_rate=8e-5, bf16=True, launch=launch, optimizer=args.optimizer,
        recompute=True, compile_layers=args.compile, checkpoint_every=2 if args.mode == "resume" else 1_000,
        lora=LoraSettings() if args.mode == "lora" else None,
    )  # fmt: skip


def job_in(scratch: Path) -> Job:
    kinds = {"checkpoint": Kind.checkpoint, "dataset": Kind.dataset}
    inputs = {name: Input(Ref(kind=kind, digest="0" * 64), scratch / name) for name, kind in kinds.items()}
    job = Job("student", "distill", inputs, scratch / "work")
    for place in (job.state, job.draft):
        place.mkdir(parents=True, exist_ok=True)
    return job


def run_job(config: SFTConfig, job: Job) -> None:
    """As `tasks.sft.train.run` does it."""
    token_rows(job, load_tokenizer(job.inputs["checkpoint"].path / "model"))
    if config.launch.processes > 1:
        train_in_processes("benchmarks.gpu_sft:train", config, config.launch, job)
    else:
        train(config, job)


def report(config: SFTConfig, job: Job, shape: ModelShape) -> dict[str, Any]:
    """Of the updates of this life but the first, in which kernels are compiled."""
    lines = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in job.folder.glob("meter-*")
    ]
    slowest = [max(steps, key=lambda s: s["seconds"]) for steps in zip(*lines, strict=False)][1:]
    if not slowest:
        return {"updates": 0}
    seconds = sum(step["seconds"] for step in slowest)
    lengths = token_rows(job, load_tokenizer(job.inputs["checkpoint"].path / "model")).lengths
    order = np.array(row_order(lengths, config.epochs, config.batch_size, config.seed))
    updates = lengths[order.reshape(-1, config.batch_size)]
    done = np.concatenate([updates[step["step"] - 1] for step in slowest])
    estimate = sft_memory(shape, config, torch.cuda.is_available(), sft.has_room_here(shape, config))
    used = _flops(done, shape, config) / seconds / PEAK / config.launch.processes
    return {
        "rows": config.batch_size, "context": config.max_length, "processes": config.launch.processes,
        "optimizer": config.optimizer, "lora": config.lora is not None, "updates": len(slowest),
        "tokens_an_update": int(done.sum() / len(slowest)),
        "seconds_an_update": round(seconds / len(slowest), 3),
        "tokens_per_second": round(done.sum() / seconds), "mfu_percent": round(100 * used, 2),
        "peak_gib": round(max(s["peak"] for process in lines for s in process) / _GIB, 2),
        "estimate_gib": round(estimate.peak / _GIB, 2),
    }  # fmt: skip


def _flops(lengths: np.ndarray, shape: ModelShape, config: SFTConfig) -> float:
    model = qwen_config(shape, config.max_length)
    full = sum(n * adjusted_mfu(compute_flops_per_token(model, n), model, n) for n in lengths.tolist())
    return full * (2 / 3 if config.lora else 1)


def killed_after_a_checkpoint(command: list[str], job: Job) -> int:
    """Runs the job until it has sealed a checkpoint, then SIGKILLs it; returns the checkpoint's step."""
    process = subprocess.Popen(command, start_new_session=True)
    while not list((job.state / "trainer").glob("checkpoint-*/complete.json")):
        if process.poll() is not None:
            raise RuntimeError(f"the job ended with {process.returncode} before a checkpoint")
        time.sleep(0.5)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        os.kill(member.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=60)
    checkpoint = newest_checkpoint(job.state / "trainer")
    assert checkpoint is not None
    return int(checkpoint.name.rpartition("-")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("mode", choices=["size", "resume", "lora"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--context", type=int, default=32_768)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--fill", choices=["mixed", "full"], default="mixed")
    parser.add_argument("--optimizer", choices=["adamw", "adamw_8bit"], default="adamw")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--scratch", type=Path, help="kept; a job found there goes on")
    args = parser.parse_args()
    if args.tiny:
        args.context = 64
    if args.mode == "resume":
        args.steps = max(args.steps, 4)  # killed after two, and the first one after that compiles
    with tempfile.TemporaryDirectory() as temporary:
        scratch = args.scratch or Path(temporary)
        shape, config, job = TINY if args.tiny else QWEN, settings(args), job_in(scratch)
        if not (scratch / "dataset").exists():
            least = 1 / 8 if args.fill == "mixed" else 1
            shares = np.linspace(least, 1, config.batch_size)
            lengths = (shares * args.context).astype(int).tolist() * args.steps
            write_model(shape, args.context, scratch / "checkpoint/model")
            write_rows(lengths, scratch / "dataset")
            asked = {"mode": args.mode, "publish": args.publish}
            (job.folder / "asked.json").write_text(json.dumps(asked))
            if args.mode == "resume":
                step = killed_after_a_checkpoint([*_again(args), "--scratch", str(scratch)], job)
                print(f"killed; the newest whole checkpoint is of step {step}", flush=True)
                print(json.dumps(report(config, job, shape)), flush=True)
                for meter in job.folder.glob("meter-*"):
                    meter.unlink()
        run_job(config, job)
        print(json.dumps(job.headline | report(config, job, shape)), flush=True)


def _again(args: argparse.Namespace) -> list[str]:
    given = {"processes": args.processes, "context": args.context, "fill": args.fill,
             "optimizer": args.optimizer, "steps": args.steps, "rows": args.rows}  # fmt: skip
    flags = [part for name, value in given.items() if value for part in (f"--{name}", str(value))]
    flags += [f"--{name}" for name in ("tiny", "compile") if getattr(args, name)]
    return [sys.executable, "-m", "benchmarks.gpu_sft", args.mode, *flags]


if __name__ == "__main__":
    main()
