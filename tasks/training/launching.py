"""One training run in several processes on this machine, with Accelerate's data parallelism or sharding.

    ddp    each process holds the model; gradients are averaged
    fsdp2  weights, gradients and optimiser are shared out (torch `fully_shard`)

Each process draws and scores its share of the rollout; a draw depends on the row's place in the whole, so
the completions are those of a single process. `torchrun` starts them; they live in the job's process group,
so that cancelling the job ends them all. A stop reaches every one and is agreed on at a step's end.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from artifacts.refs import Ref
from tasks.job import Input, Job, ServiceLost, StopRequested
from tasks.settings import Settings
from tasks.supervise import trees
from tasks.supervise.leaving import leave
from tasks.supervise.records import ExitRecord, read_json, write_json
from tasks.supervise.watch import GRACE_SECONDS, Watch
from tasks.training.settings import LaunchSettings

_POLL = 0.2


def sharding_arguments(launch: LaunchSettings, recompute: bool) -> dict[str, Any]:
    """The strategy, and whether layers recompute their activations, as arguments of the Trainer.

    With FSDP2 a layer recomputes once its weights are gathered for the backward pass; the Trainer's own
    `gradient_checkpointing` would gather them a third time.
    """
    if launch.strategy == "fsdp2":
        settings: dict[str, Any] = {
            "version": 2,
            "reshard_after_forward": True,
            "activation_checkpointing": recompute,
        }
        # Each process writes and reads its own part of a checkpoint. The Trainer's default gathers everything
        # in the first one, and writes the weights twice: 122 GB for 7B parameters instead of 91.
        settings["state_dict_type"] = "SHARDED_STATE_DICT"
        return {"fsdp": True, "fsdp_config": settings, "gradient_checkpointing": False}
    return {"gradient_checkpointing": recompute}


def train_in_processes(entry: str, config: Settings, launch: LaunchSettings, job: Job) -> None:
    """Runs `entry` (`module:function` of `train(config, job)`) in `launch.processes` processes and waits.

    Raises:
        ValueError: there are fewer GPUs than processes.
        StopRequested: stopped after a checkpoint.
        ServiceLost: the vLLM server vanished.
        RuntimeError: a process failed, with its reason.
    """
    if 0 < torch.cuda.device_count() < launch.processes:
        raise ValueError(
            f"launch.processes is {launch.processes} and this machine has {torch.cuda.device_count()} GPUs: "
            f"lower {job.node}.launch.processes"
        )
    spec = job.folder / "processes"
    spec.mkdir(exist_ok=True)
    for old in spec.iterdir():
        old.unlink()
    lost_note(job).unlink(missing_ok=True)
    write_json(spec / "spec.json", _document(entry, config, job))
    code = _wait(trees.start_child(_command(launch, spec), _environment(launch)), spec, job)
    records = [ExitRecord.model_validate(read_json(path)) for path in sorted(spec.glob("exit-*"))]
    # Where one process fails, torchrun ends the others with SIGTERM, and they too say that they stopped.
    stopped = [record.reason for record in records if record.status == "stopped"]
    if stopped and (job.should_stop() or code == 0):
        raise StopRequested(stopped[0] or f"{job.node}: stopped in {launch.processes} processes")
    if lost_note(job).exists():
        raise ServiceLost(lost_note(job).read_text())
    if code != 0:
        reasons = [record.reason for record in records if record.status == "failed"]
        raise RuntimeError(reasons[0] if reasons else f"one of the training processes {trees.death(code)}")
    job.summary(**(read_json(spec / "summary.json") or {}))


def lost_note(job: Job) -> Path:
    """Where the process that lost its vLLM server writes that down."""
    return job.folder / "lost"


def process_number() -> int:
    """Of this process among those that train together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def _document(entry: str, config: Settings, job: Job) -> dict[str, Any]:
    return {
        "job": os.getpid(),
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


def _wait(processes: subprocess.Popen[bytes], spec: Path, job: Job) -> int:
    """The exit code of the processes; when the job is to stop, they get `GRACE_SECONDS` for a checkpoint.

    The file `stop` asks them, not a signal: torchrun passes a signal on and then kills its workers itself.
    The seconds count from when they have begun: before, they import torch and TRL and cannot hear it.
    """
    deadline = float("inf")
    try:
        while not trees.has_ended(processes) and time.monotonic() < deadline:
            if job.should_stop():
                (spec / "stop").touch()
                if deadline == float("inf") and any(spec.glob("began-*")):
                    deadline = time.monotonic() + GRACE_SECONDS
            time.sleep(_POLL)
    finally:
        trees.stop(processes, seconds=0)
    return processes.returncode


def main(spec: Path) -> None:
    """One process."""
    document, rank = read_json(spec / "spec.json"), process_number()
    assert document is not None
    try:
        train, settings = _load(document["entry"]), _load(document["settings"])
        (spec / f"began-{rank}").touch()
        with Watch(os.getppid(), lambda: _reason_to_stop(spec, document["job"])) as watch:
            config = settings.model_validate(document["config"])
            _train(train, config, _job(document, watch.stop), spec)
    except StopRequested as stop:
        ExitRecord(status="stopped", reason=str(stop)).write(spec / f"exit-{rank}.json")
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        ExitRecord(status="failed", reason=reason).write(spec / f"exit-{rank}.json")
        raise


def _reason_to_stop(spec: Path, job: int) -> str:
    """The parent of this process is torchrun, which does not notice that its own parent, the job, died."""
    if (spec / "stop").exists():
        return "the job stops"
    return "" if psutil.pid_exists(job) else "the job that started this process is gone"


def _train(train: Callable[..., None], config: Settings, job: Job, spec: Path) -> None:
    from accelerate import PartialState

    torch.serialization.register_package(0, lambda _: None, _on_numbered_cpu)
    if not torch.cuda.is_available():
        _share_out_on_cpu()
    train(config, job)
    if PartialState().is_main_process:
        write_json(spec / "summary.json", job.headline)
    PartialState().destroy_process_group()


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _job(document: dict[str, Any], stop: threading.Event) -> Job:
    inputs = {n: Input(Ref(kind=k, digest=d), Path(p)) for n, (k, d, p) in document["inputs"].items()}
    return Job(document["node"], document["stage"], inputs, Path(document["folder"]), stop)


def _share_out_on_cpu() -> None:
    """Have Accelerate take `fsdp2` seriously on a CPU: it drops the setting there without a word, although
    torch's `fully_shard` works with gloo. It serves tests, which would else prove data parallelism alone."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def begin_sharded(self: AcceleratorState, *args: Any, **given: Any) -> None:
        begin(self, *args, **given)
        # All instances share one state; a later one without the plugin takes it from the process group again.
        plugin = given.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = begin_sharded


def _on_numbered_cpu(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
    """Accelerate names the CPU of a gloo process `cpu:0`, which torch cannot load a checkpoint to."""
    return storage if location.startswith("cpu:") else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave(0)
