r"""From a completion to its final answer. Only what stands after the thinking counts.

Rules, in order:
    1. A thinking block that is opened and never closed: no answer.
    2. `<answer>...</answer>` exactly once after the thinking: its content. Any other number of answer
       tags: no answer.
    3. No answer tags: the content of `\boxed{...}` after the thinking.
    4. Within the content of rule 2, a `\boxed{...}` narrows it to the box.
    5. Several boxes with different content: joined where only commas, `and` or names (`y =`) stand between
    them,
       or an equals sign; the last one where words of correction (wait, mistake, ...) stand between them;
       else no
       answer (a list of guesses is not an answer).
"""

from __future__ import annotations

import re
from itertools import pairwise

from tasks.rendering import parse_completion
from tasks.text_safety import nfkc

_BOXED = re.compile(r"\\(?:f?boxed|fbox)\s*\{")
_BOX_OR_BRACE = re.compile(rf"{_BOXED.pattern}|[{{}}]")
_LISTED = re.compile(r"[\s$]*(?:[,;]|and\b|和)(?:\s*and\b)?[\s$]*(?P<name>[A-Za-z]\s*=)?[\s$]*")
_EQUATED = re.compile(r"[\s$]*(?:=|,? *that is,?|,? *i\.e\.,?|,? *or equivalently,?)[\s$]*")
_CORRECTED = re.compile(
    r"\b(?:wait|wrong|mistake|correction|corrected|incorrect|actually|sorry|instead)\b", re.IGNORECASE
)
_SEPARATOR = 80
"""Most characters between two boxes of one answer."""
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " ", 0x2212: "-", 0x3002: "."}


def final_answer(completion: str) -> str | None:
    """The text to grade, stripped and non-empty, or None."""
    element = answer_element(completion)
    if element is None:
        return _the_box(tail(completion)) if has_no_answer_tags(completion) else None
    return _the_box(element) if _BOXED.search(element) else element


def boxes(text: str) -> list[str]:
    r"""The contents of every closed `\boxed{...}`, `\fbox{...}`, braces balanced, in order; of nested ones
    the outer."""
    return [text[start:end].strip() for _, start, end, _ in _closed_boxes(text)]


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
    if not _BOXED.search(text):  # a long text of braces alone need not be walked through
        return None
    found = [box for box in _closed_boxes(text) if text[box[1] : box[2]].strip()]
    contents = [text[start:end].strip() for _, start, end, _ in found]
    if len(set(contents)) <= 1:
        return contents[0] if contents else None
    between = [text[before[3] : after[0]] for before, after in pairwise(found)]
    if _CORRECTED.search(between[-1]):
        return contents[-1]
    if max(map(len, between)) > _SEPARATOR:  # the patterns are not linear in the white space
        return None
    if all(_EQUATED.fullmatch(part) for part in between):
        return " = ".join(contents)
    listed = [_LISTED.fullmatch(part) for part in between]
    if not all(listed):
        return None
    names = [_name_before(text, found[0][0]), *((match and match["name"]) or "" for match in listed)]
    return ", ".join(f"{name} {content}".strip() for name, content in zip(names, contents, strict=True))


def _name_before(text: str, at: int) -> str:
    match = re.search(r"(?<![A-Za-z])[A-Za-z]\s?=[\s$]{0,3}$", text[max(0, at - 8) : at])
    return match.group().strip(" $") if match else ""


def _closed_boxes(text: str) -> list[tuple[int, int, int, int]]:
    """Where each outer box, its content, and they end: start, start of content, end of content, end."""
    found: list[tuple[int, int, int, int]] = []
    opened: list[re.Match[str]] = []
    for match in _BOX_OR_BRACE.finditer(text):
        if match.group() != "}":
            opened.append(match)
        elif opened and (opening := opened.pop()).group() != "{":
            start, inner = opening.start(), opening.end()
            within = found and found[-1][0] > start
            if (
                within
                and text[inner : found[-1][0]].strip() == text[found[-1][3] : match.start()].strip() == ""
            ):
                continue  # a box that holds nothing but a box
            while found and found[-1][0] > start:
                found.pop()
            found.append((start, inner, match.start(), match.end()))
    return found
