"""The contract of a rollout engine: token ids in, completions out as they finish.

An engine knows tokens only. `tasks.rollout.text` turns problems into tokens and tokens into text, and
`tasks.rollout.engines` is the registry that opens an engine by the name in a preset. Evaluation, curation and
RL use the same contract. Nothing here imports torch or an engine.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # settings check an engine's name in the registry, so the contract must not import them
    from tasks.rollout.settings import Sampling

TokenIds = Sequence[int]
Weights = Path | Iterable[tuple[str, Any]]
"""A Hugging Face folder, or (name, tensor) pairs: whole tensors under the names of the Hugging Face model."""


@dataclass(frozen=True)
class Completion:
    """One completion of one prompt."""

    prompt: int
    """Which prompt of the call it completes."""
    sample: int
    """Which seed of that prompt drew it."""
    tokens: list[int]
    """The tokens that were generated, the end token included."""
    finish_reason: Literal["stop", "length"]
    logprobs: list[float] | None = None
    """Log-probability of each token under the distribution it was drawn from (temperature applied), if asked
    for. NaN where the engine could not say."""


@dataclass(frozen=True)
class SampledModel:
    """The model that an engine samples from."""

    folder: Path
    """A Hugging Face folder: the weights at the start."""
    end_tokens: frozenset[int]
    """Tokens that end a completion."""
    longest: int | None = None
    """Largest number of tokens of a prompt and its completion. None: as long as the model can read."""
    policy: Callable[[], AbstractContextManager[Any]] | None = None
    """In RL: lends the trainer's own torch model, whole and in evaluation mode, for as long as the context is
    open. An engine that runs torch models in this process samples from it and needs no copy."""
    pushes: bool = True
    """Whether this process gives new weights to an engine that several processes share. The others still have
    to exhaust the iterator that `load` gets, because gathering a sharded tensor takes every process."""
    lost_note: Path | None = None
    """In RL: a file that gets the reason when a service is lost and the process has to end at once."""


class Engine(Protocol):
    """A loaded model that samples."""

    name: str
    """Name and version, e.g. `transformers 5.17.0`."""

    def generate(
        self,
        prompts: Sequence[TokenIds],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
        logprobs: bool = False,
    ) -> Iterator[Completion]:
        """Yields every completion once, in the order in which they finish.

        `seeds[i]` holds one seed for each completion of `prompts[i]`, so a group of G outputs is one request
        and its prompt is read once. A completion depends on its prompt, the sampling, its own seed and the
        weights alone, not on what else is in flight. Ask for `logprobs` only if they are used: vLLM writes
        half as many tokens a second with them.
        """
        ...

    def load(self, weights: Weights) -> None:
        """Sample from these weights from now on. No call of `generate` may be in progress."""
        ...

    def close(self) -> None:
        """Free the model's memory, for what this process does next. Where it ends next, only an engine with
        `own_device` has something to close: vLLM in this process takes two seconds for it."""
        ...


class EngineUnavailable(RuntimeError):
    """The engine that a preset asks for cannot run here; the message says what to do."""


def stream_rows(
    engine: Engine,
    prompts: Sequence[TokenIds],
    sampling: Sampling,
    seeds: Sequence[int],
    logprobs: bool = False,
) -> Iterator[tuple[int, Completion]]:
    """Yields (row, completion) for each row (a prompt and a seed) once, as they finish.

    Neighbouring rows with the same prompt become one request.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one seed for each prompt")
    groups = [list(rows) for _, rows in itertools.groupby(range(len(prompts)), lambda i: tuple(prompts[i]))]
    asked = [prompts[rows[0]] for rows in groups]
    for completion in engine.generate(
        asked, sampling, [[seeds[i] for i in rows] for rows in groups], logprobs
    ):
        yield groups[completion.prompt][completion.sample], completion


def generate_rows(
    engine: Engine,
    prompts: Sequence[TokenIds],
    sampling: Sampling,
    seeds: Sequence[int],
    logprobs: bool = False,
    finished: Callable[[int, Completion], None] | None = None,
) -> list[Completion]:
    """The completions of `stream_rows` in the order of the rows; `finished` hears of each as it ends."""
    done: dict[int, Completion] = {}
    for row, completion in stream_rows(engine, prompts, sampling, seeds, logprobs):
        done[row] = completion
        if finished is not None:
            finished(row, completion)
    return [done[row] for row in range(len(prompts))]


def finish_reason(tokens: TokenIds, end_tokens: frozenset[int]) -> Literal["stop", "length"]:
    """Read from the last token, so that every engine means the same by it."""
    return "stop" if tokens and tokens[-1] in end_tokens else "length"


def derived_seed(*parts: int | str) -> int:
    """A seed in 0 .. 2**63-1, a pure function of `parts`."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
