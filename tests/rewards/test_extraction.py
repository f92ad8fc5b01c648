"""Which text counts as the final answer: the documented rules, one row each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rewards.extraction import boxes, final_answer, fold_width

ANSWERS = {
    "tags": ("<think>a</think><answer> 12 </answer>", "12"),
    "tags, thinking pre-filled by the prompt": ("a</think><answer>12</answer>", "12"),
    "a box without tags": (r"<think>a</think> It is \boxed{12}.", "12"),
    "a box within tags narrows them": (r"<think>a</think><answer>so \boxed{\sqrt{2}}</answer>", r"\sqrt{2}"),
    "two equal boxes": (r"<think>a</think> \boxed{12}, so \boxed{12}", "12"),
    "two different boxes": (r"<think>a</think> \boxed{12} or \boxed{13}", None),
    "two different boxes in tags": (r"<think>a</think><answer>\boxed{12} \boxed{13}</answer>", None),
    "two answer elements": ("<think>a</think><answer>12</answer><answer>12</answer>", None),
    "the answer only inside the thinking": ("<think>a <answer>12</answer></think> done", None),
    "a box only inside the thinking": (r"<think> \boxed{12} </think> I do not know", None),
    "thinking never closed": (r"<think>a <answer>12</answer>", None),
    "thinking opened again": (r"<think>a</think> \boxed{12} <think> b", None),
    "thinking never closed, a box": (r"<think>a \boxed{12}", None),
    "no thinking at all, tags": ("<answer>12</answer>", "12"),
    "empty thinking": ("<think></think><answer>12</answer>", "12"),
    "an empty answer": ("<think>a</think><answer> </answer>", None),
    "an empty box": (r"<think>a</think> \boxed{}", None),
    "answer tags in the wrong order": ("<think>a</think></answer>12<answer>", None),
    "an unclosed answer": ("<think>a</think><answer>12", None),
    "an unclosed box": (r"<think>a</think> \boxed{12", None),
    "neither tags nor box": ("<think>a</think> 12", None),
    "nothing": ("", None),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_final_answer(text, expected):
    assert final_answer(text) == expected


def test_boxes_balance_their_braces():
    assert boxes(r"\boxed{a{b}c} and \fboxed{d} and \boxed{{}") == ["a{b}c", "d"]


def test_full_width_signs_are_folded():
    assert fold_width("（１２，ａ）＝－３．５％") == "(12,a)=-3.5%"


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        r"\boxed{",
        "}",
        "{",
        "```",
        "\n",
        "12",
        " ",
        "答案",
        "\x00",
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_has_one_answer_or_none_and_it_stands_after_the_thinking(text):
    found = final_answer(text)
    assert found is None or (found.strip() and found in text.rpartition("</think>")[2])


@given(st.text(max_size=200))
def test_thinking_alone_never_answers(text):
    assert final_answer(f"<think>{text}") is None


@given(st.text(alphabet="0123456789abc+-*/^() ", min_size=1, max_size=40).filter(str.strip))
def test_what_stands_in_the_tags_comes_back(answer):
    assert final_answer(f"<think>a</think><answer>{answer}</answer>") == answer.strip()
