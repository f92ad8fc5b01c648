"""The data of the browser of completions: which questions, which of their samples, and how much of each text.

A page holds it as JSON, templates/browser.html.jinja is the part of the page and templates/browser.js shows
the data in it. Completions come from models and problems from strangers: characters that cannot be seen or
that reorder a line become visible codes, JSON is escaped so that no text can end the script element that it
lies in, and the script puts text into the page as text only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from tasks.problem import Problem
from tasks.recipe import position, role, title
from tasks.report.style import color
from tasks.text_safety import for_page

MAX_BYTES = 4_000_000
"""Of the data as it stands in the page, where the caller does not say."""
ENOUGH_QUESTIONS = 60
"""Where fewer would fit, texts are cut more."""
TEXT_LIMITS = (4_000, 2_000, 1_000, 500)
"""Characters kept of a completion's thinking, and of its rest: the first with which enough questions fit."""
NO_RULE = "no rule"
"""Stands for the verdict on a completion that no rule can judge."""
_TERM = "reward_"
_END = "</think>"
_ESCAPES = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})
"""In a script element `</script>` and `<!--` mean something to HTML, the two separators to JavaScript."""


@dataclass(frozen=True)
class Excerpt:
    """A text, or its two ends."""

    head: str
    tail: str
    size: int
    """Characters of the whole text."""

    @classmethod
    def of(cls, text: str, limit: int) -> Excerpt:
        return cls(text, "", len(text)).shortened(limit)

    def shortened(self, limit: int) -> Excerpt:
        """Return at most `limit` characters of it, two thirds of them from the beginning."""
        if len(self.head) + len(self.tail) <= limit:
            return self
        first = limit * 2 // 3
        return Excerpt(self.head[:first], (self.tail or self.head)[first - limit :], self.size)

    def document(self) -> dict[str, Any]:
        left_out = self.size - len(self.head) - len(self.tail)
        return {"head": for_page(self.head), "tail": for_page(self.tail), "size": self.size, "cut": left_out}


@dataclass(frozen=True)
class ShownSample:
    """A completion as the browser shows it. Make one with `of_row`."""

    question: str
    node: str
    step: int | None
    """Of the training at which it was sampled; None for one of a finished checkpoint."""
    index: int
    verdict: str
    reward: float | None
    rewards: Mapping[str, float]
    tokens: int
    finish_reason: str
    thinking: Excerpt | None
    """The completion up to the end of its thinking block."""
    text: Excerpt
    """The rest of it."""
    right: int | None = None
    """How many of all samples of this checkpoint for this question are correct ..."""
    of: int | None = None
    """... and how many there are."""

    @classmethod
    def of_row(cls, node: str, row: Mapping[str, Any], step: int | None = None) -> ShownSample:
        """From a row of a `samples` table; it may have `right` and `of` as well."""
        folded, text = _folded(row["completion"])
        rewards = {
            name.removeprefix(_TERM): round(value, 3)
            for name, value in row.items()
            if name.startswith(_TERM) and _is_number(value)
        }
        return cls(
            row["problem_id"], node, step, row["sample_index"], row["verdict"] or NO_RULE,
            round(row["reward"], 3) if _is_number(row["reward"]) else None, rewards,
            row["completion_tokens"], row["finish_reason"],
            Excerpt.of(folded, TEXT_LIMITS[0]) if folded else None, Excerpt.of(text, TEXT_LIMITS[0]),
            row.get("right"), row.get("of"),
        )  # fmt: skip

    def document(self, column: int, limit: int) -> dict[str, Any]:
        return {
            "column": column, "index": self.index, "verdict": for_page(self.verdict), "reward": self.reward,
            "rewards": {for_page(name): value for name, value in self.rewards.items()},
            "tokens": self.tokens, "end": for_page(self.finish_reason), "right": self.right, "of": self.of,
            "thinking": self.thinking and self.thinking.shortened(limit).document(),
            "text": self.text.shortened(limit).document(),
        }  # fmt: skip


@dataclass(frozen=True)
class BrowserPart:
    """What the template `browser.html.jinja` needs."""

    data: Markup
    """JSON, escaped for a script element."""
    script: Markup
    script_hash: str
    """Of the script, as the directive `script-src` of a Content-Security-Policy takes it."""


def browser_part(data: Mapping[str, Any]) -> BrowserPart:
    """Return `browser_data(...)` with the script that shows it, for the template."""
    return BrowserPart(Markup(_json(data)), *_script())


def browser_data(
    samples: Iterable[ShownSample],
    problems: Sequence[Problem],
    of_questions: int = 0,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:
    """Return what the browser shows: JSON values, which in a page take at most `max_bytes`.

    Questions are in the order of `problems`, from the first on as many as fit; `of_questions` is how many
    there were to choose from, where that is more than `problems`.
    """
    by_question: dict[str, list[ShownSample]] = {problem.id: [] for problem in problems}
    for sample in samples:
        if sample.question in by_question:
            by_question[sample.question].append(sample)
    found = {(s.node, s.step) for group in by_question.values() for s in group}
    columns = {key: place for place, key in enumerate(sorted(found, key=_place))}
    answered = [problem for problem in problems if by_question[problem.id]]
    head = {"columns": [_column(*key) for key in columns], "note": ""}
    room = max_bytes - len(_json(head).encode()) - 1_000
    for limit in TEXT_LIMITS:
        questions = _fitting(answered, by_question, columns, limit, room)
        if len(questions) >= min(ENOUGH_QUESTIONS, len(answered)):
            break
    note = _note(len(questions), max(len(answered), of_questions), limit)
    return head | {"note": note, "questions": questions}


def _fitting(
    problems: Sequence[Problem],
    samples: Mapping[str, Sequence[ShownSample]],
    columns: Mapping[tuple[str, int | None], int],
    limit: int,
    room: int,
) -> list[dict[str, Any]]:
    """Questions from the first on until `room` bytes are used."""
    found = []
    for problem in problems:
        question = {
            "id": for_page(problem.id), "domain": for_page(problem.domain), "level": problem.level,
            "language": for_page(problem.language), "source": for_page(problem.source),
            "prompt": Excerpt.of(problem.prompt, limit).document(),
            "answer": Excerpt.of(problem.answer, limit // 4).document(),
            "samples": [s.document(columns[s.node, s.step], limit) for s in samples[problem.id]],
        }  # fmt: skip
        room -= len(_json(question).encode()) + 1
        if room < 0:
            break
        found.append(question)
    return found


def _column(node: str, step: int | None) -> dict[str, Any]:
    words = title(node) if step is None else f"{title(node)}, step {step}"
    name = node if step is None else f"{node}@{step}"
    return {"name": for_page(name), "title": for_page(words), "color": color(role(node)), "step": step}


def _place(column: tuple[str, int | None]) -> tuple[bool, int, str, int]:
    """Checkpoints in the order of the recipe, then those of evaluations during training."""
    node, step = column
    return step is not None, position(node), node, step or 0


def _note(shown: int, total: int, limit: int) -> str:
    which = (
        f"Shown are {shown:,} of {total:,} questions, chosen at random (the same ones in every report of "
        "these questions) in turn from every source, domain, level and language."
        if shown < total
        else f"Shown are all {total:,} questions."
    )
    return (
        f"{which} Of each checkpoint there are a few samples a question, with different verdicts where "
        f"there are such. Of a text longer than {limit:,} characters the middle is left out."
    )


def _folded(completion: str) -> tuple[str, str]:
    """Return the completion up to the end of its thinking block, empty where it has none, and the rest."""
    thinking, end, rest = completion.partition(_END)
    return (thinking + end, rest.lstrip()) if end else ("", completion)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


@cache
def _script() -> tuple[Markup, str]:
    text = files("tasks.report").joinpath("templates/browser.js").read_text()
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"
