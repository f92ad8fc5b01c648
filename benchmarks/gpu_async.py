"""GRPO on two GPUs: this project in two ways against TRL's experimental AsyncGRPOTrainer, in turn.

    python -m benchmarks.gpu_async SMOLLM2_FOLDER --work w1 [--logs FOLDER]          all contestants in turn
    python -m benchmarks.gpu_async SMOLLM2_FOLDER --work w2 --steps 3 --limit 280 --only ours async
    .venv-vllm/bin/python -m benchmarks.gpu_async TINY_FOLDER --work dry --limit 600  the same code on a CPU

The work is that of `benchmarks.gpu_step`, without a KL term: 256 completions of 300 tokens an update in w1.

    ours-colocated  two processes by the launch layer (DDP), a vLLM in each one beside the trainer
    ours            `rollout_ahead`: a trainer on the first card, `vllm serve` on the second
    async           TRL's: likewise

The cards are the first two of `CUDA_VISIBLE_DEVICES`. Servers are started with the same options. Whatever is
started is started for one contestant alone and killed after it. The same in all: prompts, their order and
tokens, the reward (a count of digits, which differs inside a group), completions in an update, one update a
rollout, learning rate, AdamW without weight decay, bf16 over float32 weights, clipping, no KL term, no end
token (`ignore_eos`), no recomputation. `ours` learns from completions that are one update old, `async` has
`max_staleness` 1, so it throws away what is older, and `ours-colocated` from those of the present policy. Its
figures are those of the first process, with the engine's part of the memory in `trainer_gib`. In w2 our
layers are compiled (`compile_layers`). TRL's sample batches have a fixed count, as packs of a budget
of tokens would make its updates vary in size.

What had to be changed in TRL's trainer: `benchmarks.async_trl`.

In `dry`, no weights are sent to servers, as those of a CPU cannot receive them, and the canary of `ours`,
which would see that, is off; the rest is real (two processes use gloo). `async-loose` has TRL's default
`max_staleness` of 4: Accelerate's loader takes a sample batch more than an update needs before it hands out
the update's last one, so `async` may drop completions that waited for it. Variants `...-recompute` recompute
activations.

A line `RESULT` is the medians over the steps after the second, `mean_...` the means; tokens a second are of
the mean step. Each step is a line `STEP` in the trainer's log, above which TRL's has all that TRL logs.
`wait_s` is what the trainer waits for completions, `update_s` forward and backward passes (TRL: and the
optimiser's step), `sync_s` the weights on their way. `learned_from` are the groups of an update whose
rewards differ; TRL forwards the others too. `kl` is the mean over tokens that TRL logs between the
trainer's and the server's log-probabilities, `mismatch` that of our canary in nats: both must be near 0. A
contestant that reaches the limit is reported with the steps that it made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import TrainerCallback

from artifacts.refs import Ref
from benchmarks import async_trl, gpu_step
from benchmarks.rl_step import PROBLEMS, digits
from tasks.job import Input, Job
from tasks.kinds import Kind
from tasks.rl.prompts import Prompts
from tasks.rl.stage import RLConfig
from tasks.rl.train import build_trainer
from tasks.rollout.engines import vllm as vllm_engine
from tasks.rollout.engines import vllm_server
from tasks.rollout.server import Server, stay_on_loopback
from tasks.rollout.settings import EngineSettings
from tasks.supervise import trees
from tasks.tokenizer import load_tokenizer
from tasks.training.launching import lost_note, train_in_processes
from tasks.training.models import load_policy
from tasks.training.settings import LaunchSettings

BUDGET = {"w2": 8_704}
"""Tokens of a pack of ours where it is not that of `gpu_step`: eight outputs with their prompt, as below."""
_COLOCATED_BUDGET = {"w2": 4_608}
"""The same beside an engine on the card and DDP's copy of the gradients: four outputs."""
MODEL_LENGTH = {"w1": 1_024, "w2": 2_048, "dry": 256}
CONTESTANTS = ("ours-colocated", "ours", "async", "async-loose", "ours", "async", "async-loose")
VARIANTS = ("async-recompute", "ours-recompute", "ours-colocated-recompute")
_WARM_UP = 2
_SERVER_SHARE = 0.6
"""Of the second card's memory; receiving weights needs a few GiB beside it."""
_COLOCATED = EngineSettings(name="vllm", gpu_memory_share=0.3)


def is_colocated(contestant: str) -> bool:
    return "colocated" in contestant


def settings(contestant: str, work: str, steps: int, server: str) -> RLConfig:
    given: dict[str, Any] = {"recompute": contestant.endswith("recompute"), "compile_layers": work == "w2"}
    if is_colocated(contestant):
        given |= {"engine": _COLOCATED, "launch": LaunchSettings(processes=2)}
        budget = _COLOCATED_BUDGET
    else:
        engine = EngineSettings(name="vllm-server", server_url=server)
        given |= {"engine": engine, "rollout_ahead": True}
        budget = BUDGET
    if work in budget:
        given["micro_batch_tokens"] = budget[work]
    return gpu_step.settings(work, steps, kl_coef=0.0, **given)


# ---- this project ------------------------------------------------------------------------------


@contextlib.contextmanager
def changed(work: str) -> Iterator[None]:
    """No end token, for a server too; and in `dry` no weights on their way to it."""
    engine = vllm_server.VllmServerEngine
    body, send = engine._body, engine._send

    def ignoring(*given: Any) -> dict[str, Any]:
        return body(*given) | {"ignore_eos": True}

    def kept(_: Any, weights: Any) -> None:
        for _ in weights:
            pass

    with (
        gpu_step.endless(),
        mock.patch.multiple(engine, _body=ignoring, _send=kept if work == "dry" else send),
    ):
        yield


def train(config: RLConfig, job: Job) -> None:
    """One process of ours. The job's node is the contestant, its stage the work."""
    colocated, work, model_folder = is_colocated(job.node), job.stage, job.inputs["checkpoint"].path
    tokenizer, model = load_tokenizer(model_folder), load_policy(model_folder)
    prompts = Prompts.of(PROBLEMS, config, tokenizer)
    with changed(work):
        if not colocated:
            Server(config.engine.server_url).wait(async_trl.PATIENCE)
        trainer = build_trainer(
            config, job.state, model_folder, model, tokenizer, prompts, digits,
            lost_note=None if colocated else lost_note(job),
        )  # fmt: skip
        trainer.sampler_checked = work == "dry" and not colocated

        def row(log: dict[str, Any]) -> dict[str, Any]:
            return {
                "wait_s": log["r1/generate_s"],
                "update_s": log["r1/update_s"],
                "sync_s": log.get("r1/sync_s", 0.0),
                "staleness": log.get("r1/staleness", 0.0),
                "learned_from": (1 - log["r1/idle_share"]) * config.questions_per_step,
                "completions": config.batch_size,
                "length": log["completions/mean_length"],
                "mismatch": log.get("r1/canary_mismatch"),
            }

        trainer.add_callback(Steps(config.steps, row))
        trainer.train()
        trainer.sampler.engine.close()


# ---- TRL's AsyncGRPOTrainer --------------------------------------------------------------------


def run_async(config: RLConfig, job: Job) -> None:
    trainer, row = async_trl.trainer_of(job.node, job.stage, config, job.inputs["checkpoint"].path, job.state)
    trainer.add_callback(Steps(config.steps, row))
    trainer.train()


# ---- what is measured --------------------------------------------------------------------------


class Steps(TrainerCallback):
    """Prints a line for each step, and ends the process after the last one: what comes then (the end of
    TRL's worker) is not measured. Several processes end by themselves, as one that vanishes could break off
    what another one still receives; without the checkpoint of the end."""

    def __init__(self, steps: int, row: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._steps, self._row, self._ends = steps, row, [time.perf_counter()]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._ends.append(time.perf_counter())
        control.should_save = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" not in logs or not state.is_world_process_zero:
            return
        found = {"step": state.global_step, "step_s": self._ends[-1] - self._ends[-2], **self._row(logs)}
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            torch_gib = torch.cuda.max_memory_allocated() / 2**30
            found |= {"trainer_gib": torch_gib, "gpu_gib": (total - free) / 2**30}
        kept = {name: float(f"{value:.6g}") for name, value in found.items() if value is not None}
        print("STEP " + json.dumps(kept), flush=True)
        if state.global_step >= self._steps and args.world_size == 1:
            os._exit(0)


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Medians of the counted steps; means of what need not be alike in two steps, as TRL drops completions in
    some and has to wait there. The canary's figure is there in the first step only."""
    counted = rows[_WARM_UP:]
    if not counted:
        return {"steps": 0}
    found = {name: statistics.median(row[name] for row in counted if name in row) for name in counted[-1]}
    found |= {name: max(row[name] for row in rows) for name in ("trainer_gib", "gpu_gib") if name in found}
    found |= {
        f"mean_{name}": statistics.mean(row[name] for row in counted)
        for name in ("step_s", "wait_s", "dropped")
        if name in found
    }
    found |= {"mismatch": rows[0]["mismatch"]} if "mismatch" in rows[0] else {}
    found["tokens_per_second"] = found["completions"] * found["length"] / found["mean_step_s"]
    for name in ("step", "dropped"):
        found.pop(name, None)
    return {"steps": len(counted)} | {name: float(f"{value:.5g}") for name, value in found.items()}


# ---- processes ---------------------------------------------------------------------------------


def cards() -> tuple[str, str]:
    """Those of this process's `CUDA_VISIBLE_DEVICES`: the trainer's and the server's."""
    first, _, rest = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").partition(",")
    return first, rest.partition(",")[0]


def start(command: list[str], own: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """In a process group of its own, without a network."""
    offline = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    log.unlink(missing_ok=True)
    return trees.start_session([sys.executable, "-m", *command], os.environ | offline | own, log)


def start_server(model: Path, work: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    """`vllm serve` on the second GPU, with the start-up settings of the project's engine."""
    compilation = {"mode": 0} if work == "dry" else vllm_engine._COMPILATION
    command = [
        "vllm.entrypoints.cli.main", "serve", str(model), "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", str(MODEL_LENGTH[work]), "--max-num-seqs", "512",
        "--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs",
        "--max-logprobs", "-1", "--compilation-config", json.dumps(compilation),
    ]  # fmt: skip
    if work != "dry":
        command += ["--gpu-memory-utilization", str(_SERVER_SHARE)]
    return start(command, {"CUDA_VISIBLE_DEVICES": cards()[1], "VLLM_SERVER_DEV_MODE": "1"}, log)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def contest(
    contestant: str, work: str, steps: int, model: Path, scratch: str, logs: Path, name: str, limit: float
) -> dict[str, Any] | str:
    """One contestant's figures, or what is known of its failure."""
    port, began, colocated = free_port(), time.perf_counter(), is_colocated(contestant)
    log, server_log = logs / f"{name}.log", logs / f"{name}-server.log"
    arguments = ["--here", contestant, "--server", f"http://127.0.0.1:{port}", "--steps", str(steps)]
    command = ["benchmarks.gpu_async", str(model), "--work", work, *arguments]
    visible = ",".join(filter(None, cards())) if colocated else cards()[0]
    running: dict[str, subprocess.Popen[bytes]] = {}
    ended = ""
    try:
        if not colocated:
            running["server"] = start_server(model, work, port, server_log)
        running["trainer"] = start(command, {"CUDA_VISIBLE_DEVICES": visible, "TMPDIR": scratch}, log)
        while not ended:
            time.sleep(0.2)
            for what in filter(lambda what: trees.has_ended(running[what]), running):
                ended = f"the {what} {trees.death(trees.exit_code(running[what]))}"
            if time.perf_counter() - began > limit:
                ended = ended or f"stopped after {limit:.0f} s"
    finally:
        for process in reversed(running.values()):
            trees.stop(process, seconds=0)
    shown = log.read_text(errors="replace")
    rows = [json.loads(line[5:]) for line in shown.splitlines() if line.startswith("STEP ")]
    checks = [json.loads(line[6:]) for line in shown.splitlines() if line.startswith("CHECK ")]
    found: dict[str, Any] = summary(rows) | {"seconds": round(time.perf_counter() - began, 1)}
    found |= {"kernel_check": checks[0]} if checks else {}
    if len(rows) == steps + _WARM_UP:
        return found
    if len(rows) > _WARM_UP:
        return found | {"ended": ended}
    tail = server_log.read_text(errors="replace")[-3_000:] if server_log.exists() else ""
    return f"{ended}\n---- trainer\n{shown[-4_000:]}\n---- server\n{tail}"


def run_here(given: argparse.Namespace, work: str) -> None:
    """The trainer of one contestant, in this process or in those that it starts."""
    config = settings(given.here, work, given.steps + _WARM_UP, given.server)
    source = Input(Ref(kind=Kind.checkpoint, digest="0" * 64), given.model)
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(given.here, work, {"checkpoint": source}, Path(scratch))
        if is_colocated(given.here):
            train_in_processes("benchmarks.gpu_async:train", config, config.launch, job)
        elif given.here.startswith("ours"):
            train(config, job)
        else:
            run_async(config, job)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_async", description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", nargs="+", choices=sorted(gpu_step.WORK), default=["w1", "w2"])
    parser.add_argument("--only", nargs="+", choices=sorted({*CONTESTANTS, *VARIANTS}), default=CONTESTANTS)
    parser.add_argument("--steps", type=int, default=5, help="counted ones; two more are made")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds a contestant")
    parser.add_argument("--logs", type=Path, help="folder that keeps the logs")
    parser.add_argument("--here", help=argparse.SUPPRESS)
    parser.add_argument("--server", help=argparse.SUPPRESS)
    parser.add_argument("--make-qwen", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.model = given.model.resolve()
    if given.make_qwen:
        gpu_step.qwen(given.model, given.make_qwen)
        return
    if given.here:
        run_here(given, given.work[0])
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    stay_on_loopback("http://127.0.0.1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB, of `dry`
    with tempfile.TemporaryDirectory() as scratch:
        logs = given.logs or Path(scratch)
        logs.mkdir(parents=True, exist_ok=True)
        for work in given.work:
            model = given.model
            if work == "w2":
                model = Path(scratch) / "qwen"
                command = [sys.executable, "-m", "benchmarks.gpu_async", str(given.model)]
                subprocess.run([*command, "--make-qwen", str(model)], check=True, timeout=240)
            for number, contestant in enumerate(given.only):
                name = f"{work}-{number}-{contestant}"
                found = contest(contestant, work, given.steps, model, scratch, logs, name, given.limit)
                line = found if isinstance(found, str) else "RESULT " + json.dumps(found)
                print(work, contestant, line, flush=True)


if __name__ == "__main__":
    main()
