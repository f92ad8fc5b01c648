"""IFEval's instructions: what follows each kind, what does not, and which problems are refused."""

import pytest

from tasks.problem import Problem
from tasks.rewards.verdict import Verdict
from tasks.rewards.verifiers.instructions import fault, judge
from tests.timing import at_most


def asked(kind: str, **arguments) -> Problem:
    return Problem(
        "i1", "general", "en", "Write.", "", "instructions", {"instructions": [{"kind": kind, **arguments}]}
    )


AT_LEAST, LESS = {"relation": "at least"}, {"relation": "less than"}
CASES = [
    ("keywords:existence", {"keywords": ["Rain", "sun"]}, "rain, then SUN", "rain alone"),
    ("keywords:frequency", {"keyword": "rain", "frequency": 2} | AT_LEAST, "rain Rain", "rain"),
    ("keywords:frequency", {"keyword": "a.c", "frequency": 1} | LESS, "abc", "a.c"),
    ("keywords:forbidden_words", {"forbidden_words": ["rain"]}, "it is raining", "Rain!"),
    ("keywords:letter_frequency", {"letter": "Z", "let_frequency": 2, "let_relation": "at least"}, "zZ", "z"),
    ("length_constraints:number_words", {"num_words": 3} | LESS, "two words", "now three words"),
    ("length_constraints:number_sentences", {"num_sentences": 2} | AT_LEAST, "One. Two!", "Dr. A is 3.5."),
    ("length_constraints:number_sentences", {"num_sentences": 2} | LESS, "Mr. A, i.e. he, left.", "One. Two"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo\n***", "one *** *** two"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\n\"Then, it rained.",
        "Then.\n\nFirst.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] of [town]", "[name\n] [ [x]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. hello", "Bye. PS hello"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S hello", "P.S. hello"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n  - two", "* one\n** two **"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Maybe."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* *two*", "*one* and **"),
    (
        "detectable_format:multiple_sections", {"section_spliter": "PART", "num_sections": 2},
        "PART 1 a PART 2 b", "PART 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<A title>>\ntext", "<<>> text"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one ****** one"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a poem."}, "write a poem. Rain", "Rain"),
    ("startend:end_checker", {"end_phrase": "That is all."}, "Rain. that is all.", "That is all. Rain"),
    ("startend:quotation", {}, '"Rain"', '"'),
    (
        "change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"},
        "GO ON now", "Go ON",
    ),
    ("change_case:english_capital", {}, "RAIN 3", "Rain"),
    ("change_case:english_lowercase", {}, "rain 3", "Rain"),
    ("punctuation:no_comma", {}, "rain and sun", "rain, sun"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arguments", "followed", "missed"), CASES)
def test_an_instruction_is_followed_or_not(kind, arguments, followed, missed):
    problem = asked(kind, **arguments)
    assert fault(problem) is None
    for layout in ("{}", "<think> , {{RAIN}} z </think>\n{}", "<think> no </think> <answer>{}</answer>"):
        assert judge(problem, layout.format(followed)).verdict is Verdict.correct
        found = judge(problem, layout.format(missed))
        assert (found.verdict, found.detail) == (Verdict.wrong, kind)


def test_every_instruction_must_be_followed():
    both = asked("punctuation:no_comma")
    both.verifier_args["instructions"].append({"kind": "detectable_format:title"})
    assert judge(both, "<<Rain>> falls").verdict is Verdict.correct
    assert judge(both, "<<Rain>>, falls").detail == "punctuation:no_comma"
    assert judge(both, "<think> it is open").verdict is Verdict.unparseable


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "a list of objects with a `kind`"),
        ([], "a list of objects"),
        ([{"kind": "language:response_language", "language": "kn"}], "no kind that rules can check"),
        ([{"kind": "length_constraints:number_words", "num_words": 3}], "lacks or misuses an argument"),
        ([{"kind": "keywords:existence", "keywords": "rain"}], "a list of texts is needed"),
        ([{"kind": "keywords:frequency", "keyword": "a", "frequency": 1, "relation": "about"}], "less than"),
    ],
)
def test_what_rules_cannot_check_is_refused(given, said):
    problem = Problem("i", "general", "en", "Write.", "", "instructions", {"instructions": given})
    assert said in fault(problem)


@pytest.mark.parametrize("text", ["[", "*", "<<", "***", "- \n", " ", '"', "P.", "``` ", "a"])
def test_time_is_linear_in_the_answer(text):
    problem = Problem(
        "i", "general", "en", "", "", "instructions",
        {"instructions": [{"kind": kind, **arguments} for kind, arguments, _, _ in CASES]},
    )  # fmt: skip
    with at_most(5):
        judge(problem, text * (400_000 // len(text)))
