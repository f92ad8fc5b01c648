"""One training run in several processes on this machine, with Accelerate's data parallelism or sharding.

    ddp                 each process holds the model; gradients are averaged
    fsdp2               weights, gradients and optimiser are shared out (torch `fully_shard`)
    deepspeed-zero2, 3  the same through DeepSpeed (to be installed by hand); ZeRO-2 keeps whole weights

Each process draws and scores its share of the rollout; a draw depends on the row's place in the whole, so
the completions are those of a single process. `torchrun` starts them; they live in the job's process group,
so that cancelling the job ends them all. A stop reaches every one and is agreed on at a step's end.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from artifacts.refs import Ref
from tasks.job import Input, Job, ServiceLost, StopRequested, write_json
from tasks.settings import Settings
from tasks.training.settings import LaunchSettings

_STOPPED = 3
_POLL = 0.2
_CHECKPOINT_SECONDS = 30


def sharding_arguments(launch: LaunchSettings) -> dict[str, Any]:
    """The strategy as arguments of the Trainer."""
    if launch.strategy == "fsdp2":
        return {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True}}
    if launch.strategy.startswith("deepspeed"):
        return {"deepspeed": _deepspeed(int(launch.strategy[-1]))}
    return {}


def _deepspeed(stage: int) -> dict[str, Any]:
    automatic = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    return {
        "zero_optimization": {"stage": stage, "stage3_gather_16bit_weights_on_model_save": stage == 3},
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        **dict.fromkeys(automatic, "auto"),
    }


def train_in_processes(entry: str, config: Settings, launch: LaunchSettings, job: Job) -> None:
    """Runs `entry` (`module:function` of `train(config, job)`) in `launch.processes` processes and waits.

    Raises:
        StopRequested: stopped after a checkpoint.
        ServiceLost: the vLLM server vanished.
        RuntimeError: a process failed, with its reason.
    """
    spec = job.folder / "processes"
    spec.mkdir(exist_ok=True)
    for old in spec.iterdir():
        old.unlink()
    lost_note(job).unlink(missing_ok=True)
    write_json(spec / "spec.json", _document(entry, config, job))
    processes = subprocess.Popen(_command(launch, spec), env=_environment(launch))
    _wait(processes, job)
    reasons = sorted(path.read_text() for path in spec.glob("reason-*"))
    if any(spec.glob("stopped-*")):
        raise StopRequested(f"{job.node}: stopped in {launch.processes} processes")
    if lost_note(job).exists():
        raise ServiceLost(lost_note(job).read_text())
    if processes.returncode != 0:
        raise RuntimeError(reasons[0] if reasons else f"a process ended with code {processes.returncode}")
    job.summary(**json.loads((spec / "summary.json").read_text()))


def lost_note(job: Job) -> Path:
    """Where the process that lost its vLLM server writes that down."""
    return job.folder / "lost"


def process_number() -> int:
    """Of this process among those that train together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def _document(entry: str, config: Settings, job: Job) -> dict[str, Any]:
    return {
        "entry": entry,
        "settings": f"{type(config).__module__}:{type(config).__qualname__}",
        "config": config.model_dump(mode="json"),
        "node": job.node,
        "stage": job.stage,
        "folder": str(job.folder),
        "inputs": {n: [i.ref.kind, i.ref.digest, str(i.path)] for n, i in job.inputs.items()},
    }


def _command(launch: LaunchSettings, spec: Path) -> list[str]:
    count = f"--nproc-per-node={launch.processes}"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", count]
    return [*launcher, "-m", "tasks.training.launching", str(spec)]


def _environment(launch: LaunchSettings) -> dict[str, str]:
    """For Accelerate: what `accelerate launch` would set. Threads are shared out."""
    threads = str(max(1, (os.cpu_count() or 1) // launch.processes))
    on_cpu = str(not torch.cuda.is_available()).lower()
    return os.environ | {"OMP_NUM_THREADS": threads, "ACCELERATE_USE_CPU": on_cpu}


def _wait(processes: subprocess.Popen[bytes], job: Job) -> None:
    """Until they end; asked to stop, they get SIGTERM once and time to write a checkpoint."""
    asked: float | None = None
    while processes.poll() is None:
        if asked is None and job.should_stop():
            (job.folder / "processes" / "stop").touch()
            asked = time.monotonic()
        if asked is not None and time.monotonic() > asked + _CHECKPOINT_SECONDS:
            processes.kill()
        time.sleep(_POLL)


def main(spec: Path) -> None:
    """One process."""
    from accelerate import PartialState

    rank = process_number()
    document = json.loads((spec / "spec.json").read_text())
    train, settings = _load(document["entry"]), _load(document["settings"])
    job = _job(document)
    _watch_for_stop(spec, job)
    torch.serialization.register_package(0, lambda _: None, _on_numbered_cpu)
    try:
        train(settings.model_validate(document["config"]), job)
    except StopRequested:
        (spec / f"stopped-{rank}").touch()
        sys.exit(0)
    except Exception as error:
        (spec / f"reason-{rank}").write_text(" ".join(str(error).split()) or type(error).__name__)
        raise
    if PartialState().is_main_process:
        write_json(spec / "summary.json", job.headline)
    PartialState().destroy_process_group()


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _job(document: dict[str, Any]) -> Job:
    inputs = {n: Input(Ref(kind=k, digest=d), Path(p)) for n, (k, d, p) in document["inputs"].items()}
    return Job(document["node"], document["stage"], inputs, Path(document["folder"]))


def _on_numbered_cpu(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
    """Accelerate names the CPU of a gloo process `cpu:0`, which torch cannot load a checkpoint to."""
    return storage if location.startswith("cpu:") else None


def _watch_for_stop(spec: Path, job: Job) -> None:
    """SIGTERM, or the file `stop`, asks for a stop."""
    signal.signal(signal.SIGTERM, lambda *_: job.stop.set())

    def watch() -> None:
        while not job.stop.is_set():
            if (spec / "stop").exists():
                job.stop.set()
            time.sleep(_POLL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
