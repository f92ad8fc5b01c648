"""From prompts to tokens and from tokens to text: the one place where engines' tokens become words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.rollout.engine import (
    Completion,
    Engine,
    SampledModel,
    TokenIds,
    derived_seed,
    finish_reason,
    stream_rows,
)
from tasks.rollout.engines import open_engine
from tasks.rollout.settings import EngineSettings, Sampling


@dataclass(frozen=True)
class Written:
    """What a model wrote after a prompt."""

    text: str
    """Without the end token; every other special token is kept, since tags may be such tokens."""
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated, the end token included."""


@dataclass(frozen=True)
class Codec:
    """A model's tokenizer and the tokens that end its completions."""

    tokenizer: Any
    end_tokens: frozenset[int]

    @classmethod
    def of(cls, folder: Path) -> Codec:
        """That of a Hugging Face folder.

        Raises:
            ValueError: the folder names no end-of-sequence token.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ends = frozenset(_listed(tokenizer.eos_token_id)) | frozenset(_configured_ends(folder))
        if not ends:
            raise ValueError(f"{folder} names no end-of-sequence token: set eos_token in its tokenizer")
        return cls(tokenizer, ends)

    def tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = self.tokenizer(list(prompts)).input_ids if prompts else []
        return found

    def texts(self, completions: Iterable[TokenIds]) -> list[str]:
        """The text of each completion, its end token left out."""
        return [
            self.tokenizer.decode(
                tokens[:-1] if finish_reason(tokens, self.end_tokens) == "stop" else tokens,
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
            for tokens in completions
        ]


class TextSampler:
    """An engine with its model's tokenizer. Usable through `contextlib.closing`."""

    def __init__(self, engine: Engine, codec: Codec, in_flight: int = 512) -> None:
        self.engine, self._codec, self.in_flight = engine, codec, in_flight

    @property
    def name(self) -> str:
        """Name and version of the engine."""
        return self.engine.name

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
    ) -> Iterator[tuple[int, Written]]:
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


def _configured_ends(folder: Path) -> list[int]:
    """What the generation settings call the end; transformers makes them from `config.json` where absent."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            return _listed(json.loads((folder / name).read_text()).get("eos_token_id"))
    return []


def _listed(token: int | list[int] | None) -> list[int]:
    return [] if token is None else list(token) if isinstance(token, list) else [token]
