"""The SQL of scores against a plain computation on random tables, and the sets that are scored together."""

import random
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.tables import conform, write_table
from tasks.evaluate.estimators import consensus, pass_at_k
from tasks.evaluate.scores import QuestionSet, question_scores, scores
from tasks.problem import VERIFIABLE, Problem
from tasks.tables import SAMPLES

VERDICTS = ("correct", "wrong", "unparseable", "timeout")


def problems(count: int, rng: random.Random, source: str) -> list[Problem]:
    return [
        Problem(
            f"{source}{i}", rng.choice(("math", "logic", "code", "general")), rng.choice(("en", "zh")), "q",
            "0", "exact", source=source, level=rng.choice((None, 1, 5)), split="held_out",
        )
        for i in range(count)
    ]  # fmt: skip


def sample(problem: Problem, index: int, verdict: str | None, rng: random.Random) -> dict:
    return {
        "problem_id": problem.id, "sample_index": index, "checkpoint": "0" * 64, "prompt": "p",
        "completion": "c", "thinking": rng.choice((None, "t")),
        "answer": {"correct": "0", "wrong": rng.choice("123")}.get(verdict), "prompt_tokens": 3,
        "completion_tokens": rng.randint(1, 90), "finish_reason": rng.choice(("stop", "length")),
        "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 90, "seed": index, "engine": "e 1",
        "verdict": verdict, "reward_format": float(rng.random() < 0.5), "reward_language": rng.random(),
    }  # fmt: skip


def judged(asked: list[Problem], samples: int, rng: random.Random) -> list[dict]:
    rows = []
    for problem in asked:
        has_rule = rng.random() < 0.8
        rows += [sample(problem, i, rng.choice(VERDICTS) if has_rule else None, rng) for i in range(samples)]
    return rows


def by_hand(rows: list[dict], n: int, ks: list[int]) -> dict[str, float]:
    """The metrics of one question."""
    found = {}
    if rows[0]["verdict"] is not None:
        right = [row["verdict"] == "correct" for row in rows]
        found = {f"pass_at_{k}": pass_at_k(n, sum(right), k) for k in ks}
        votes = [None if row["answer"] is None else row["answer"] for row in rows]
        found[f"cons_at_{n}"] = consensus(votes, right)
    language = [row["reward_language"] for row in rows if row["thinking"] is not None]
    return found | {
        "format": fmean(row["reward_format"] for row in rows),
        **({"language_consistency": fmean(language)} if language else {}),
        "length": fmean(row["completion_tokens"] for row in rows),
        "truncated": fmean(row["finish_reason"] == "length" for row in rows),
    }


@settings(max_examples=12, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 9), st.integers(1, 6))
def test_sql_is_the_plain_computation(rng, own, benchmark):
    sets = [
        QuestionSet(problems(4, rng, "own"), own, (1, max(1, own // 2))),
        QuestionSet(problems(3, rng, "aime24"), benchmark),
    ]
    rows = [judged(list(asked.problems), asked.samples, rng) for asked in sets]
    shuffled = [row for part in rows for row in part]
    rng.shuffle(shuffled)
    by_question = question_scores(conform(shuffled, SAMPLES), sets, lambda pairs: [False] * len(pairs))
    found = {(r["problem_id"], r["metric"]): r["value"] for r in by_question.to_pylist()}
    expected = {
        (p.id, metric): value
        for asked, part in zip(sets, rows, strict=True)
        for p in asked.problems
        for metric, value in by_hand(
            sorted((r for r in part if r["problem_id"] == p.id), key=lambda r: r["sample_index"]),
            asked.samples, asked.ks,
        ).items()
    }  # fmt: skip
    assert found == pytest.approx(expected)

    questions = {p.id: p for asked in sets for p in asked.problems}
    count = {p.id: asked.samples for asked in sets for p in asked.problems}
    for row in scores(by_question, sets, 0).to_pylist():
        of_group = [
            (questions[i], value) for (i, metric), value in expected.items() if metric == row["metric"]
            and in_group(questions[i], row["by"], row["group"])
        ]  # fmt: skip
        assert row["value"] == pytest.approx(fmean(value for _, value in of_group))
        assert row["questions"] == len(of_group)
        assert row["samples_per_question"] == min(count[p.id] for p, _ in of_group)
        assert row["low"] <= row["value"] <= row["high"]


def in_group(problem: Problem, by: str, group: str) -> bool:
    if by == "domain" and group in ("verifiable", "all"):
        return group == "all" or problem.domain in VERIFIABLE
    if by in ("level", "language") and problem.domain not in VERIFIABLE:
        return False
    return str(getattr(problem, by)) == group


def test_every_grouping_and_only_metrics_that_say_something():
    rng = random.Random(1)
    sets = [QuestionSet(problems(12, rng, "own"), 4, (2,)), QuestionSet(problems(12, rng, "aime24"), 8)]
    rows = [row for asked in sets for row in judged(list(asked.problems), asked.samples, rng)]
    by_question = question_scores(conform(rows, SAMPLES), sets, lambda pairs: [False] * len(pairs))
    table = scores(by_question, sets, 0).to_pylist()
    keys = [(r["by"], r["group"], r["metric"]) for r in table]
    assert max(Counter(keys).values()) == 1
    assert {(by, group) for by, group, _ in keys} >= {
        ("domain", "math"), ("domain", "verifiable"), ("domain", "all"), ("level", "1"), ("level", "5"),
        ("language", "en"), ("language", "zh"), ("source", "own"), ("source", "aime24"),
    }  # fmt: skip
    assert ("domain", "all", "pass_at_1") not in keys
    of_source = {
        group: [m for by, g, m in keys if (by, g) == ("source", group)] for group in ("own", "aime24")
    }
    ending = ["format", "language_consistency", "length", "truncated"]
    assert of_source["own"] == ["pass_at_1", "pass_at_2", "cons_at_4", *ending]
    assert of_source["aime24"] == ["pass_at_1", "pass_at_8", "cons_at_8", *ending]


def test_a_file_and_a_folder_of_shards_score_as_the_table(tmp_path):
    rng = random.Random(2)
    sets = [QuestionSet(problems(6, rng, "own"), 4)]
    rows = judged(list(sets[0].problems), 4, rng)
    write_table(tmp_path / "samples.parquet", rows, SAMPLES)
    for number, start in enumerate((0, 10)):
        part = rows[start : start + 10] if not number else rows[start:]
        write_table(tmp_path / "shards's" / "samples" / f"{number}.parquet", part, SAMPLES)
    found = [
        question_scores(given, sets, lambda pairs: [False] * len(pairs)).to_pylist()
        for given in (
            conform(rows, SAMPLES), tmp_path / "samples.parquet", tmp_path / "samples",
            tmp_path / "shards's" / "samples",
        )
    ]  # fmt: skip
    assert found[0]
    assert all(table == found[0] for table in found)


@pytest.mark.parametrize("change", ["missing", "unasked", "half judged"])
def test_samples_that_do_not_fit_the_questions_are_refused(change):
    rng = random.Random(3)
    asked = problems(2, rng, "own")
    rows = [sample(p, i, "wrong", rng) for p in asked for i in range(3)]
    if change == "missing":
        rows.pop()
    elif change == "unasked":
        rows += [sample(problems(1, rng, "other")[0], 0, "wrong", rng)]
    else:
        rows[-1]["verdict"] = None
    said = {"missing": "own1 has 2 samples, not 3", "unasked": "other0, which was not asked",
            "half judged": "own1 has a verdict on 2 of 3 samples"}[change]  # fmt: skip
    with pytest.raises(ValueError, match=said):
        question_scores(conform(rows, SAMPLES), [QuestionSet(asked, 3)], lambda pairs: [False] * len(pairs))


def test_programs_vote_by_their_text_up_to_white_space():
    problem = Problem("c", "code", "en", "q", "", "code", source="own")
    rng = random.Random(4)
    rows = [sample(problem, i, "correct", rng) for i in range(3)]
    rows += [sample(problem, i, "wrong", rng) for i in (3, 4)]
    for row, text in zip(rows, ("a", "b", "c", "x = 1\n\n y", "x = 1　\x1fy "), strict=True):
        row["answer"] = text
    found = question_scores(
        conform(rows, SAMPLES), [QuestionSet([problem], 5)], lambda pairs: [False] * len(pairs)
    )
    assert {r["metric"]: r["value"] for r in found.to_pylist()}["cons_at_5"] == 0
