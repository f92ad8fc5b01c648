"""Every pure function that reads text of models takes time in proportion to the text, whatever the text is.

A completion of 32,768 tokens holds 130,000 characters. Such a function runs in the process that
trains, so a text that takes it seconds stops every GPU.
"""
# ruff: noqa: E501  (tables)

import time

import pytest

from tasks.curation.readability import FILTERS
from tasks.problem import Problem
from tasks.problems.decontamination import words_of
from tasks.problems.test_cases import code_blocks
from tasks.rendering import parse_completion
from tasks.rewards.extraction import boxes, final_answer, fold, fold_width
from tasks.rewards.language import language_consistency, repetition, words
from tasks.rewards.plain_math import decide, normalise, screen
from tasks.rewards.programs import program_text
from tasks.rewards.rubric import is_safe, rubric_score, word_count
from tasks.rewards.score import RULE_TERMS
from tasks.rewards.term import Scoring
from tasks.rewards.terms.repetition import repetition_penalty
from tasks.rewards.verifiers.choice import judge_choice
from tasks.text_safety import for_markdown, for_page, for_terminal, nfkc
from tasks.tiny_world.lexicon import translate
from tasks.training.metrics import reflective_words

LENGTH = 10_000
QUICK = 0.04
"""Seconds of processor time that are no question. What took 9 s for 130,000 characters took 0.05 s here."""
SLOW = 1.5

PARTS = {
    "open formulas": r"\( x ", "open displays": r"\[ x ", "open dollars": "$$ x $ ", "one dollar": "$a",
    "open environments": r"\begin{cases} ", "many environments": r"\begin{align}\begin{cases}",
    "open commands": r"\text{", "commands with options": r"\text[", "commands": r"\alpha", "backslashes": "\\",
    "open boxes": r"\boxed{", "boxes": r"\boxed{1}", "fboxes": r"\fbox {", "boxes without braces": r"\boxed ",
    "fractions": r"\frac{1}{", "closed fractions": r"\frac {1} {2}", "braces": "{", "closing braces": "}",
    "brackets": "(", "calls": "f(", "long calls": "f(x x x x ", "square brackets": "[",
    "code blocks": "```\n", "code marks": "`", "fences": "```x\n~~~\n", "indented code": "\n    x\n", "tildes": "~",
    "tags": "<", "closing tags": "</think> <answer> b </answer>", "thinking tags": "<think>", "answers": "<answer>",
    "well formed": "<think> a </think> <answer> b </answer> ", "all tags": "<think></think><answer></answer>",
    "spaces": " ", "new lines": "\n", "lines of spaces": " \n", "tabs": "\t", "no-break spaces": "\u00a0",
    "digits": "1", "numbers": "12 ", "commas": "1,", "thousands": "1,000", "points": "1.", "dots": ".",
    "signs": "+", "minus": "- ", "powers": "^", "towers": "2^", "starred": "**", "equals": "=", "less": "1 <= n ",
    "exclamation": "1!", "digits and letters": "a1", "underscores": "_", "hyphens": "a-", "apostrophes": "a'",
    "letters": "a", "capitals": "A", "words": "wait ", "reflective": "wait", "option": "answer is ", "points of figures": "A'B",
    "Chinese": "计算", "Chinese words": "所以结果是 ", "Chinese numerals": "九", "Chinese scales": "亿", "colons": ": ",
    "English numbers": "one hundred ", "hyphenated numbers": "twenty-", "instructions": "put your final answer ",
    "Chinese instructions": "请逐步", "modulo": "mod 10^9", "marks": "\u0315\u0300", "accents": "e\u0301", "ligatures": "\ufdfa",
    "wide": "Ａ１", "Greek": "α", "escapes": "\x1b[", "at": "@", "addresses": "www.", "domains": "a@b.", "urls": "http://",
    "emoji": "👩\u200d", "astral": "𝑥", "controls": "\x00", "surrogates": "\ud800",
}  # fmt: skip
"""What a hostile text repeats."""


def texts(part: str, length: int) -> list[str]:
    """The part over and over: inside an answer, and as the parts of a completion."""
    text = part * (length // len(nfkc(part) or part))
    return [f"B {text} x!", f"<think> {text} </think> <answer> {text[: length // 2]} </answer>"]


PROBLEM = Problem("p", "general", "zh", "q", "B", "choice", {"options": {"A": "7", "B": "8"}})
HELPFUL = Problem(
    "h", "general", "en", "q", "", "rubric", {"set": "helpfulness", "must": ["hello", "你"], "max_words": 9}
)
HARMLESS = Problem(
    "s", "general", "en", "q", "", "rubric", {"set": "harmlessness", "refuse": True, "unsafe_words": ["take"]}
)


def of_term(term):
    return lambda text: term.value(Scoring(PROBLEM, text, None, 9, 99))


FUNCTIONS = {
    "parse_completion": parse_completion, "final_answer": final_answer, "program_text": program_text, "boxes": boxes,
    "fold": fold, "fold_width": fold_width, "words": words, "repetition": lambda text: repetition(text, 8),
    "consistency en": lambda text: language_consistency(text, "en"),
    "consistency zh": lambda text: language_consistency(text, "zh"),
    "repetition penalty": lambda text: repetition_penalty(text, 8), "reflective words": reflective_words,
    "rubric": lambda text: rubric_score(HELPFUL, text), "safety": lambda text: is_safe(HARMLESS, text),
    "word_count": word_count, "choice": lambda text: judge_choice("B", {"A": "7", "B": "8"}, text),
    "normalise": normalise, "screen": screen, "decide": lambda text: decide(normalise("5"), text),
    "code_blocks": code_blocks, "for_terminal": for_terminal, "for_markdown": for_markdown, "for_page": for_page,
    "nfkc": nfkc, "words_of": words_of,
    "translate": lambda text: translate(text, "zh"),
    **{f"term {term.name}": of_term(term) for term in RULE_TERMS if term.name != "accuracy"},
    **{f"filter {name}": (lambda text, check=check: check(text, "zh")) for name, check in FILTERS.items()},
}  # fmt: skip


def seconds(function, text: str) -> float:
    started = time.process_time()
    function(text)
    return time.process_time() - started


@pytest.mark.parametrize("name", FUNCTIONS)
def test_time_is_linear_in_the_text(name):
    function = FUNCTIONS[name]
    function("warm up 中文")
    slow = {}
    for part, repeated in PARTS.items():
        for long, short in zip(texts(repeated, LENGTH), texts(repeated, LENGTH // 4), strict=True):
            taken = seconds(function, long)
            if taken > QUICK:  # again, since the first time may have been disturbed
                taken = min(taken, seconds(function, long))
            if taken > SLOW or (taken > QUICK and taken > 9 * seconds(function, short)):
                slow[part] = round(taken, 1)
                break
    assert not slow
