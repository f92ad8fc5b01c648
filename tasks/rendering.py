"""Prompt templates and the reading of completions, in one place (paper Table 1; field pain: prefilled tags).

A preset's `template` is one of

    r1            the published template
    plain         the same without the preamble, for models whose vocabulary or context is too small for it
    r1-few-shot   three worked examples after the preamble, for bases that never write the tags otherwise
                  and so earn no reward to learn from. The examples end in ChatML's end token, so use it with
                  models whose end token is that (SmolLM2, Qwen's chat models): after examples that do not
                  end so, the model goes on with a next question
    chat          the model's own chat template (`tasks.tokenizer` renders it)
    text          a template of one's own: any text in which `{question}` stands once

Every prompt ends where the model starts to write; nothing is pre-filled, so the format reward judges only
what the model wrote.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from tasks.settings import KeyedBy

CHAT = "chat"
QUESTION = "{question}"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_PREAMBLE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with "
    "the answer. The reasoning process and answer are enclosed within <think> </think> and "
    "<answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>. "
)

_EXAMPLES = (
    "User: What is 17 + 25 - 8? Assistant: <think> First 17 + 25 = 42. Then 42 - 8 = 34. </think> "
    "<answer> 34 </answer><|im_end|>\n"
    "User: All roses are flowers. Some flowers are red. Does it logically follow that some roses are red? "
    "(Answer Yes or No) Assistant: <think> The red flowers may all be tulips. Nothing says that a rose is "
    "among them. </think> <answer> No </answer><|im_end|>\n"
    'User: How many times does the letter "r" appear in the text: "mirror"? Assistant: <think> The letters '
    "are m, i, r, r, o, r. The letter r is there 3 times. </think> <answer> 3 </answer><|im_end|>\n"
)

_TURN = f"User: {QUESTION} Assistant:"
_NAMED = {"r1": _PREAMBLE + _TURN, "plain": _TURN, "r1-few-shot": _PREAMBLE + _EXAMPLES + _TURN}

_WRITTEN_HERE = "{#- Written by this project: a conversation as its stages render a question. -#}"


def known_template(template: str) -> str:
    """The template, if it is a name or a text with a place for the question.

    Raises:
        ValueError: it is neither; a similar name is suggested.
    """
    if template in (*_NAMED, CHAT) or template.count(QUESTION) == 1:
        return template
    if count := template.count(QUESTION):
        raise ValueError(f"the template holds {QUESTION} {count} times: keep the one where the question goes")
    near = difflib.get_close_matches(template, (*_NAMED, CHAT), n=1)
    hint = f"did you mean {near[0]}?" if near else f"use {', '.join(_NAMED)} or {CHAT}"
    shown = template if len(template) <= 40 else template[:37] + "..."
    raise ValueError(f"there is no template {shown!r}: {hint}, or write {QUESTION} in your text once")


def template_key(template: str) -> str:
    """What the cache key holds of a template: a digest of its text, so that an edited one is another.

    The text behind `chat` lies in the base's artifact, whose digest is in the key.
    """
    digest = hashlib.sha256(_NAMED.get(template, template).encode()).hexdigest()[:16]
    return CHAT if template == CHAT else f"{template if template in _NAMED else 'text'} {digest}"


Template = Annotated[str, AfterValidator(known_template), KeyedBy(template_key)]


def render_prompt(template: str, question: str) -> str:
    """The text a model continues. `chat` needs the model's tokenizer: `tasks.tokenizer.Codec.prompt`."""
    before, after = _around(template)
    return f"{before}{question}{after}"


def template_of(prompt: str) -> str | None:
    """The named template that `prompt` was rendered with; None where it was none of ours."""
    # The longest text decides: `r1-few-shot` begins as `r1` does, and everything ends as `plain` does.
    for name in sorted(_NAMED, key=lambda name: -len(_NAMED[name])):
        before, after = _around(name)
        if prompt.startswith(before) and prompt.endswith(after):
            return name
    return None


def chat_template(template: str, start: str = "") -> str:
    """Jinja that renders one or more turns as training did; a system message goes before the question.

    `start` is the text of the start token, which stands at the beginning only.
    """
    # Jinja reads a JSON string as Python does, but not the surrogate pairs of escaped characters.
    first, before, after = (json.dumps(text, ensure_ascii=False) for text in (start, *_around(template)))
    return (
        f"{_WRITTEN_HERE}"
        f"{{%- set ns = namespace(system='') -%}}{{{{- {first} -}}}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] + '\\n\\n' -%}"
        "{%- elif message['role'] == 'user' -%}"
        f"{{{{- {before} + ns.system + message['content'] + {after} -}}}}"
        "{%- set ns.system = '' -%}"
        "{%- else -%}{{- message['content'] + eos_token -}}"
        "{%- endif -%}"
        "{%- endfor -%}"
    )


def written_here(jinja: str) -> bool:
    """Whether `chat_template` made a model's chat template, so that the model has none of its own."""
    return jinja.startswith(_WRITTEN_HERE)


def _around(template: str) -> tuple[str, str]:
    """The text before and after the question."""
    if template == CHAT:
        raise ValueError("template: chat is rendered by the model's tokenizer")
    before, _, after = _NAMED.get(template, template).partition(QUESTION)
    return before, after


def any_of(special_names: Iterable[str]) -> re.Pattern[str]:
    """Finds the name of any special token; the longest where several begin at one place."""
    names = sorted((name for name in special_names if len(name) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def spaced(text: str, special: re.Pattern[str]) -> str:
    """The text with a space in the name of every special token (`< /s>`), so that it is only text."""
    return special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


@dataclass(frozen=True)
class Parsed:
    """A completion taken apart; `None` where a part is missing."""

    thinking: str | None
    answer: str | None
    well_formed: bool
    """The whole completion is one non-empty thinking block and one non-empty answer block, in order."""


def parse_completion(text: str) -> Parsed:
    """Only what stands after the thinking can be the answer.

    A completion that is not well formed still yields its parts where each tag stands exactly once
    and in order; otherwise the answer is None.
    """
    # By partition and not by a pattern: with several closing tags that would try each pair of them.
    if all(text.count(tag) == 1 for tag in TAGS):
        before, _, rest = text.partition("<think>")
        thinking, _, rest = rest.partition("</think>")
        between, _, rest = rest.partition("<answer>")
        answer, _, after = rest.partition("</answer>")
        if not (before + between + after).strip():
            thinking, answer = thinking.strip(), answer.strip()
            return Parsed(thinking or None, answer or None, bool(thinking and answer))
    return Parsed(_between(text, "<think>", "</think>"), _answer_part(text), False)


def _between(text: str, start: str, end: str) -> str | None:
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        return None
    return text[text.index(start) + len(start) : text.index(end)].strip() or None


def _answer_part(text: str) -> str | None:
    tail = text.rpartition("</think>")[2]
    return _between(tail, "<answer>", "</answer>")
