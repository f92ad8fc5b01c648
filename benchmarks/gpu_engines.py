"""The rollout engines on real GPUs: does each follow the trainer's weights, and how fast is a GRPO update?

    python -m benchmarks.gpu_engines MODEL_FOLDER              every case this machine has the GPUs for
    python -m benchmarks.gpu_engines MODEL_FOLDER --case vllm  one

Each case runs in a process of its own. All update the same model on the same prompts with the same reward;
the first two steps (start-up, compilation) are not counted. `canary_mismatch` is the mean distance, in nats
a token, between the sampler's log-probabilities and the trainer's after the canary's weight change,
`canary_stale` that to the weights as they were before it (must be far), `sampler_mismatch` the first in the
last step that asked for log-probabilities.
`lost-server` kills its vLLM server on the way. `trl` is TRL's own GRPOTrainer with vLLM colocated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file

from artifacts.keys import cache_key
from artifacts.manifest import ManifestDraft
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import read_table, write_table
from benchmarks.rl_step import PROBLEMS, digits, measure, plain_trl
from flows.runner import JobFailed, run_job
from tasks.job import Input, Job, Progress
from tasks.job.spec import BuildSpec, JobSpec
from tasks.kinds import Kind
from tasks.problem import to_table
from tasks.rewards.terms.overlength import Overlength
from tasks.rl.stage import RLConfig
from tasks.rollout.server import Server, stay_on_loopback
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import open_sampler
from tasks.supervise import trees
from tasks.tables import PROBLEMS as PROBLEMS_TABLE
from tasks.tables import TABLES
from tasks.training.settings import LaunchSettings

SERVER = "http://127.0.0.1:8123"
WARM_UP = 2
_SECONDS = 280.0


def settings(engine: EngineSettings, steps: int, processes: int = 1) -> RLConfig:
    return RLConfig(
        template="r1", steps=steps, group_size=16, questions_per_step=16, mini_batches_per_rollout=1,
        learning_rate=1e-6, max_completion_length=200, checkpoint_every=10_000,
        bf16=True, engine=engine, launch=LaunchSettings(processes=processes),
        rewards=(Overlength(buffer=200),),
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
    names = ("generate_s", "sync_s", "score_s", "update_s", "tokens_per_second")
    means = {n: sum(r.get(f"r1/{n}", 0.0) for r in rows) / len(rows) for n in names}
    # Known in every tenth step only where log-probabilities cost something.
    gaps = [entry["r1/sampler_mismatch"] for entry in log if "r1/sampler_mismatch" in entry]
    return canary | means | {"sampler_mismatch": gaps[-1] if gaps else float("nan")}


def ours(engine: EngineSettings) -> Callable[[Path, int, Path], dict[str, float]]:
    def case(model: Path, steps: int, scratch: Path) -> dict[str, float]:
        from tasks.rl.prompts import Prompts
        from tasks.rl.train import build_trainer
        from tasks.tokenizer import load_tokenizer
        from tasks.training.models import load_policy

        config, tokenizer = settings(engine, steps), load_tokenizer(model)
        prompts = Prompts.of(PROBLEMS, config, tokenizer)
        trainer = build_trainer(
            config, scratch, model, load_policy(model), tokenizer, prompts, digits, lost_note=scratch / "lost"
        )
        speed = measure(trainer, WARM_UP)
        return {"seconds_per_step": speed.seconds_per_step, **figures(trainer.state.log_history)}

    return case


def trl(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    colocated = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": 0.3,
        "vllm_max_model_length": 360,
    }
    trainer = plain_trl(settings(EngineSettings(), steps), scratch, model, **colocated)
    return {"seconds_per_step": measure(trainer, WARM_UP).seconds_per_step}


def inputs(model: Path, scratch: Path) -> dict[str, tuple[Kind, Path]]:
    """The stage's inputs, laid out like artifacts."""
    problems, checkpoint = scratch / "problems", scratch / "checkpoint"
    rows = to_table(replace(p, answer="1") for p in PROBLEMS)
    write_table(problems / "problems.parquet", rows, PROBLEMS_TABLE)
    checkpoint.mkdir()
    (checkpoint / "model").symlink_to(model.resolve())
    return {"checkpoint": (Kind.checkpoint, checkpoint), "problems": (Kind.problems, problems)}


def stage_figures(artifact: Path) -> dict[str, float]:
    """From a finished stage's metrics."""
    rows = read_table(artifact / "metrics.parquet").to_pylist()
    steps = range(1 + max(r["step"] for r in rows))
    found = figures([{f"r1/{r['name']}": r["value"] for r in rows if r["step"] == step} for step in steps])
    spent = sum(found[name] for name in ("generate_s", "sync_s", "score_s", "update_s"))
    return {"seconds_per_step": spent, **found}


def two_processes(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    """The whole stage, in two processes with vLLM colocated in each, rewarded for short answers."""
    from tasks.rl import train as rl

    given = {
        name: Input(Ref(kind=kind, digest="0" * 64), path)
        for name, (kind, path) in inputs(model, scratch).items()
    }
    job = Job("two", "rl-zero", given, scratch / "work")
    for folder in (job.state, job.draft):
        folder.mkdir(parents=True)
    rl.run(settings(EngineSettings(name="vllm", gpu_memory_share=0.3), steps, processes=2), job)
    return stage_figures(job.draft)


def lost_server(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    """The whole stage as the flows run it; its vLLM server is killed after three steps and started again."""
    config = settings(EngineSettings(name="vllm-server", server_url=SERVER), steps)
    config = config.model_copy(update={"checkpoint_every": 2})
    spec, store = job_spec(config, model, scratch)
    log, killed, begun = scratch / "server.log", [], time.perf_counter()
    servers = [start_server(model, log, "--enforce-eager")]

    def kill_once(progress: Progress) -> None:
        print(f"{time.perf_counter() - begun:.0f} s: {progress.message}", file=sys.stderr, flush=True)
        if progress.done >= 3 and not killed:
            killed.append(time.perf_counter())
            os.killpg(servers[0].pid, signal.SIGKILL)
            servers.append(start_server(model, log, "--enforce-eager"))

    try:
        (result,) = run_job(spec, kill_once).results
    except JobFailed:
        for text in (log, *sorted((spec.work_root / "jobs").glob("*/log.txt"))):
            print(f"---- {text}\n{text.read_text()[-3_000:]}", file=sys.stderr)
        raise
    finally:
        for server in servers:
            stop_server(server)
    artifact = store.fetch(result.ref)
    drawn = read_table(artifact / "samples.parquet")
    return {
        "killed_at_s": killed[0] - begun,
        "done_at_s": time.perf_counter() - begun,
        "job_starts": len(list((spec.work_root / "jobs").iterdir())),
        "completions_a_step": drawn.num_rows / steps,
        **stage_figures(artifact),
    }


def job_spec(config: RLConfig, model: Path, scratch: Path) -> tuple[JobSpec, ArtifactStore]:
    store, parents = ArtifactStore.open(str(scratch / "store")), {}
    for name, (kind, folder) in inputs(model, scratch).items():
        draft = shutil.copytree(folder, scratch / f"draft-{name}")
        key = cache_key(name, 1, {}, {})
        draft_of = ManifestDraft(kind=kind, stage="benchmark", stage_version=1, node=name, key=key)
        parents[name] = store.publish(draft, draft_of, TABLES)
    build = BuildSpec(
        node="r1-zero", stage="rl-zero", config=config.model_dump(mode="json"), inputs=parents,
        key=cache_key("rl-zero", 1, {}, parents), ref_name="benchmark/r1-zero",
    )  # fmt: skip
    os.environ["R1_STORE"] = str(scratch / "store")
    return JobSpec(preset="benchmark", builds=(build,), work_root=scratch / "work"), store


def sampling(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    """vLLM in process, as evaluation and curation use it: 512 completions twice with the same seeds."""
    sampler = open_sampler(EngineSettings(name="vllm", gpu_memory_share=0.6), model)
    prompts = [f"User: {p.prompt} Assistant:" for p in PROBLEMS] * 2
    asked = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=200)
    first = sampler.generate(prompts, asked, 7)
    started = time.perf_counter()
    second = sampler.generate(prompts, asked, 7)
    seconds = time.perf_counter() - started
    sampler.close()
    same = share_of_equals([c.text for c in first], [c.text for c in second])
    return {"tokens_per_second": sum(c.completion_tokens for c in second) / seconds, "same_text_share": same}


def server_sampling(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    """A vLLM server, as evaluation uses it: other weights pushed; the server killed while it writes."""
    other = sharpened(model, scratch / "other")
    log, begun = scratch / "server.log", time.perf_counter()
    servers = [start_server(model, log, "--enforce-eager")]
    settings = EngineSettings(name="vllm-server", server_url=SERVER)
    prompts = [p.prompt for p in PROBLEMS] * 2
    asked = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=200)

    def restart() -> None:
        stop_server(servers[0])
        servers.append(start_server(model, log, "--enforce-eager"))

    killer = threading.Timer(1.0, restart)
    try:
        Server(SERVER).wait()
        texts = {}
        for name, folder in (("base", model), ("other", other)):
            sampler = open_sampler(settings, folder)
            texts[name] = [c.text for c in sampler.generate(prompts, asked, 7)]
        killer.start()
        killed = time.perf_counter()
        again = [c.text for c in sampler.generate(prompts, asked, 7)]
        seconds = time.perf_counter() - killed
    except Exception:
        print(log.read_text()[-3_000:], file=sys.stderr)
        raise
    finally:
        killer.cancel()
        if killer.ident:
            killer.join()
        for server in servers:
            stop_server(server)
    return {
        "first_server_s": killed - begun,
        "killed_to_done_s": seconds,
        "same_after_restart": share_of_equals(texts["other"], again),
        "same_with_other_weights": share_of_equals(texts["other"], texts["base"]),
    }


def sharpened(model: Path, folder: Path) -> Path:
    """A copy of the model in `folder` whose logits are half as large again."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def share_of_equals(ours: list[str], theirs: list[str]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def start_server(model: Path, log: Path, *options: str) -> subprocess.Popen[bytes]:
    """`vllm serve` on the second GPU, its weights open to TRL's client; the trainer has the first one."""
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), "--host", "127.0.0.1",
        "--port", SERVER.rpartition(":")[2], "--max-model-len", "1024", "--gpu-memory-utilization", "0.4",
        "--weight-transfer-config", '{"backend": "nccl"}', "--logprobs-mode", "processed_logprobs",
        "--max-logprobs", "-1", *options,
    ]  # fmt: skip
    stay_on_loopback(SERVER)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "1", "VLLM_SERVER_DEV_MODE": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def stop_server(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def through_server(model: Path, steps: int, scratch: Path) -> dict[str, float]:
    log = scratch / "server.log"
    server = start_server(model, log)
    try:
        return ours(EngineSettings(name="vllm-server", server_url=SERVER))(model, steps, scratch / "run")
    except Exception:
        print("".join(log.read_text().splitlines(keepends=True)[-15:]), file=sys.stderr)
        raise
    finally:
        stop_server(server)


CASES: dict[str, tuple[int, Callable[[Path, int, Path], dict[str, float]]]] = {
    "vllm": (1, ours(EngineSettings(name="vllm", gpu_memory_share=0.3))),
    "trl": (1, trl),
    "vllm-server": (2, through_server),
    "lost-server": (2, lost_server),
    "two-processes": (2, two_processes),
    "transformers": (1, ours(EngineSettings(batch_size=256))),
    "sampling": (1, sampling),
    "server-sampling": (2, server_sampling),
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
    visible = {} if CASES[name][0] > 1 and "server" not in name else {"CUDA_VISIBLE_DEVICES": "0"}
    process = subprocess.Popen(
        command, env=os.environ | visible, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=_SECONDS)[0]
    except subprocess.TimeoutExpired:
        trees.end([psutil.Process(process.pid)], seconds=0)
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
