"""Prompt templates: what the model reads, which ones there are, and that the worked examples are right."""

import re

import jinja2
import pytest
from pydantic import ValidationError

from tasks import rendering
from tasks.evaluate.stage import EvaluateConfig
from tasks.rendering import chat_template, parse_completion, render_prompt, template_of
from tasks.rl.stage import RLConfig

QUESTION = "What is 2 + 2?"
OWN = 'Q: {question} {x} "A" \n你🙂:'


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


def render(template, messages):
    return jinja2.Environment().from_string(template).render(messages=messages, eos_token="<e>")


@pytest.mark.parametrize("template", ["r1", "plain", "r1-few-shot", OWN])
def test_the_chat_template_writes_what_training_wrote(template):
    jinja = chat_template(template)
    question = 'What is {1} + "2"?\nIt\'s {{ not }} a trap.'
    asked = [{"role": "user", "content": question}]
    assert render(jinja, asked) == render_prompt(template, question)
    again = [
        *asked,
        {"role": "assistant", "content": " <answer>3</answer>"},
        {"role": "user", "content": "Why?"},
    ]
    assert render(jinja, again) == (
        render_prompt(template, question) + " <answer>3</answer><e>" + render_prompt(template, "Why?")
    )
    system = [{"role": "system", "content": "Be brief."}, *asked]
    assert render(jinja, system) == render_prompt(template, f"Be brief.\n\n{question}")


@pytest.mark.parametrize("template", ["r1", "plain", "r1-few-shot"])
def test_a_prompt_tells_the_template_it_was_rendered_with(template):
    assert template_of(render_prompt(template, QUESTION)) == template
    assert template_of(f"<|user|>{QUESTION}<|assistant|>") is None


def test_a_text_of_ones_own_is_a_template():
    assert render_prompt(OWN, "{question}?") == 'Q: {question}? {x} "A" \n你🙂:'
    assert RLConfig(template=OWN).template == OWN
    assert RLConfig(template="chat").template == "chat"
    assert EvaluateConfig().template == "r1"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("palin", r"there is no template 'palin': did you mean plain\?"),
        ("few-shot", "did you mean r1-few-shot"),
        (
            "Solve this: {problem}",
            r"use r1, plain, r1-few-shot or chat, or write \{question\} in your text once",
        ),
        ("", "there is no template ''"),
        ("{question} again: {question}", "2 times: keep the one"),
        ("x" * 10_000, r"'x{37}\.\.\.'"),
    ],
)
def test_a_template_without_a_place_for_the_question_is_refused(template, message):
    with pytest.raises(ValidationError, match=message):
        RLConfig(template=template)


def test_the_text_of_a_template_is_part_of_the_cache_key(monkeypatch):
    def keys():
        return [
            RLConfig(template=t).cache_document()["template"] for t in ("r1", "plain", "chat", OWN, OWN + " ")
        ]

    before = keys()
    assert len(set(before)) == 5
    assert before[2] == "chat", "its text lies in the base's artifact"
    monkeypatch.setitem(rendering._NAMED, "r1", "Edited. User: {question} Assistant:")
    after = keys()
    assert after[0] != before[0]
    assert after[1:] == before[1:]
