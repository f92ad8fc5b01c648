"""RL on a real GPU with the settings of a preset: where a step's time goes, with which engine.

    python -m benchmarks.gpu_rl MODEL_FOLDER                     every case, one after another
    python -m benchmarks.gpu_rl MODEL_FOLDER --case sampling     one
    python -m benchmarks.gpu_rl tasks/tiny_world/weights/tiny-base --preset tiny --case embedded --steps 2
                                                                 the same code on a CPU, to try it

    vllm        8 steps with vLLM in process and the canary; seconds a step by part
    sampling    vLLM in process, 256 sequences at once: tokens a second without and with log-probabilities
    server      `vllm serve` on a second GPU and 3 steps through it; not run with one GPU: NCCL, which
                carries the weights, refuses two processes on one
    embedded    8 steps with the trainer's own model as the sampler

Each case runs in a process of its own and prints one line. Model, prompts' template, lengths and batch are
those of the preset's `rl_zero`; problems and reward are those of `benchmarks.rl_step`, so that nothing has to
be downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu_engines import SERVER, start_server, stop_server
from benchmarks.rl_step import PROBLEMS, digits
from tasks.presets import load_preset
from tasks.rl.prompts import Prompts
from tasks.rl.stage import RLConfig
from tasks.rl.train import build_trainer
from tasks.rollout.engine import SampledModel
from tasks.rollout.engines import open_engine
from tasks.rollout.server import Server
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.models import load_policy

PARTS = ("generate_s", "sync_s", "score_s", "update_s")
_WARM_UP = 1
_SHARE = 0.3
"""Of the GPU's memory, for vLLM."""
_AT_ONCE, _LENGTH = 256, 300

Figures = dict[str, float]


def settings(preset: str, steps: int, engine: EngineSettings) -> RLConfig:
    """The preset's R1-Zero, shortened."""
    kept = {"steps": steps, "engine": engine, "checkpoint_every": 10_000, "curriculum": None}
    return load_preset(preset).r1_zero.model_copy(update=kept)


def steps_with(engine: EngineSettings) -> Callable[[Path, str, int, Path], Figures]:
    def case(model: Path, preset: str, steps: int, scratch: Path) -> Figures:
        begun = time.perf_counter()
        config, tokenizer = settings(preset, steps, engine), load_tokenizer(model)
        prompts = Prompts.of(PROBLEMS, config, tokenizer)
        trainer = build_trainer(
            config, scratch / "trainer", model, load_policy(model), tokenizer, prompts, digits,
            lost_note=scratch / "lost",
        )  # fmt: skip
        opened = time.perf_counter()
        trainer.train()
        found = step_figures(trainer.state.log_history) | {
            "open_s": opened - begun,
            "all_steps_s": time.perf_counter() - opened,
        }
        trainer.sampler.engine.close()
        return found

    return case


def step_figures(log: list[dict[str, float]]) -> Figures:
    """Medians over the steps after the first, and the canary of the first."""
    rows = [entry for entry in log if "r1/update_s" in entry]
    found = {part: statistics.median(row.get(f"r1/{part}", 0.0) for row in rows[_WARM_UP:]) for part in PARTS}
    named = ("canary_mismatch", "canary_stale", "sampler_mismatch")
    seen = {name: row[f"r1/{name}"] for row in rows for name in named if f"r1/{name}" in row}
    tokens = statistics.median(row["r1/tokens_per_second"] for row in rows[_WARM_UP:])
    lengths = statistics.median(row["completions/mean_length"] for row in rows[_WARM_UP:])
    return {
        "step_s": sum(found.values()), **found, **seen, "tokens_per_second": tokens, "mean_length": lengths
    }  # fmt: skip


def sampling(model: Path, preset: str, steps: int, scratch: Path) -> Figures:
    """Every sequence is written to the full length: no token ends it."""
    codec, begun = Codec.of(model), time.perf_counter()
    engine = open_engine(
        EngineSettings(name="vllm", gpu_memory_share=_SHARE), SampledModel(model, frozenset(), longest=1_024)
    )
    found = {"open_s": time.perf_counter() - begun}
    prompts = codec.tokens([p.prompt for p in PROBLEMS[:16]])
    asked = Sampling(max_new_tokens=_LENGTH)
    seeds = [[16 * i + j for j in range(_AT_ONCE // len(prompts))] for i in range(len(prompts))]
    for name, logprobs in (("warm_up", False), ("without_logprobs", False), ("with_logprobs", True)):
        started = time.perf_counter()
        written = sum(len(c.tokens) for c in engine.generate(prompts, asked, seeds, logprobs))
        found[f"tokens_per_second_{name}"] = written / (time.perf_counter() - started)
    engine.close()
    return found


def server(model: Path, preset: str, steps: int, scratch: Path) -> Figures:
    log, begun = scratch / "server.log", time.perf_counter()
    process = start_server(model, log)
    try:
        Server(SERVER).wait()
        up = time.perf_counter() - begun
        engine = EngineSettings(name="vllm-server", server_url=SERVER)
        return {"server_up_s": up, **steps_with(engine)(model, preset, min(steps, 3), scratch)}
    except Exception:
        print(log.read_text()[-3_000:], file=sys.stderr)
        raise
    finally:
        stop_server(process)


CASES: dict[str, Callable[[Path, str, int, Path], Figures]] = {
    "vllm": steps_with(EngineSettings(name="vllm", gpu_memory_share=_SHARE)),
    "sampling": sampling,
    "server": server,
    "embedded": steps_with(EngineSettings()),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_rl",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--case", choices=sorted(CASES), help="run it here, in this process")
    parser.add_argument("--preset", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=8)
    given = parser.parse_args()
    if given.case:
        # TRL refuses a process that sees several GPUs; the server takes the second one for itself.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
        with tempfile.TemporaryDirectory() as scratch:
            found = CASES[given.case](given.model, given.preset, given.steps, Path(scratch))
        print("RESULT " + json.dumps({name: round(value, 4) for name, value in found.items()}), flush=True)
        return
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"{gpu}, torch {torch.__version__}", flush=True)
    for name in CASES:
        if name == "server" and torch.cuda.device_count() < 2:
            print(f"{name:<10} not run: needs a second GPU", flush=True)
            continue
        print(f"{name:<10} {in_process(name, given)}", flush=True)


def in_process(name: str, given: argparse.Namespace) -> str:
    """The case's figures, or the end of its output where it failed."""
    command = [
        sys.executable, "-m", "benchmarks.gpu_rl", str(given.model), "--case", name,
        "--preset", given.preset, "--steps", str(given.steps),
    ]  # fmt: skip
    shown = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in shown.stdout.splitlines():
        if line.startswith("RESULT "):
            found = json.loads(line.removeprefix("RESULT "))
            return "  ".join(f"{key} {value:g}" for key, value in found.items())
    return shown.stdout[-3_000:]


if __name__ == "__main__":
    main()
