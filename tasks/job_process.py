"""The process that builds artifacts: lease, inputs, stage, publish.  `python -m tasks.job SPEC.json`

Exit codes: 0 done, 1 failed, 3 stopped after a checkpoint, 4 lost a service it depends on. Anything else, or
no `exit.json` beside the spec (4 leaves none), means that the process died; whoever started it may start it
again and it resumes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from artifacts.errors import CorruptArtifact
from artifacts.manifest import ManifestDraft
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from tasks.job import LOST, Input, Job, ServiceLost, StopRequested, write_json
from tasks.job_spec import GRACE_SECONDS, BuildResult, BuildSpec, ExitRecord, JobSpec
from tasks.recipe import STAGES
from tasks.stage import Stage
from tasks.tables import TABLES

log = logging.getLogger("job")

_LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "vllm",
    "pyarrow",
    "math-verify",
    "reasoning-gym",
    "jieba",
)
_STOPPED = 3


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.job", description=__doc__)
    parser.add_argument("spec", type=Path, help="a JobSpec as JSON; logs and records go beside it")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="stop when this process is gone")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    spec = JobSpec.model_validate_json(options.spec.read_bytes())
    os.environ |= visible_gpus(spec, os.environ)
    with Watch(options.spec.parent, options.parent) as watch:
        sys.exit(run_builds(spec, options.spec.parent, watch))


def visible_gpus(spec: JobSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """One GPU (the first that is visible) for a job of one process: with several in sight, the trainers would
    copy the model to all of them in one process, which TRL refuses. Set before anything imports torch."""
    if any(build.config.get("launch", {}).get("processes", 1) > 1 for build in spec.builds):
        return {}
    return {"CUDA_VISIBLE_DEVICES": environment.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]}


def run_builds(spec: JobSpec, job_folder: Path, watch: Watch) -> int:
    """Every build in order; the exit record is written whatever happens, unless a service was lost."""
    store = ArtifactStore.open(spec.store)
    results: list[BuildResult] = []
    node = ""

    def ended(status: str, reason: str = "") -> None:
        record = ExitRecord(status=status, reason=reason, node=node, results=tuple(results))  # type: ignore[arg-type]
        write_json(job_folder / "exit.json", record.model_dump(mode="json"))

    try:
        for build in spec.builds:
            node = build.node
            results.append(run_build(store, spec, build, watch))
    except StopRequested:
        ended("stopped", watch.reason or "asked to stop")
        return _STOPPED
    except ServiceLost as loss:
        log.error("%s: %s", node, loss)
        return LOST
    except Exception as error:
        ended("failed", one_line(error))
        raise
    ended("ok")
    return 0


def run_build(store: ArtifactStore, spec: JobSpec, build: BuildSpec, watch: Watch) -> BuildResult:
    """Make one artifact, or take the one that another run made while this one waited for the lease."""
    folder = spec.work_root / build.key

    def waiting(message: str) -> None:
        log.info("%s: %s", build.node, message)

    with store.lease(build.key, wait_message=waiting):
        ref = store.lookup(build.key)
        seconds = 0.0
        cached = ref is not None
        if ref is None:
            with watch.clock(folder) as clock:
                ref = _build(store, spec, build, folder, watch, clock)
            seconds = clock.seconds
        shutil.rmtree(folder, ignore_errors=True)
        store.set_ref(build.ref_name, ref)
    log.info("%s: %s %s in %.1f s", build.node, "found" if cached else "published", ref.short, seconds)
    return BuildResult(node=build.node, ref=ref, cached=cached, seconds=seconds)


def _build(
    store: ArtifactStore, spec: JobSpec, build: BuildSpec, folder: Path, watch: Watch, clock: Clock
) -> Ref:
    stage = STAGES[build.stage]
    config = stage.config.model_validate(build.config)
    job = Job(build.node, build.stage, _inputs(store, build), folder, watch.stop)
    shutil.rmtree(job.draft, ignore_errors=True)
    job.state.mkdir(parents=True, exist_ok=True)
    job.draft.mkdir()
    load(stage.entry)(config, job)
    if not any(job.draft.iterdir()):
        raise RuntimeError(f"stage {stage.name} returned without an output in {job.draft}")
    return store.publish(job.draft, _manifest(spec, build, stage, job, clock.seconds), TABLES)


def _inputs(store: ArtifactStore, build: BuildSpec) -> dict[str, Input]:
    inputs = {}
    for name, ref in build.inputs.items():
        try:
            inputs[name] = Input(ref, store.fetch(ref))
        except CorruptArtifact as error:
            store.quarantine(ref.digest)
            raise CorruptArtifact(
                f"input {name}: {error}; moved aside: run again and it is rebuilt"
            ) from error
    return inputs


def _manifest(spec: JobSpec, build: BuildSpec, stage: Stage, job: Job, seconds: float) -> ManifestDraft:
    return ManifestDraft(
        kind=stage.output,
        stage=stage.name,
        stage_version=stage.version,
        node=build.node,
        preset=spec.preset,
        key=build.key,
        config=build.config,
        parents=build.inputs,
        versions=versions(),
        code_revision=code_revision(),
        seconds=round(seconds, 1),
        accelerator_hours=round(seconds * _accelerators() / 3600, 4),
        summary=job.headline,
    )


def load(entry: str) -> Callable[..., None]:
    """The function named `module:function`."""
    module, _, name = entry.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    return function


def one_line(error: BaseException) -> str:
    """An error as one line; config errors (ValueError) read without their type."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def versions() -> dict[str, str]:
    """Versions of the libraries that can change a result, those that are installed."""
    installed = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def code_revision() -> str:
    """The git commit of the working tree, `-dirty` with changes; empty outside a repository."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists() or not shutil.which("git"):
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _accelerators() -> int:
    torch = sys.modules.get("torch")
    return torch.cuda.device_count() if torch and torch.cuda.is_available() else 0


@dataclass
class Clock:
    """Seconds at work on one key, kept in its folder so that a killed attempt still counts."""

    folder: Path
    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def save(self) -> None:
        write_json(self.folder / "seconds.json", {"seconds": self.seconds})


class Watch:
    """The thread that keeps the heartbeat and hears requests to stop, even while native code runs.

    A SIGTERM, or the parent's death, sets `stop`; a stage that has not left `GRACE_SECONDS` later is
    ended with its whole process group.
    """

    def __init__(self, job_folder: Path, parent: int, grace: float = GRACE_SECONDS) -> None:
        self.stop = threading.Event()
        self.reason = ""
        self._heartbeat = job_folder / "heartbeat"
        self._parent = parent
        self._grace = grace
        self._lock = threading.Lock()
        self._clock: Clock | None = None
        self._done = threading.Event()
        self._deadline: float | None = None
        self._wakeup, self._signals = os.pipe()

    def __enter__(self) -> Watch:
        os.set_blocking(self._signals, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        os.write(self._signals, b"\0")
        self._thread.join()

    @contextmanager
    def clock(self, folder: Path) -> Iterator[Clock]:
        """Count the seconds spent inside the `with` block towards the key of `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        clock = Clock(folder, _seconds_before(folder))
        self._save_with(clock)
        try:
            yield clock
        finally:
            self._save_with(None)

    def _save_with(self, clock: Clock | None) -> None:
        with self._lock:
            self._clock = clock

    def _run(self) -> None:
        while not self._done.is_set():
            self._heartbeat.write_text(str(time.time()))
            with self._lock:
                if self._clock is not None:
                    self._clock.save()
            self._notice()
            if self._deadline is not None and time.monotonic() > self._deadline:
                _end_group(f"{self.reason}; no checkpoint within {self._grace:.0f} s, ending")
            select.select([self._wakeup], [], [], 1.0)

    def _notice(self) -> None:
        pending, _, _ = select.select([self._wakeup], [], [], 0)
        if pending and signal.SIGTERM in os.read(self._wakeup, 512):
            self._request("asked to stop (SIGTERM)")
        if os.getppid() != self._parent:
            self._request("the process that started this job is gone")

    def _request(self, reason: str) -> None:
        if not self.stop.is_set():
            log.warning("%s: stopping at the next checkpoint", reason)
            self.reason = reason
            self._deadline = time.monotonic() + self._grace
            self.stop.set()


def _seconds_before(folder: Path) -> float:
    try:
        return float(json.loads((folder / "seconds.json").read_text())["seconds"])
    except FileNotFoundError:
        return 0.0


def _end_group(message: str) -> None:
    log.error(message)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
