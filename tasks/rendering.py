"""Prompt templates and the reading of completions, in one place (paper Table 1; field pain: prefilled tags).

Every prompt ends where the model starts to write; nothing is pre-filled, so the format reward judges
only what the model wrote. `r1` is the published template. `plain` is the same without the preamble, for
models whose vocabulary or context is too small for it. `r1-few-shot` puts three worked examples after
the preamble, for bases that never write the tags otherwise and so earn no reward to learn from. The
examples end in ChatML's end token, so use it with models whose end token is that (SmolLM2, Qwen's chat
models): after examples that do not end so, the model goes on with a next question.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

Template = Literal["r1", "plain", "r1-few-shot"]

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

_BEFORE, _AFTER = "User: ", " Assistant:"
_OPENINGS: dict[Template, str] = {"r1": _PREAMBLE, "plain": "", "r1-few-shot": _PREAMBLE + _EXAMPLES}

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def render_prompt(template: Template, question: str) -> str:
    """The text a model continues."""
    return f"{_OPENINGS[template]}{_BEFORE}{question}{_AFTER}"


def template_of(prompt: str) -> Template | None:
    """The template that `prompt` was rendered with; None where it was none of ours."""
    if not prompt.endswith(_AFTER):
        return None
    # The longest opening decides: `r1-few-shot` begins as `r1` does, and everything begins as `plain` does.
    longest_first = sorted(_OPENINGS.items(), key=lambda item: -len(item[1]))
    return next((name for name, opening in longest_first if prompt.startswith(opening + _BEFORE)), None)


def chat_template(template: Template) -> str:
    """Jinja that renders one or more turns as training did; a system message goes before the question."""
    before, after = json.dumps(_OPENINGS[template] + _BEFORE), json.dumps(_AFTER)
    return (
        "{%- set ns = namespace(system='') -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{%- set ns.system = message['content'] + '\\n\\n' -%}"
        "{%- elif message['role'] == 'user' -%}"
        f"{{{{- {before} + ns.system + message['content'] + {after} -}}}}"
        "{%- set ns.system = '' -%}"
        "{%- else -%}{{- message['content'] + eos_token -}}"
        "{%- endif -%}"
        "{%- endfor -%}"
    )


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
    if all(text.count(tag) == 1 for tag in _TAGS):
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
