"""A rollout engine with its model's tokenizer: questions and prompts in, texts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.rollout.engine import (
    Completion,
    Engine,
    SampledModel,
    TokenIds,
    derived_seed,
    generate_rows,
)
from tasks.rollout.engines import open_engine
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.tokenizer import Codec


@dataclass(frozen=True)
class Written:
    """What a model wrote after a prompt."""

    text: str
    """As `tasks.tokenizer` decodes it."""
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated, the end token included."""


class TextSampler:
    """An engine with its model's tokenizer. Usable through `contextlib.closing`."""

    def __init__(self, engine: Engine, codec: Codec) -> None:
        self.engine, self._codec = engine, codec

    @property
    def name(self) -> str:
        """Name and version of the engine."""
        return self.engine.name

    def prompt(self, template: str, question: str) -> str:
        """The text that asks the model `question`. Raises as `Codec.prompt`."""
        return self._codec.prompt(template, question)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, seed: int | Sequence[int]
    ) -> list[Written]:
        """One text for each prompt, in order.

        `seed` is one for each prompt, or one for the call, from which each prompt's own is derived with its
        place.
        """
        seeds = [derived_seed(seed, i) for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
        asked = self._codec.tokens(prompts)
        done = generate_rows(self.engine, asked, sampling, seeds)
        return [self._written(p, c) for p, c in zip(asked, done, strict=True)]

    def close(self) -> None:
        self.engine.close()

    def _written(self, prompt: TokenIds, completion: Completion) -> Written:
        (text,) = self._codec.texts([completion.tokens])
        return Written(text, completion.finish_reason, len(prompt), len(completion.tokens))


def open_sampler(settings: EngineSettings, folder: Path) -> TextSampler:
    """The engine of the settings with the model of a Hugging Face folder. Raises as `open_engine`."""
    codec = Codec.of(folder)
    return TextSampler(open_engine(settings, SampledModel(folder, codec.end_tokens)), codec)
