"""A rollout engine with its model's tokenizer: questions and prompts in, texts out."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.rollout.engine import (
    Completion,
    Engine,
    SampledModel,
    TokenIds,
    derived_seed,
    stream_rows,
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

    def __init__(self, engine: Engine, codec: Codec, in_flight: int = 512) -> None:
        self.engine, self._codec, self.in_flight = engine, codec, in_flight

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
        done = dict(self.stream(prompts, sampling, seeds))
        return [done[row] for row in range(len(prompts))]

    def stream(
        self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]
    ) -> Generator[tuple[int, Written], None, None]:
        """(row, text) for each prompt and its seed, as they finish."""
        asked = self._codec.tokens(prompts)
        for row, completion in stream_rows(self.engine, asked, sampling, seeds):
            yield row, self._written(asked[row], completion)

    def close(self) -> None:
        self.engine.close()

    def _written(self, prompt: TokenIds, completion: Completion) -> Written:
        (text,) = self._codec.texts([completion.tokens])
        return Written(text, completion.finish_reason, len(prompt), len(completion.tokens))


def open_sampler(settings: EngineSettings, folder: Path) -> TextSampler:
    """The engine of the settings with the model of a Hugging Face folder. Raises as `open_engine`."""
    codec = Codec.of(folder)
    engine = open_engine(settings, SampledModel(folder, codec.end_tokens))
    return TextSampler(engine, codec, settings.entry.in_flight)
