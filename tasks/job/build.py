"""Builds the artifacts of a job, in order: take the lease, fetch the inputs, run the stage, publish."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import artifacts.draft  # noqa: F401  publishing needs it, by when the checkout may be at another commit
from artifacts.errors import CorruptArtifact, LeaseLost
from artifacts.leases import Lease
from artifacts.manifest import ManifestDraft
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from tasks.job import LOST, Input, Job, ServiceLost, StopRequested
from tasks.job.cards import held
from tasks.job.spec import BuildResult, BuildSpec, JobExit, JobSpec
from tasks.recipe import STAGES
from tasks.source_code import sources
from tasks.stage import Stage
from tasks.supervise.records import read_json, write_json
from tasks.supervise.watch import Watch
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
_FULL_DISK = "No space left on device"
"""In the text of errors of libraries that are no OSError: safetensors, torch, DuckDB."""


def run_builds(spec: JobSpec, job_folder: Path, watch: Watch) -> int:
    """Every build in order; the exit record is written whatever happens, unless a service was lost."""
    store = ArtifactStore.open()
    results: list[BuildResult] = []
    node = ""
    kept: dict[str, Any] = {}

    def ended(status: str, reason: str = "") -> None:
        record = JobExit(status=status, reason=reason, node=node, results=tuple(results))  # type: ignore[arg-type]
        record.write(job_folder / "exit.json")

    try:
        node = spec.builds[0].node
        with held(spec, watch.stop, lambda message: log.info("%s %s", node, message)) as variables:
            os.environ |= variables
            for build in spec.builds:
                node = build.node
                results.append(run_build(store, spec, build, watch, kept))
    except StopRequested as stop:
        ended("stopped", watch.reason or str(stop))
        return _STOPPED
    except (ServiceLost, LeaseLost) as loss:
        log.error("%s: %s", node, loss)
        return LOST
    except Exception as error:
        ended("failed", one_line(error))
        raise
    finally:
        for shared in kept.values():
            shared.close()
    ended("ok")
    return 0


def run_build(
    store: ArtifactStore, spec: JobSpec, build: BuildSpec, watch: Watch, kept: dict[str, Any]
) -> BuildResult:
    """Make one artifact, or take the one that another run made while this one waited for the lease."""
    folder = spec.work_root / build.key

    def waiting(message: str) -> None:
        log.info("%s: %s", build.node, message)

    with store.lease(build.key, wait_message=waiting) as lease:

        def stop_without_lease() -> None:
            if lease.lost:
                watch.request(lease.lost)

        ref = store.lookup(build.key)
        seconds = 0.0
        cached = ref is not None
        if ref is None:
            clock = Clock(folder)
            with watch.calling(clock.save), watch.calling(stop_without_lease):
                ref = _build(store, spec, build, folder, watch.stop, clock, lease, kept)
            seconds = clock.seconds
        shutil.rmtree(folder, ignore_errors=True)
        store.set_ref(build.ref_name, ref)
    log.info("%s: %s %s in %.1f s", build.node, "found" if cached else "published", ref.short, seconds)
    return BuildResult(node=build.node, ref=ref, cached=cached, seconds=seconds)


def _build(
    store: ArtifactStore, spec: JobSpec, build: BuildSpec, folder: Path, stop: threading.Event, clock: Clock,
    lease: Lease, kept: dict[str, Any],
) -> Ref:  # fmt: skip
    """Do the work and publish it.

    Raises:
        LeaseLost: another builder took over; started again, the job waits for its result.
    """
    stage = STAGES[build.stage]
    code = imported_code(stage.entry)
    config = stage.config.model_validate(build.config)
    job = Job(build.node, build.stage, _inputs(store, build), folder, stop, kept=kept)
    shutil.rmtree(job.draft, ignore_errors=True)
    job.state.mkdir(parents=True, exist_ok=True)
    job.draft.mkdir()
    try:
        load(stage.entry)(config, job)
    except StopRequested:
        if lease.lost:
            raise LeaseLost(lease.lost) from None
        raise
    if not any(job.draft.iterdir()):
        raise RuntimeError(f"stage {stage.name} returned without an output in {job.draft}")
    return store.publish(job.draft, _manifest(spec, build, stage, job, clock.seconds, code), TABLES, lease)


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


def _manifest(
    spec: JobSpec, build: BuildSpec, stage: Stage, job: Job, seconds: float, code: dict[str, str]
) -> ManifestDraft:
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
        sources=code,
        seconds=round(seconds, 1),
        accelerator_hours=round(seconds * _accelerators() / 3600, 4),
        summary=job.headline,
    )


@cache
def imported_code(entry: str) -> dict[str, str]:
    """The files that `entry` is made of, as this process imports them: asked for before it does, since they
    may be edited while it waits for its job or runs for hours."""
    return sources(entry)


def load(entry: str) -> Callable[..., None]:
    """The function named `module:function`."""
    module, _, name = entry.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    return function


def one_line(error: BaseException) -> str:
    """An error as one line; config errors (ValueError) read without their type."""
    text = " ".join(str(error).split()) or "no message"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL_DISK in text:
        return f"the disk is full ({text}): free some space, then run again; it goes on from its checkpoint"
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
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or not shutil.which("git"):
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _accelerators() -> int:
    torch = sys.modules.get("torch")
    return torch.cuda.device_count() if torch and torch.cuda.is_available() else 0


class Clock:
    """Seconds at work on one key, kept in its folder so that a killed attempt still counts."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._record = folder / "seconds.json"
        self._before = float((read_json(self._record) or {"seconds": 0.0})["seconds"])
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        write_json(self._record, {"seconds": self.seconds})
