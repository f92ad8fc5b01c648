"""The readability filters over many texts, in several processes where there is much to read.

The filters take about a millisecond for 2,000 characters of English, and six times as long for Chinese, which
is cut into words first: hours for the million samples of a mixture on one processor.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Any, Self

from tasks.curation.candidates import Rejection
from tasks.curation.readability import Readability, unreadable
from tasks.sandbox.isolation import die_with_parent
from tasks.settings import Settings

_MUCH = 8_000_000
"""Characters from which on processes are worth their start, about a second each: English of this length takes
four seconds."""
_EACH = 200
"""Characters that take as long as what a text takes whatever its length, 0.1 ms."""

Text = tuple[str, str]
"""A thinking and the language of its question."""


class Filtering:
    """Readability filters with their limits. A context manager: leaving it ends its processes."""

    def __init__(
        self, names: Sequence[str], limits: Settings, texts: int, processes: int | None = None
    ) -> None:
        """`texts` is at most how many will be asked for in all."""
        self._names, self._limits, self._texts = list(names), limits, texts
        self._count = processes if processes is not None else len(os.sched_getaffinity(0))
        self._processes: ProcessPoolExecutor | None = None

    def objections(self, texts: Sequence[Text]) -> list[Rejection | None]:
        """The first filter's objection to each text, in order."""
        if self._processes is None and self._count > 1 and self._expected(texts) >= _MUCH:
            # Spawned and not forked: this process may hold an engine, with its threads and its GPU.
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(self._count, context, die_with_parent)
        if self._processes is None:
            return first_objections(texts, self._names, self._limits)
        size = -(-len(texts) // (2 * self._count)) or 1
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        limits = self._limits.model_dump()
        asked = [self._processes.submit(_in_process, p, self._names, limits) for p in parts]
        return [found for part in asked for found in part.result()]

    def _expected(self, texts: Sequence[Text]) -> float:
        """Characters in all, if the others are as long as these; for a text, `_EACH` more."""
        return self._texts * sum(_EACH + len(text) for text, _ in texts) / max(1, len(texts))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._processes:
            self._processes.shutdown(cancel_futures=True)


def first_objections(texts: Sequence[Text], names: Sequence[str], limits: Settings) -> list[Rejection | None]:
    """As `Filtering.objections`, in this process."""
    return [_first(thinking, language, names, limits) for thinking, language in texts]


def _in_process(
    texts: Sequence[Text], names: Sequence[str], limits: dict[str, Any]
) -> list[Rejection | None]:
    # The limits travel as plain values: models that pydantic builds cannot be pickled.
    return first_objections(texts, names, Readability.model_validate(limits))


def _first(thinking: str, language: str, names: Sequence[str], limits: Settings) -> Rejection | None:
    for name in names:
        if detail := unreadable(name, thinking, language, limits):
            return Rejection(name, detail)
    return None
