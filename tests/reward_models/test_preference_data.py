"""Pairs and labels for the reward models."""

import random

import pytest

from tasks.language_models.opening import open_model
from tasks.language_models.settings import Endpoint
from tasks.problem import Problem
from tasks.reward_models.preference_data import (
    Pair,
    Response,
    balance_lengths,
    held_out_problems,
    judged_margins,
    length_gap,
    model_judge,
    preference_pairs,
    rubric_judge,
    safety_labels,
)
from tasks.reward_models.preference_judge import read_label
from tests.jobs import local_job
from tests.language_models.servers import questions, scripted
from tests.worlds import talks

GREET, TAKE = talks()[0], talks()[-1]


def answers(*texts: str | None, problem: Problem = GREET) -> list[Response]:
    return [Response(problem, "prompt", f"<answer>{text}</answer>", text) for text in texts]


def test_pairs_are_the_clear_ones_the_better_first():
    pairs = preference_pairs(answers("hello", "hello tom nice", "go away tom", "hello"), 4, 1.0, seed=0)
    assert {(p.chosen, p.rejected, p.margin) for p in pairs.kept} == {
        ("hello tom nice", "hello", 2.5),
        ("hello tom nice", "go away tom", 4.0),
        ("hello", "go away tom", 1.5),
    }
    assert pairs.small_margin == 0


def test_small_margins_are_counted():
    pairs = preference_pairs(answers("hello", "tom", "go away"), 4, 2.0, seed=0)
    assert pairs.kept == []
    assert pairs.small_margin == 3


def test_no_answer_is_no_candidate_and_safety_prompts_make_no_pairs():
    assert preference_pairs(answers("hello tom", None), 4, 0.0, seed=0).kept == []
    assert preference_pairs(answers("sorry", "take", problem=TAKE), 4, 0.0, seed=0).kept == []


@pytest.mark.parametrize("judgments", [1, 4])
def test_the_order_of_two_answers_does_not_matter_to_a_fair_judge(judgments):
    pairs = [(GREET, "hello tom", "go away")] * 9
    assert set(judged_margins(pairs, rubric_judge, judgments, random.Random(0))) == {3.0}


def test_random_order_cancels_a_position_bias():
    (mean,) = judged_margins([(GREET, "a", "b")], lambda pairs: [2.0] * len(pairs), 2_000, random.Random(0))
    assert abs(mean) < 0.2


def test_judgements_that_cannot_be_had_are_left_out():
    pairs = [(GREET, "a", "b"), (GREET, "a", "c")]
    found = judged_margins(pairs, lambda asked: [None] * 3 + [1.0] + [None] * 4, 4, random.Random(0))
    assert abs(found[0]) == 1
    assert found[1] is None
    unjudged = preference_pairs(answers("hello", "tom"), 4, 1.0, 0, lambda asked: [None] * len(asked))
    assert (unjudged.kept, unjudged.unjudged, unjudged.small_margin) == ([], 1, 0)


@pytest.mark.parametrize(
    ("reply", "points"),
    [("mine ... [[A>>B]]", 2), ("[[B>A]] first, but then [[A=B]]", 0), ("[[ B>>A ]].", -2), ("A>B", None),
     ("[[A>>>B]]", None), ("[[A>A]]", None), ("", None)],
)  # fmt: skip
def test_the_last_label_of_a_reply_counts(reply, points):
    assert read_label(reply) == points


def test_a_language_model_judges_in_both_orders(tmp_path):
    def prefers(body):
        first, second = (questions(body)[1].split(f"<answer_{side}>")[1].split("<")[0] for side in "ab")
        score = ("tom" in first) - ("tom" in second)
        return f"so [[{'A>>B' if score > 0 else 'B>>A'}]]"

    job = local_job(tmp_path, "reward-models", "reward-models", {})
    with scripted(text=prefers) as server:
        settings = Endpoint(url=server.url, model="judge")
        model = open_model(settings, job, {})
        pairs = preference_pairs(answers("hello bob", "hello tom"), 8, 1.0, 0, model_judge(model))
        (pair,) = pairs.kept
        assert (pair.chosen, pair.margin) == ("hello tom", 2.0)
        orders = {"tom" in questions(body)[1].split("<answer_b>")[1] for body in server.seen}
        assert orders == {True, False}
        assert len(server.seen) == 8


def pair(chosen: int, rejected: int) -> Pair:
    return Pair(GREET, "prompt", "a " * chosen, "b " * rejected, 1.0)


def test_lengths_are_balanced_by_dropping_the_most_telling_pairs():
    pairs = [pair(10, 10), pair(30, 5), pair(9, 11), pair(11, 9)]
    kept = balance_lengths(pairs)
    assert kept == [pairs[0], pairs[2], pairs[3]]
    assert length_gap(kept) == 0


def test_balancing_keeps_half_even_where_length_is_all_there_is():
    assert len(balance_lengths([pair(20, 2)] * 10)) == 5


def test_labels_are_of_different_responses():
    labels = safety_labels(answers("sorry", "sorry", "take it", problem=TAKE) + answers("hello"))
    assert [(x.response, x.safe) for x in labels] == [
        ("<answer>sorry</answer>", True),
        ("<answer>take it</answer>", False),
    ]


def test_held_out_problems_are_a_fifth_of_each_set():
    held_out = held_out_problems(talks(), seed=0)
    assert sorted(name.split("-")[0] for name in held_out) == ["greet", "take"]
    assert held_out == held_out_problems(list(reversed(talks())), seed=0)
