"""Readability filters: which traces a reader could follow (paper B.3.2, B.3.3). Pure functions.

The paper names the filters (mixed language, repetition, long paragraphs, code blocks) and not their
thresholds; the defaults here are chosen by this project. A filter is one function whose keyword arguments
are its settings: `readability: {repetition: {max_repeats: 5}}` in a preset changes one of them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from pydantic import create_model

from tasks.rewards.language import language_consistency, repetition_above
from tasks.settings import BuiltSettings, Positive, Settings, Share

Filter = Callable[..., str | None]
"""From a thinking and its question's language to why the trace is not readable; None where it is."""

FILTERS: dict[str, Filter] = {}
"""By name, which is the reason that the table `rejected` gives; applied in the order of this file."""
_SETTINGS: dict[str, type[Settings]] = {}

_CODE_BLOCK = re.compile(r"```|~~~|(?:^|\n)(?: {4}|\t)\S.*\n(?: {4}|\t)\S")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")


def readability_filter(name: str) -> Callable[[Filter], Filter]:
    """Register a filter; its keyword-only arguments become its settings."""

    def register(function: Filter) -> Filter:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        settings: dict[str, Any] = {
            p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY
        }
        _SETTINGS[name] = create_model(function.__name__, __base__=BuiltSettings, **settings)
        FILTERS[name] = function
        return function

    return register


@readability_filter("repetition")
def repetitive(thinking: str, language: str, *, ngram: Positive = 8, max_repeats: Positive = 3) -> str | None:
    """A run of `ngram` words occurs more than `max_repeats` times."""
    times = repetition_above(thinking, ngram, max_repeats)
    return f"a {ngram}-gram occurs {times} times, at most {max_repeats}" if times else None


@readability_filter("code-block")
def code_in_thinking(thinking: str, language: str, *, allowed: bool = False) -> str | None:
    """The thinking holds a fenced or an indented code block."""
    match = None if allowed else _CODE_BLOCK.search(thinking)
    return match[0].strip()[:80] if match else None


@readability_filter("long-paragraph")
def long_paragraph(thinking: str, language: str, *, max_words: Positive = 400) -> str | None:
    """A paragraph has more than `max_words` words; a CJK character counts as one."""
    words = max((len(_WORD.findall(p)) for p in re.split(r"\n\s*\n", thinking)), default=0)
    return f"{words} words, at most {max_words}" if words > max_words else None


@readability_filter("mixed-language")
def mixed_language(thinking: str, language: str, *, min_share: Share = 0.9) -> str | None:
    """Less than `min_share` of the words are in the question's language."""
    share = language_consistency(thinking, language)
    return f"{share:.2f} of the words are {language}, at least {min_share}" if share < min_share else None


_SECTIONS: dict[str, Any] = {
    name.replace("-", "_"): (settings, settings()) for name, settings in _SETTINGS.items()
}
Readability: type[Settings] = create_model("Readability", __base__=BuiltSettings, **_SECTIONS)
"""The settings of every filter, a section each (`-` written `_`)."""


def unreadable(name: str, thinking: str, language: str, limits: Settings) -> str | None:
    """What filter `name` says of a thinking under the settings of `limits`, a `Readability`."""
    settings: Settings = getattr(limits, name.replace("-", "_"))
    return FILTERS[name](thinking, language, **settings.model_dump())
