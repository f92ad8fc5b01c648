"""Multiple choice: which option an answer names, by label, by text, or by both if they agree.

    (B)   B.   **B**   \\boxed{B}   Final answer: B   B is correct   选择B   B: 12, since ...   12

Golds are read in the same way, so `(B)` or an option's text is a gold too; one that names no option makes the
problem an `error`. An answer that names two options, or a label with another option's text, names none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tasks.rewards.extraction import final_answer, fold, fold_width
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER

if TYPE_CHECKING:
    from tasks.problem import Problem

_MARKUP = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|boldsymbol|bf|rm|boxed|fbox|left|right)(?![a-zA-Z])"
    r"|\\[()\[\]]|\$|\*\*|__|`"
)
_SPACE = re.compile(r"\\[ ,;:!]|\\q?quad(?![a-zA-Z])|~|\s+")
_EDGE = ' \t*_{}"“”「」'
"""Taken away at both ends. No `<`, `>` or single quote: `<5` and `>5`, `f` and `f'` are different options."""
_WORDS = (
    "the|so|thus|hence|therefore|and|my|our|i|we|it|that|this|think|believe|choose|chose|pick|select|would|will|must|"
    "should|be|is|go|going|with|final|correct|right|best|answer|option|choice|letter|selected|chosen"
)
_LEAD = re.compile(
    rf"(?:(?:(?:{_WORDS})(?![a-z])|最终|最后|正确|所以|因此|故|应该?|我|的|答案|选项|选择|选|是|为)[\s:=,]*)+",
    re.I,
)
_BEHIND = r"(?=$|[\s.,:;)\]}、。\-–—]|[^\x00-\x7f])"
_SEPARATOR = re.compile(r"[\s.,:;)\]}、。\-–—]*")
_AFFIRMED = re.compile(
    r"(?:is|are|was)?\s*(?:the\s+)?(?:correct|right|best)?\s*(?:answer|option|choice|one)?\s*[.!]*"
    r"|(?:是|为)?(?:正确|对)?的?(?:答案|选项)?。?",
    re.I,
)
_REASON = re.compile(
    r"[\s.,;:(\-–—。、]*"
    r"(?:since|because|as|due|for|given|by|so|which|that|this|we|it|from|therefore|thus|hence|因为|由于|所以|因此)"
    r"(?![a-z])",
    re.I,
)
_OTHERS = re.compile(
    r"(?:\b(?i:or|and|not|nor|option|choice|answer is|answer:)|或|和|不是|选项?)\s*[(\[]?(\w+)[)\]]?(?!\w)"
    r"|[(\[](\w+)[)\]]"
    r"|(?<![\w'])([B-HJ-Z])(?![\w'])",
)
"""Ways to name an option in an explanation; A and I alone are words."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def fault(problem: Problem) -> str | None:
    """Why no answer to the problem can be judged, beginning with the key; None if one can."""
    try:
        options = read_options(problem.verifier_args)
    except ValueError as found:
        return f"verifier_args.{found}"
    if choose(options, problem.answer) is None:
        return f"answer {problem.answer[:60]!r} names no option: give one of {', '.join(options)}"
    return None


def judge(problem: Problem, completion: str) -> Judgement:
    answer = final_answer(completion)
    if answer is None:
        return NO_ANSWER
    return Judgement(judge_choice(problem.answer, read_options(problem.verifier_args), answer), answer)


def judge_choice(gold: str, options: Mapping[str, str], answer: str) -> Verdict:
    """Compare the option that the answer names with the gold's; unparseable unless it names one."""
    chosen = choose(options, answer)
    if chosen is None:
        return Verdict.unparseable
    return Verdict.correct if chosen == choose(options, gold) else Verdict.wrong


def read_options(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return label -> text. A list has the labels A, B, ...; labels may be written `(a)`, `B.` or `1`.

    Raises:
        ValueError: there are none, or they are no texts; one sentence that begins with the key.
    """
    given = arguments.get("options")
    if isinstance(given, list) and len(given) <= len(_LETTERS):
        given = dict(zip(_LETTERS, given, strict=False))
    if not isinstance(given, Mapping) or len(given) < 2:
        raise ValueError("options must be a list of 2 to 26 texts or a mapping from labels to texts")
    options: dict[str, str] = {}
    for key, text in given.items():
        label = fold_width(str(key)).strip(" ()[].:").upper()
        if not label or isinstance(text, bool) or not isinstance(text, str | int | float):
            raise ValueError(f"options[{str(key)[:20]!r}] must be text")
        if label in options:
            raise ValueError(f"options has the label {label[:20]} twice")
        options[label] = str(text)
    return options


def choose(options: Mapping[str, str], answer: str) -> str | None:
    """Return the label of the option that an answer names; None where it names none or several."""
    texts = {label: _plain(text) for label, text in options.items()}
    bare = _bare(answer)
    for candidate in dict.fromkeys((bare, _LEAD.sub("", bare, count=1) if _LEAD.match(bare) else bare)):
        if found := _named(texts, candidate):
            return found
    return None


def _named(texts: Mapping[str, str], bare: str) -> str | None:
    """Return the label that begins a text, or whose option's text it is or begins with."""
    label, rest = _label(texts, bare)
    if label and not rest:
        return label
    same = [key for key, text in texts.items() if text and text == _plain(bare)]
    if same:
        return same[0] if len(same) == 1 else None
    if label:
        return label if _supports(texts, label, rest) else None
    return _by_text(texts, bare)


def _label(texts: Mapping[str, str], bare: str) -> tuple[str | None, str]:
    """Return the label at the beginning and what follows it and its punctuation."""
    labels = "|".join(re.escape(label) for label in sorted(texts, key=len, reverse=True))
    match = re.match(rf"[(\[{{]*\s*({labels})\s*{_BEHIND}", bare, re.I)
    if match is None:
        return None, bare
    rest = bare[match.end() :]
    return match[1].upper(), rest[len(_SEPARATOR.match(rest)[0]) :].strip(_EDGE)  # type: ignore[index]


def _supports(texts: Mapping[str, str], label: str, rest: str) -> bool:
    """Tell whether what follows a label goes with it: a confirmation, its option's text, a reason."""
    if _AFFIRMED.fullmatch(rest):
        return True
    owner, behind = _prefix(texts, rest, label)
    if owner is not None and owner != label:
        return False
    if owner is None and not _REASON.match(rest):
        return False
    if owner == label and behind and not re.match(r"[\s.,;:(\-–—。、]", behind):
        return False
    return not _names_another(texts, label, behind)


def _by_text(texts: Mapping[str, str], bare: str) -> str | None:
    """Return the label of the option whose text comes first: before its own label, or before a reason."""
    owner, behind = _prefix(texts, bare, None)
    if owner is None or list(texts.values()).count(texts[owner]) > 1:
        return None
    rest = behind.strip(_EDGE + ".,;:()[]")
    if rest.upper() == owner or _AFFIRMED.fullmatch(rest) or _REASON.match(behind):
        return owner if not _names_another(texts, owner, behind) else None
    return None


def _prefix(texts: Mapping[str, str], text: str, preferred: str | None) -> tuple[str | None, str]:
    """Return the option with the longest text that `text` begins with, and what follows it."""
    folded = _plain(text)
    fitting = [
        label
        for label, option in texts.items()
        if option and folded.startswith(option) and _ends_at(folded, len(option))
    ]
    if not fitting:
        return None, text
    best = max(fitting, key=lambda label: (len(texts[label]), label == preferred))
    return best, text[len(texts[best]) :]  # `text` is bare, and folding keeps lengths


def _ends_at(text: str, at: int) -> bool:
    """Tell whether a word or number ends there: `8` does not begin `8.5` or `80`."""
    behind = text[at : at + 2]
    if not behind or not behind[0].isascii():
        return True
    return not (behind[0].isalnum() or behind[0] in "/^*+=%" or (behind[0] in ".," and behind[1:].isdigit()))


def _names_another(texts: Mapping[str, str], label: str, text: str) -> bool:
    """Tell whether an explanation names another option, so that the answer hedges."""
    found = _OTHERS.findall(text)
    mentioned = {name for after, in_brackets, alone in found for name in (after, in_brackets.upper(), alone)}
    return any(other != label and other in mentioned for other in texts)


def _bare(text: str) -> str:
    """Return a text without markup, in one line and in half-width characters."""
    return _SPACE.sub(" ", _MARKUP.sub("", fold_width(text))).strip(_EDGE)


def _plain(text: str) -> str:
    """Return what two writings of an option's text have in common."""
    return fold(_bare(text))
