"""Thinking and answer of the R1 layout, however an answer is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.serving.layout import AnswerPart, ThinkingSplitter, split

PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "<", "</thi", "think>", " ", "\n", "4", "对", "\x00"])
)


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ("<think> 2 + 2 = 4 </think> <answer> 4 </answer>", False, "2 + 2 = 4", "<answer> 4 </answer>"),
        (" \n<think>\nso\n\n</think>\n\nfour", False, "so", "four"),
        ("2 + 2 = 4 </think> four", True, "2 + 2 = 4", "four"),
        ("<think> cut off by the limit", False, "cut off by the limit", ""),
        ("<think></think>four", False, "", "four"),
        ("four", False, "", "four"),
        ("  four ", False, "", "four "),
        ("Well <think> a </think> b", False, "", "Well <think> a </think> b"),
        ("<think> a </think> b </think> c", False, "a", "b </think> c"),
        ("<think> a <think> b </think> c", False, "a <think> b", "c"),
        ("<thinking> a", False, "", "<thinking> a"),
        ("<think> a </thin", False, "a </thin", ""),
        ("<thi", False, "", "<thi"),
        ("", False, "", ""),
    ],
)
def test_an_answer_is_taken_apart(text, opened, reasoning, content):
    assert split(text, opened) == AnswerPart(reasoning, content)


@given(PIECES, st.booleans())
def test_the_cuts_do_not_matter(pieces, opened):
    splitter = ThinkingSplitter(opened)
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.finish()]
    joined = AnswerPart("".join(p.reasoning for p in parts), "".join(p.content for p in parts))
    by_character = ThinkingSplitter(opened)
    single = [by_character.feed(c) for c in "".join(pieces)] + [by_character.finish()]
    assert joined == split("".join(pieces), opened)
    assert joined.reasoning == "".join(p.reasoning for p in single)
    assert joined.content == "".join(p.content for p in single)


@given(st.text(), st.text())
def test_no_text_is_lost(thinking, answer):
    found = split(f"<think>{thinking}</think>{answer}", False)
    inside, _, more = thinking.partition("</think>")
    behind = f"{more}</think>{answer}" if "</think>" in thinking else answer
    assert found == AnswerPart(inside.strip(), behind.lstrip())
