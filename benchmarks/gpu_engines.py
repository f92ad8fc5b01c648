"""The rollout engines on real GPUs: does each follow the trainer's weights, and how fast is a GRPO update?

    python -m benchmarks.gpu_engines MODEL_FOLDER              every case this machine has the GPUs for
    python -m benchmarks.gpu_engines MODEL_FOLDER --case vllm  one

Each case runs in a process of its own. All update the same model on the same prompts with the same reward;
the first two steps (start-up, compilation) are not counted. `gap` is the mean distance, in nats a token,
between the sampler's log-probabilities and the trainer's: after the canary's weight change, to the weights as
they were before it (must be far), and over the steps. `trl` is TRL's own GRPOTrainer with vLLM colocated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from artifacts.refs import Kind, Ref
from artifacts.tables import read_table, write_table
from benchmarks.rl_step import PROBLEMS, digits, measure, plain_trl
from tasks.config import EngineSettings, LaunchSettings, RewardTerm, RLConfig, Sampling
from tasks.job import Input, Job
from tasks.problems.problem import to_table
from tasks.rollout.engine import open_engine

SERVER = "http://127.0.0.1:8123"
WARM_UP = 2
_SECONDS = 240.0


def settings(engine: EngineSettings, steps: int, processes: int = 1) -> RLConfig:
    return RLConfig(
        template="r1", steps=steps, group_size=16, questions_per_step=16, mini_batches_per_rollout=1,
        micro_batch_size=64, learning_rate=1e-6, max_completion_length=200, checkpoint_every=10_000,
        bf16=True, engine=engine, launch=LaunchSettings(processes=processes),
        rewards=(RewardTerm(name="overlength"),), overlength_buffer=200,
    )  # fmt: skip


def figures(log: list[dict[str, Any]]) -> dict[str, float]:
    """From a trainer's log: the canary's gaps, and means over the counted steps."""
    canary = {
        name: entry[f"r1/{name}"]
        for entry in log
        for name in ("canary_mismatch", "canary_stale")
        if f"r1/{name}" in entry
    }
    rows = [entry for entry in log if "r1/update_s" in entry][WARM_UP:]
    names = ("generate_s", "sync_s", "score_s", "update_s", "tokens_per_second", "sampler_mismatch")
    return canary | {n: sum(r[f"r1/{n}"] for r in rows) / len(rows) for n in names}


def ours(engine: EngineSettings) -> Callable[[Path, int, Path], dict[str, float]]:
    def case(model: Path, steps: int, scratch: Path) -> dict[str, float]:
        from tasks.train.models import load_policy, load_tokenizer
        from tasks.train.rl import Prompts, build_trainer

        config, tokenizer = settings(engine, steps), load_tokenizer(model)
        prompts = Prompts.of(PROBLEMS, config, tokenizer)
        trainer = build_trainer(config, scratch, load_policy(model), tokenizer, prompts, digits)
        speed = measure(trainer, WARM_UP)
        return {"seconds_per_step": speed.seconds_per_step, **figures(trainer.state.log_history)}

    return case


def trl(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    trainer = plain_trl(settings(EngineSettings(name="vllm", gpu_memory_share=0.3), steps), scratch, model)
    return {"seconds_per_step": measure(trainer, WARM_UP).seconds_per_step}


def two_processes(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    """The whole stage, in two processes with vLLM colocated in each, rewarded for short answers."""
    from tasks.train import rl

    write_table(
        scratch / "in" / "problems.parquet", to_table(replace(p, answer="1") for p in PROBLEMS), "problems"
    )
    (scratch / "model-in").mkdir()
    (scratch / "model-in" / "model").symlink_to(model.resolve())
    inputs = {
        "checkpoint": (Kind.checkpoint, scratch / "model-in"),
        "problems": (Kind.problems, scratch / "in"),
    }
    given = {name: Input(Ref(kind=kind, digest="0" * 64), path) for name, (kind, path) in inputs.items()}
    job = Job("two", "rl-zero", given, scratch / "work")
    for folder in (job.state, job.draft):
        folder.mkdir(parents=True)
    rl.run(settings(EngineSettings(name="vllm", gpu_memory_share=0.3), steps, processes=2), job)
    rows = read_table(job.draft / "metrics.parquet").to_pylist()
    log = [{f"r1/{r['name']}": r["value"] for r in rows if r["step"] == step} for step in range(steps)]
    found = figures(log)
    return {
        "seconds_per_step": found["generate_s"] + found["sync_s"] + found["score_s"] + found["update_s"],
        **found,
    }


def sampling(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    """`VllmEngine`, as evaluation and curation use it: 512 completions twice with the same seeds."""
    engine = open_engine(EngineSettings(name="vllm", gpu_memory_share=0.6), model)
    prompts = [f"User: {p.prompt} Assistant:" for p in PROBLEMS] * 2
    asked = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=200)
    first = engine.generate(prompts, asked, 7)
    started = time.perf_counter()
    second = engine.generate(prompts, asked, 7)
    seconds = time.perf_counter() - started
    engine.close()
    same = sum(a.text == b.text for a, b in zip(first, second, strict=True)) / len(prompts)
    return {"tokens_per_second": sum(c.completion_tokens for c in second) / seconds, "same_text_share": same}


@contextmanager
def server(model: Path, log: Path) -> Any:
    """`vllm serve` on the second GPU, its weights open to TRL's client; the trainer has the first one."""
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), "--host", "127.0.0.1",
        "--port", SERVER.rpartition(":")[2], "--max-model-len", "1024", "--gpu-memory-utilization", "0.5",
        "--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs",
        "--max-logprobs", "-1",
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "1", "VLLM_SERVER_DEV_MODE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def through_server(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    with server(model, scratch / "server.log"):
        try:
            return ours(EngineSettings(name="vllm-server", server_url=SERVER))(model, steps, scratch / "run")
        except Exception:
            print(
                "".join((scratch / "server.log").read_text().splitlines(keepends=True)[-15:]), file=sys.stderr
            )
            raise


CASES: dict[str, tuple[int, Callable[[Path, int, Path], dict[str, float]]]] = {
    "vllm": (1, ours(EngineSettings(name="vllm", gpu_memory_share=0.3))),
    "trl": (1, trl),
    "vllm-server": (2, through_server),
    "two-processes": (2, two_processes),
    "transformers": (1, ours(EngineSettings(batch_size=256))),
    "sampling": (1, sampling),
}
"""Name -> GPUs it needs, and what it runs."""


def run_one(name: str, model: Path, steps: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        found = CASES[name][1](model, steps, Path(scratch))
    print("RESULT " + json.dumps({k: round(v, 4) for k, v in found.items()}), flush=True)


def in_process(name: str, model: Path, steps: int) -> dict[str, float] | str:
    """The case's figures, or the end of its output where it failed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_engines",
        str(model),
        "--case",
        name,
        "--steps",
        str(steps),
    ]
    visible = {} if name == "two-processes" else {"CUDA_VISIBLE_DEVICES": "0"}
    process = subprocess.Popen(
        command, env=os.environ | visible, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=_SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output = process.communicate()[0] + f"\nlonger than {_SECONDS:.0f} s"
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    return output[-3_000:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_engines", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--case", choices=sorted(CASES), help="run it here, in this process")
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    if options.case:
        run_one(options.case, options.model, options.steps)
        return
    gpus = torch.cuda.device_count()
    print(f"{gpus} x {torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    for name in options.only:
        if (needed := CASES[name][0]) > gpus:
            print(f"{name:<15} not run: needs {needed} GPUs", flush=True)
            continue
        found = in_process(name, options.model, options.steps)
        shown = found if isinstance(found, str) else "  ".join(f"{k} {v:g}" for k, v in found.items())
        print(f"{name:<15} {shown}", flush=True)


if __name__ == "__main__":
    main()
