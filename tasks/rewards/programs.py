"""Finds the program in a completion. String operations only, linear in the length of the text.

A model explains, shows a program, then often its output or an example of its use. So the program is not
simply the last fenced block: it is the block that defines what the tests call, or that reads the input and
prints. Of several such blocks the last one counts, since a correction follows what it corrects. An answer
without a fence is the program as a whole.

Fences are read as CommonMark does (back-ticks or tildes, indented, three or more), and tolerate a tag beside
a fence. A tag inside a fenced block (`</think>` in a comment, say) is part of the program.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.rewards.extraction import answer_element, has_no_answer_tags, tail

_LINES = re.compile(r"[^\n]*\n|[^\n]+")
_FENCE = re.compile(r"`{3,}|~{3,}")
_TRIPLE = ('"""', "'''")
_TAGS = re.compile(r"</?(?:think|answer)>")
_LANGUAGE = re.compile(r"(?:python3?|py)\s")
_READS = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0|\bfileinput\b|\bread\s*\(\s*0")
_PRINTS = re.compile(r"\bprint\s*\(|\bstdout\b|\bwrite\s*\(\s*1")
_DEFINED = re.compile(r"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^[ \t]*(\w+)[ \t]*[:=]", re.MULTILINE)
_PYTHON = ("python", "py", "python3", "python2", "ipython")


@dataclass(frozen=True)
class Block:
    """The content of one fenced block and the first word behind its opening fence, in lower case."""

    language: str
    text: str
    start: int
    end: int
    """Where the content lies in the text."""
    closed: bool


def program_text(completion: str) -> str | None:
    """Return what of a completion may hold the program: the answer, or what follows the thinking.

    None where there is no final answer, or no answer tags and no closed fence. `choose_program` picks the
    block.
    """
    for text in (_without_quoted_tags(completion), completion):
        element = answer_element(text)
        if element is None and has_no_answer_tags(text):
            after = tail(text)
            element = after if any(block.closed for block in fenced(after)) else None
        if element is not None:
            start = text.rindex(element)  # the masked text has the length of the completion
            return completion[start : start + len(element)]
    return None


def choose_program(text: str, names: Sequence[str], reads_input: bool) -> str:
    """Return the program in an answer.

    Args:
        text: what `program_text` found.
        names: what the tests call or read; empty for a program that is run on its own.
        reads_input: whether a program that is run on its own is given input.
    """
    blocks = [block for block in fenced(text) if block.text.strip()]
    if not blocks:
        return _unquoted(text)
    (fits, _), at = max((_fit(block, names, reads_input), at) for at, block in enumerate(blocks))
    if not fits and _names_defined(_outside(text, blocks)).intersection(names):
        return text  # the fences stand in a comment or docstring of the program
    return blocks[at].text


def fenced(text: str) -> list[Block]:
    """Return the fenced blocks in order. A block that is never closed ends with the text."""
    lines = _LINES.findall(text)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    blocks, at = [], 0
    while at < len(lines):
        opening = _opening(lines[at])
        at += 1
        if opening is None:
            continue
        indent, fence, language = opening
        end = _closing(lines, at, fence, indent)
        last = len(lines) if end is None else end
        content = _dedented(lines[at:last], indent)
        blocks.append(Block(language, content, starts[at], starts[last], end is not None))
        at = last + 1
    return blocks


def _opening(line: str) -> tuple[str, str, str] | None:
    """Return the indentation, the fence and the language of a line that opens a block."""
    found = _FENCE.search(line)
    if found is None:
        return None
    before, fence, rest = line[: found.start()], found[0], line[found.end() :]
    if fence[0] == "`" and "`" in rest:  # code within a line of text
        return None
    if fence[0] == "~" and _TAGS.sub("", before).strip(" \t>"):
        return None
    return before[: _indentation(before)], fence, (rest.split() or [""])[0].lower().strip("{}.")


def _closing(lines: Sequence[str], start: int, fence: str, indent: str) -> int | None:
    """Return the number of the line that closes a block.

    A fence deeper than the opening one, or inside a triple-quoted string, belongs to the program; the latter
    only if another fence follows, because a quote in a comment can look like the beginning of a string.
    """
    inside, candidate = dict.fromkeys(_TRIPLE, 0), None
    for at in range(start, len(lines)):
        line = lines[at]
        if fence in line and _is_fence(line, fence[0]) and _indentation(line) < len(indent) + 4:
            if not any(count % 2 for count in inside.values()):
                return at
            candidate = at if candidate is None else candidate
        for quote in _TRIPLE:
            inside[quote] += line.count(quote)
    return candidate


def _is_fence(line: str, character: str) -> bool:
    return not _TAGS.sub("", line).strip(" \t\r\n>").strip(character)


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" \t>"))


def _dedented(lines: Sequence[str], indent: str) -> str:
    """Return the lines without the indentation of their fence (a list item, a quotation)."""
    if not indent:
        return "".join(lines)
    return "".join(line.removeprefix(indent) if line.strip() else line.lstrip(" \t") for line in lines)


def _fit(block: Block, names: Sequence[str], reads_input: bool) -> tuple[int, int]:
    """Return how well a block fits: first by what it does, then by its language."""
    if names:
        fits = len(_names_defined(block.text).intersection(names))
    else:
        reads = reads_input and _READS.search(block.text) is not None
        fits = 2 * reads + (_PRINTS.search(block.text) is not None)
    return fits, 2 if block.language in _PYTHON else 0 if block.language else 1


def _unquoted(text: str) -> str:
    """Return a program of one line without the back-ticks around it; any other text as it is."""
    stripped = text.strip()
    if not (stripped.startswith("`") and stripped.endswith("`")):
        return text
    inner = stripped.strip("`")
    language = _LANGUAGE.match(inner)
    return inner[language.end() :] if language else inner


def _names_defined(text: str) -> set[str]:
    return {name for match in _DEFINED.finditer(text) for name in match.groups() if name}


def _outside(text: str, blocks: Sequence[Block]) -> str:
    edges = [0, *(edge for block in blocks for edge in (block.start, block.end)), len(text)]
    return "".join(text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


def _without_quoted_tags(completion: str) -> str:
    """Blank the tags that stand inside fenced blocks after the first end of the thinking; keep the length."""
    head, closed, rest = completion.partition("</think>")
    if not closed:
        head, rest = "", completion
    parts, done = [], 0
    for block in fenced(rest):
        if block.closed:
            quoted = _TAGS.sub(lambda tag: "\0" * len(tag[0]), rest[block.start : block.end])
            parts += [rest[done : block.start], quoted]
            done = block.end
    return head + closed + "".join(parts) + rest[done:]
