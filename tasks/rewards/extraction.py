r"""From a completion to its final answer. Only what stands after the thinking counts.

Rules, in order:
    1. A thinking block that is opened and never closed: no answer.
    2. `<answer>...</answer>` exactly once after the thinking: its content. Any other number of answer
       tags: no answer.
    3. No answer tags: the content of `\boxed{...}` after the thinking.
    4. Within the content of rule 2, a `\boxed{...}` narrows it to the box.
    5. Several boxes with different content: no answer (a list of guesses is not an answer).
"""

from __future__ import annotations

import re

from tasks.rendering import parse_completion
from tasks.text_safety import nfkc

_BOXED = re.compile(r"\\f?boxed\s*\{")
_BRACE = re.compile(r"[{}]")
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0x2212: "-", 0x3002: "."}


def final_answer(completion: str) -> str | None:
    """The text to grade, stripped and non-empty, or None."""
    element = answer_element(completion)
    if element is None:
        return _the_box(tail(completion)) if has_no_answer_tags(completion) else None
    return _the_box(element) if _BOXED.search(element) else element


def boxes(text: str) -> list[str]:
    r"""The contents of every closed `\boxed{...}`, braces balanced, in order."""
    # One pass with a stack: to look for the end of each box is quadratic where none is closed.
    starts = {match.end() for match in _BOXED.finditer(text)}
    opened: list[int] = []
    closed: dict[int, int] = {}
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif opened and (start := opened.pop()) in starts:
            closed[start] = brace.start()
    return [text[start : closed[start]].strip() for start in sorted(closed)]


def fold_width(text: str) -> str:
    """Full-width digits, letters and punctuation as ASCII; the Chinese full stop and true minus too."""
    return text.translate(_WIDE)


def fold(text: str) -> str:
    """Case, width and white space folded; a closing full stop dropped."""
    return " ".join(nfkc(fold_width(text)).casefold().split()).rstrip(".")


def tail(completion: str) -> str:
    """What stands after the thinking; empty while the thinking is still open."""
    before, closed, after = completion.rpartition("</think>")
    return "" if "<think>" in after else after if closed or not before else ""


def answer_element(completion: str) -> str | None:
    """The content of the one answer element after the thinking, or None."""
    return parse_completion(completion).answer if tail(completion) else None


def has_no_answer_tags(completion: str) -> bool:
    after = tail(completion)
    return "<answer>" not in after and "</answer>" not in after


def _the_box(text: str) -> str | None:
    contents = {content for content in boxes(text) if content}
    return contents.pop() if len(contents) == 1 else None


