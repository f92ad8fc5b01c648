"""Takes an answer of the R1 layout apart while it comes: thinking, then what is shown as the answer.

An answer is `<think> thinking </think> rest`. The rest keeps its `<answer>` tags, as vLLM's parser
`deepseek_r1` leaves them. An answer that does not begin with `<think>` has no thinking, unless the prompt
ended in that tag already, as the chat templates of DeepSeek's models do.
"""

from __future__ import annotations

from dataclasses import dataclass

_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class AnswerPart:
    """A piece of an answer; either text may be empty."""

    reasoning: str = ""
    content: str = ""


class ThinkingSplitter:
    """Fed with pieces of an answer in order; however it is cut, the parts join to the same two texts.

    White space around the tags, and at the ends of the thinking, is dropped.
    """

    def __init__(self, opened: bool) -> None:
        """`opened`: the prompt ended in `<think>`."""
        self._state = "thinking" if opened else "start"
        self._held = ""
        self._begun = False
        """Whether the part that is being read has had a character that is not white space."""

    def feed(self, text: str) -> AnswerPart:
        """What is certain now."""
        self._held += text
        if self._state == "start" and not self._read_start():
            return AnswerPart()
        reasoning = self._read_thinking() if self._state == "thinking" else ""
        content = self._read_content() if self._state == "content" else ""
        return AnswerPart(reasoning, content)

    def finish(self) -> AnswerPart:
        """What was held back; the answer has ended."""
        held, self._held = self._held, ""
        if self._state == "thinking":
            return AnswerPart(reasoning=held.rstrip() if self._begun else held.strip())
        return AnswerPart(content=held if self._begun else held.lstrip())

    def _read_start(self) -> bool:
        """Whether it is known now if the answer begins with thinking."""
        begin = self._held.lstrip()
        if begin.startswith(_OPEN):
            self._state, self._held = "thinking", begin[len(_OPEN) :]
        elif _OPEN.startswith(begin):
            return False
        else:
            self._state = "content"
        return True

    def _read_thinking(self) -> str:
        thinking, closed, rest = self._held.partition(_CLOSE)
        thinking = thinking if self._begun else thinking.lstrip()
        if closed:
            self._state, self._held, self._begun = "content", rest, False
            return thinking.rstrip()
        # White space may be the last before the tag, and the tag may have begun: both wait for what follows.
        sure = len(thinking) - _begun_tag(thinking)
        sure = len(thinking[:sure].rstrip())
        self._held, self._begun = thinking[sure:], self._begun or sure > 0
        return thinking[:sure]

    def _read_content(self) -> str:
        content = self._held if self._begun else self._held.lstrip()
        self._held, self._begun = "", self._begun or bool(content)
        return content


def split(text: str, opened: bool) -> AnswerPart:
    """A whole answer taken apart."""
    splitter = ThinkingSplitter(opened)
    parts = (splitter.feed(text), splitter.finish())
    return AnswerPart("".join(p.reasoning for p in parts), "".join(p.content for p in parts))


def _begun_tag(text: str) -> int:
    """How many characters at the end of `text` can be the beginning of the closing tag."""
    return next((n for n in range(len(_CLOSE) - 1, 0, -1) if text.endswith(_CLOSE[:n])), 0)
