"""Prompt templates: what the model reads, and that the worked examples are right."""

import re

import pytest

from tasks.rendering import parse_completion, render_prompt

QUESTION = "What is 2 + 2?"


@pytest.mark.parametrize("template", ["r1", "plain", "r1-few-shot"])
def test_every_prompt_ends_where_the_model_starts_to_write(template):
    assert render_prompt(template, QUESTION).endswith(f"User: {QUESTION} Assistant:")


def test_few_shot_is_the_published_template_with_examples_between():
    published, few_shot = (render_prompt(t, QUESTION) for t in ("r1", "r1-few-shot"))
    preamble = published.removesuffix(f"User: {QUESTION} Assistant:")
    assert few_shot.startswith(preamble + "User: ")
    assert few_shot.count("User: ") == 4
    assert few_shot.count("</answer><|im_end|>\nUser: ") == 3


def test_the_worked_examples_earn_both_rewards():
    shots = render_prompt("r1-few-shot", QUESTION).split("User: ")[1:-1]
    parsed = [parse_completion(_answered(shot)) for shot in shots]
    assert all(p.well_formed for p in parsed)
    sum_, logic, letters = (p.answer for p in parsed)
    assert int(sum_) == 17 + 25 - 8
    assert logic == "No"
    assert int(letters) == re.search(r'text: "(\w+)"', shots[2])[1].count("r")


def _answered(shot: str) -> str:
    """What the assistant of an example writes, as an engine would return it: without the end token."""
    return shot.partition(" Assistant:")[2].rstrip().removesuffix("<|im_end|>")
