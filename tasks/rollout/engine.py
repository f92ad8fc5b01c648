"""What every rollout engine does: complete prompts. Chosen by preset (`EngineSettings.name`).

transformers   in process, CPU or GPU; `tasks.rollout.transformers_engine`
vllm           in process, GPU; `tasks.rollout.vllm_engine`
vllm-server    a server started with `vllm serve`; `tasks.rollout.vllm_server`
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tasks.rollout.settings import EngineSettings, Sampling


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt: tags kept, the end token left out of `text`."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated, the end token included."""


class Engine(Protocol):
    """A loaded model that samples. Usable as a context manager through `contextlib.closing`."""

    name: str
    """Name and version, e.g. `transformers 5.17.0`."""

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, seed: int | Sequence[int]
    ) -> list[Completion]:
        """One completion a prompt, in order.

        `seed` is one for the call (each prompt's own is derived from it and the prompt's place) or one
        for each prompt; a completion depends on its prompt, the sampling and its seed alone.
        """
        ...

    def close(self) -> None:
        """Free the model's memory."""
        ...


class EngineUnavailable(RuntimeError):
    """The engine that a preset asks for cannot run here; the message says what to do."""


def open_engine(settings: EngineSettings, model_dir: Path) -> Engine:
    """Load the model of `model_dir` (a Hugging Face folder) in the engine of `settings`.

    Raises:
        EngineUnavailable: vLLM is not installed, or its server does not answer.
    """
    if settings.name == "transformers":
        from tasks.rollout.transformers_engine import TransformersEngine

        return TransformersEngine(settings, model_dir)
    if settings.name == "vllm":
        from tasks.rollout.vllm_engine import VllmEngine

        return VllmEngine(settings, model_dir)
    from tasks.rollout.vllm_server import VllmServerEngine

    return VllmServerEngine(settings, model_dir)


def prompt_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """One seed a prompt."""
    if isinstance(seed, int):
        return [derived_seed(seed, place) for place in range(count)]
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds for {count} prompts: give one seed, or one for each prompt")
    return list(seed)


def derived_seed(*parts: int | str) -> int:
    """A seed in 0 .. 2**63-1, a pure function of `parts`."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
