r"""Golds as data sets hold them: `#### 42`, a solution with a box, a letter, assertions, contest cases. Pure
string code.

Nothing here evaluates or unpickles anything: LiveCodeBench's private cases are a pickle, and are left out.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.rewards.extraction import fold

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BRACKET = re.compile(r"(?<!\\)[{}]")
_BOX = re.compile(r"\\f?box(?:ed)? {0,3}\{")


def final_value(text: str) -> str:
    """Return the final answer of a worked solution: what follows the last `####`, or the last closed box.

    A text with neither is returned as it is, without white space and one pair of dollar signs around it.
    """
    if "####" in text:
        text = text.rpartition("####")[2].strip().partition("\n")[0]
    elif (box := last_box(text)) is not None:
        text = box
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def last_box(text: str) -> str | None:
    r"""Return what the last closed `\boxed{...}` or `\fbox{...}` of a text holds; None where there is
    none."""
    end = len(text)
    for begin in reversed([match.end() - 1 for match in _BOX.finditer(text)]):
        depth = 0
        for bracket in _BRACKET.finditer(text, begin, end):
            depth += 1 if bracket[0] == "{" else -1
            if not depth:
                return text[begin + 1 : bracket.start()]
        # Not closed: a box before it may be, and what stands behind is not searched again.
        end = begin
    return None


def options_of(value: Any) -> dict[str, str]:
    """Return options by letter from a list, `{"A": text}`, or ARC's `{"text": [...], "label": [...]}`.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"choices are no list: {value[:60]!r}") from None
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = value.get("label") or LETTERS[: len(value["text"])]
        value = dict(zip(labels, value["text"], strict=False))
    if isinstance(value, Sequence):
        value = dict(zip(LETTERS, value, strict=False))
    if not isinstance(value, Mapping) or len(value) < 2:
        raise ValueError("choices must be a list of at least two texts")
    return {str(label): str(text).strip() for label, text in value.items() if text is not None}


def letter_of(answer: Any, options: Mapping[str, str]) -> str:
    """Return the letter of an answer that is a letter, an index from 0 on, or an option's text.

    Raises:
        ValueError: it names no option, or several.
    """
    labels = list(options)
    if isinstance(answer, int) and not isinstance(answer, bool):
        if 0 <= answer < len(labels):
            return labels[answer]
        raise ValueError(f"answer {answer} is no index of {len(labels)} options")
    text = str(answer).strip()
    bare = text.strip("()[]. ").upper()
    if bare in labels:
        return bare
    same = [label for label, option in options.items() if fold(option) == fold(text)]
    if len(same) != 1:
        raise ValueError(f"answer {text[:60]!r} names {len(same)} options")
    return same[0]


def shuffled(correct: str, incorrect: Sequence[str], seed: str) -> tuple[dict[str, str], str]:
    """Return options by letter in an order that the seed decides, and the letter of the correct one.

    Raises:
        ValueError: two options are the same.
    """
    texts = [text.strip() for text in (correct, *incorrect) if text and text.strip()]
    if len({fold(text) for text in texts}) < len(texts) or len(texts) < 2:
        raise ValueError("two options are the same, or there is only one")
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    return dict(zip(LETTERS, (texts[i] for i in order), strict=False)), LETTERS[order.index(0)]


def contest_cases(value: Any, function: str | None) -> list[dict[str, Any]] | None:
    """Return LiveCodeBench's test cases, given as JSON; None for text that is not JSON (a pickle, never
    read).

    A functional case holds one JSON value a line as its arguments.

    Raises:
        ValueError: a functional case without a function's name, or whose input is not JSON.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list):
        raise ValueError("test cases must be a list")
    return [_contest_case(case, function) for case in value]


def _contest_case(case: Any, function: str | None) -> dict[str, Any]:
    if (
        not isinstance(case, Mapping)
        or not isinstance(case.get("input"), str)
        or not isinstance(case.get("output"), str)
    ):
        raise ValueError("a test case must have the texts `input` and `output`")
    if case.get("testtype", "stdin") == "stdin":
        if function:
            raise ValueError("a case for standard input in a task with a function")
        return {"stdin": case["input"], "stdout": case["output"]}
    if not function:
        raise ValueError("a functional case in a task without a function's name")
    try:
        arguments = [json.loads(line) for line in case["input"].split("\n") if line.strip()]
        return {"args": arguments, "expected": json.loads(case["output"])}
    except (ValueError, RecursionError):
        raise ValueError("a functional case is not JSON") from None
