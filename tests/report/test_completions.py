"""Which completions the report offers, how much of them, and that they stay data in the page."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.tables import write_table
from tasks.problem import Problem, to_table
from tasks.report import selection
from tasks.report.browser import (
    ENOUGH_QUESTIONS,
    NO_RULE,
    TEXT_LIMITS,
    Excerpt,
    ShownSample,
    browser_data,
    browser_part,
)
from tasks.report.selection import choose
from tasks.tables import PROBLEMS, SAMPLES
from tasks.text_safety import for_page


def problem(name, domain="math", level=None, **more):
    return Problem(
        name, domain, "en", f"What is {name}?", "7", "exact", split="held_out", level=level, **more
    )


def row(
    question, index=0, verdict="correct", completion="<think> 3 + 4 </think>\n<answer> 7 </answer>", **more
):
    empty = {field.name: None if field.nullable else 0 for field in SAMPLES}
    texts = {field.name: "" for field in SAMPLES if field.type == "string" and not field.nullable}
    given = {"problem_id": question, "sample_index": index, "verdict": verdict, "completion": completion,
             "completion_tokens": 9, "finish_reason": "stop"}  # fmt: skip
    return empty | texts | given | more


def stored(folder, table, rows, schema=SAMPLES):
    write_table(folder / f"{table}.parquet", rows, schema)
    return folder / table


@given(st.text(max_size=60), st.integers(1, 40), st.integers(1, 40))
def test_an_excerpt_is_both_ends_and_the_number_of_characters_between(text, limit, smaller):
    shown = Excerpt.of(text, limit)
    left_out = shown.document()["cut"]
    assert text.startswith(shown.head)
    assert text.endswith(shown.tail)
    assert len(shown.head) + left_out + len(shown.tail) == len(text)
    assert left_out == max(0, len(text) - limit)
    assert shown.shortened(smaller) == Excerpt.of(text, min(limit, smaller))


@pytest.mark.parametrize(
    ("completion", "folded", "rest"),
    [
        ("<think> a b </think>\n<answer> 7 </answer>", "<think> a b </think>", "<answer> 7 </answer>"),
        ("a b </think> 7 </think>", "a b </think>", "7 </think>"),
        ("<think> a b", None, "<think> a b"),
        ("7", None, "7"),
        ("", None, ""),
    ],
)
def test_thinking_is_folded_apart(completion, folded, rest):
    sample = ShownSample.of_row("r1", row("q", completion=completion))
    assert (sample.thinking and sample.thinking.head) == folded
    assert sample.text.head == rest


def test_a_sample_has_its_verdict_and_the_rewards_that_apply():
    given = row("q", verdict=None, reward=1.23456, reward_format=1.0, reward_helpful=float("nan"))
    data = browser_data([ShownSample.of_row("r1", given)], [problem("q")])
    [sample] = data["questions"][0]["samples"]
    assert (sample["verdict"], sample["reward"], sample["rewards"]) == (NO_RULE, 1.235, {"format": 1.0})
    json.dumps(data, allow_nan=False)


@given(st.text(st.characters(), max_size=200))
def test_no_text_ends_the_element_that_holds_the_data(text):
    sample = ShownSample.of_row(text, row("q", verdict=text, completion=text))
    made = problem("q")
    part = browser_part(browser_data([sample], [replace(made, prompt=text, answer=text, source=text)]))
    part.data.encode()  # a lone surrogate could not be written
    assert not set(part.data) & set("<>&\u2028\u2029")
    shown = json.loads(part.data)["questions"][0]
    assert shown["prompt"]["head"] == shown["source"] == for_page(text)


def test_columns_follow_the_recipe_and_then_the_training():
    names = [("r1", None), ("r1-zero", 20), ("r1-zero", 0), ("base", None), ("mine", None)]
    samples = [ShownSample.of_row(node, row("q"), step) for node, step in names]
    columns = browser_data(samples, [problem("q")])["columns"]
    assert [c["title"] for c in columns] == ["Base", "R1", "mine", "R1-Zero, step 0", "R1-Zero, step 20"]
    assert [c["name"] for c in columns][-1] == "r1-zero@20"


@pytest.mark.parametrize(("text", "size"), [("x", 50), ("x", 9_000), ("你<", 1_500), ("\u202e", 30_000)])
def test_whatever_the_texts_the_data_stays_below_its_size(size, text):
    problems = [problem(f"q{i}") for i in range(70)]
    samples = [
        ShownSample.of_row(f"n{node}", row(p.id, k, completion=text * size))
        for p in problems for node in range(9) for k in range(3)
    ]  # fmt: skip
    data = browser_data(samples, problems, 5_000, 3_000_000)
    part = browser_part(data)
    shown = len(data["questions"])
    assert len(part.data.encode()) <= 3_000_000
    assert shown >= 20 if shown < 70 else True
    assert f"{shown} of 5,000 questions" in data["note"]
    cut = data["questions"][0]["samples"][0]["text"]
    limit = next(n for n in TEXT_LIMITS if f"longer than {n:,} characters" in data["note"])
    assert cut["cut"] == max(0, len(text) * size - limit)
    assert limit == TEXT_LIMITS[0] or shown >= min(ENOUGH_QUESTIONS, 70) or limit == TEXT_LIMITS[-1]


def test_questions_come_in_turn_from_every_kind(tmp_path, monkeypatch):
    monkeypatch.setattr(
        selection, "_TABLES", selection._TABLES.replace(f"LIMIT {selection.QUESTIONS}", "LIMIT 8")
    )
    many = [problem(f"math-{i}", level=1) for i in range(50)]
    few = [problem("code-1", "code"), problem("hard-1", level=5), problem("aime-1", source="aime24")]
    unanswered = [problem("never-1", "stem")]
    problems = stored(tmp_path, "problems", to_table([*many, *few, *unanswered]), PROBLEMS)
    samples = stored(tmp_path, "samples", [row(p.id) for p in (*many, *few)])
    found = choose(problems, {"r1": samples}, {})
    names = [p.id for p in found.problems]
    assert found.of_questions == 53
    assert len(names) == 8
    assert {"code-1", "hard-1", "aime-1"} <= set(names[:4])
    assert choose(problems, {"r1": samples}, {}) == found


def test_of_each_verdict_there_is_a_sample_and_the_counts_are_of_all(tmp_path):
    verdicts = ["wrong"] * 5 + ["correct"] * 3 + ["timeout"]
    problems = stored(tmp_path, "problems", to_table([problem("q")]), PROBLEMS)
    shards = tmp_path / "samples"
    for i, verdict in enumerate(verdicts):
        write_table(shards / f"{i:05d}.parquet", [row("q", i, verdict)], SAMPLES)
    found = choose(problems, {"r1": shards}, {}).samples
    assert [(s.index, s.verdict) for s in found] == [(0, "wrong"), (5, "correct"), (8, "timeout")]
    assert {(s.right, s.of) for s in found} == {(3, 9)}


def test_without_a_rule_nothing_counts_as_correct(tmp_path):
    problems = stored(tmp_path, "problems", to_table([problem("q", "general")]), PROBLEMS)
    samples = stored(tmp_path, "samples", [row("q", i, None) for i in range(5)])
    found = choose(problems, {"r1": samples}, {}).samples
    assert [(s.index, s.right, s.of) for s in found] == [(0, None, 5), (1, None, 5), (2, None, 5)]


def test_of_the_evaluations_in_training_some_steps_are_offered_first_and_last_among_them(tmp_path):
    problems = stored(tmp_path, "problems", to_table([problem("q")]), PROBLEMS)
    evaluated = stored(tmp_path, "samples", [row("q")])
    training = stored(tmp_path, "evaluation_samples", [row("q", step=step) for step in range(0, 103, 3)])
    found = choose(problems, {"r1": evaluated}, {"r1": training}).samples
    steps = [s.step for s in found]
    assert steps.count(None) == 1
    steps.remove(None)
    assert (len(steps), steps[0], steps[-1]) == (selection.STEPS, 0, 102)
    gaps = {late - early for early, late in pairwise(steps)}
    assert max(gaps) - min(gaps) <= 3
