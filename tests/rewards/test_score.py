"""Composition, schedule, routing, health, and the stress test: structure without an answer earns little."""

import pytest

from tasks.registry import models
from tasks.rewards.health import RewardHealth
from tasks.rewards.score import RewardFunction, Scored, finite, scored_columns
from tasks.rewards.term import Scorer, Scoring, Term
from tasks.rewards.terms.accuracy import Accuracy
from tasks.rewards.terms.format import Format
from tasks.rewards.terms.helpful import Helpful
from tasks.rewards.terms.language import Language
from tasks.rewards.terms.overlength import Overlength
from tasks.rewards.terms.repetition import Repetition, repetition_penalty
from tasks.rewards.terms.safety import Safety
from tasks.rewards.verdict import Judgement, Verdict
from tests.rewards.rows import completion, problem

ZERO = (Accuracy(), Format())
ALL = (*ZERO, Language(weight=0.5))


def scored(terms, pool, problems, completions, step=0, total_steps=1, tokens=None, limit=1_000):
    """By terms that need no models; every completion is ten tokens long unless `tokens` says otherwise."""
    lengths = tokens or [10] * len(completions)
    return RewardFunction(terms, pool).score(problems, completions, lengths, limit, step, total_steps)


def scoring(text, **given):
    return Scoring(**{"problem": problem(answer="7"), "completion": text, "judgement": None, "tokens": 10,
                      "limit": 100} | given)  # fmt: skip


def test_every_file_of_the_folder_is_a_term():
    assert set(models("tasks.rewards.terms", Term)) == {
        "accuracy", "format", "language", "helpful", "safety", "repetition", "overlength",
    }  # fmt: skip


FORMAT = {
    "whole": ("<think> a </think> <answer> 1 </answer>", 1.0),
    "no opening tag (no template here pre-fills it)": ("a </think> <answer> 1 </answer>", 0.0),
    "empty thinking": ("<think> </think> <answer> 1 </answer>", 0.0),
    "empty answer": ("<think> a </think> <answer> </answer>", 0.0),
    "text after the answer": ("<think> a </think> <answer> 1 </answer> so", 0.0),
    "text between": ("<think> a </think> so <answer> 1 </answer>", 0.0),
    "two answers": ("<think> a </think> <answer> 1 </answer> <answer> 1 </answer>", 0.0),
    "two thinkings": ("<think> a </think> <think> b </think> <answer> 1 </answer>", 0.0),
    "wrong order": ("<answer> 1 </answer> <think> a </think>", 0.0),
    "no tags": ("a 1", 0.0),
    "nothing": ("", 0.0),
}


@pytest.mark.parametrize(("text", "expected"), FORMAT.values(), ids=FORMAT)
def test_format(text, expected):
    assert Format().value(scoring(text)) == expected


def test_terms_are_weighted_and_each_is_its_own_value(pool):
    right, wrong = scored(ALL, pool, [problem(answer="7")] * 2, [completion("7"), completion("8", "等等")])
    assert right.terms == {"accuracy": 1.0, "format": 1.0, "language": 1.0}
    assert right.total == 2.5
    assert wrong.terms == {"accuracy": 0.0, "format": 1.0, "language": 0.0}
    assert wrong.total == 1.0


def test_length_and_repetition_cost(pool):
    terms = [Accuracy(), Repetition(ngram=2), Overlength(buffer=100)]
    texts = [completion("7", thinking) for thinking in ("a b c d", "a b c d", "no " * 50)]
    found = scored(terms, pool, [problem(answer="7")] * 3, texts, tokens=[900, 950, 1_000])
    assert [s.terms["overlength"] for s in found] == [0.0, -0.5, -1.0]
    assert [s.terms["repetition"] < -0.8 for s in found] == [False, False, True]
    assert found[0].terms["repetition"] == repetition_penalty("x y z", 2) == 0.0
    assert found[1].total == 0.5


def test_a_term_of_the_last_steps_is_silent_before_them():
    term = Helpful(last_steps=400)
    assert [term.is_active(step, 1_700) for step in (0, 1_299, 1_300, 1_699)] == [False, False, True, True]


def fixed(cls, value: float):
    """A preference term whose model gives every row of its set the same score."""

    class Fixed(cls):
        def scorer(self, resources) -> Scorer:
            return lambda rows: [value if self._scores(row) else None for row in rows]

    return Fixed


def test_general_problems_go_to_their_own_reward_model_and_no_rule(pool):
    terms = (*ZERO, fixed(Helpful, 0.5)(last_steps=1), fixed(Safety, 0.25)())
    asked = [problem(answer="7"), problem("rubric", set="helpfulness"), problem("rubric", set="harmlessness")]
    texts = [completion("7")] * 3
    early, late = (scored(terms, pool, asked, texts, step, 2) for step in (0, 1))
    assert [sorted(s.terms) for s in early] == [["accuracy", "format"], ["format"], ["format", "safety"]]
    assert [sorted(s.terms) for s in late] == [
        ["accuracy", "format"],
        ["format", "helpful"],
        ["format", "safety"],
    ]
    assert [s.total for s in late] == [2.0, 1.5, 1.25]
    assert [s.judgement is None for s in late] == [False, True, True]


def test_a_term_without_its_reward_model_is_refused(pool):
    with pytest.raises(ValueError, match="reward-models"):
        RewardFunction((Helpful(),), pool)


def test_the_columns_of_a_sample_are_the_terms_and_the_judgement(pool):
    asked = [problem(answer="7"), problem("rubric", set="helpfulness")]
    columns = scored_columns(scored(ZERO, pool, asked, [completion("7"), completion("hello")]), ZERO)
    assert columns == {
        "thinking": ["so it is"] * 2, "answer": ["7", "hello"], "verdict": ["correct", None],
        "reward_accuracy": [1.0, None], "reward_format": [1.0, 1.0],
    }  # fmt: skip
    assert [finite(v) for v in (1.5, None, float("nan"), float("inf"))] == [1.5, None, None, None]


def rows(totals, verdict=Verdict.wrong):
    return [
        Scored(scoring("", judgement=Judgement(verdict, None, "a reason")), {}, total) for total in totals
    ]


def test_a_constant_reward_stops_the_stage_with_a_reason():
    health = RewardHealth(constant_steps=3)
    assert [health.observe(rows([1.0, 1.0])) for _ in range(2)] == [None, None]
    assert "nothing to learn" in health.observe(rows([1.0, 1.0]))


def test_a_reward_that_varies_once_is_no_constant():
    health = RewardHealth(constant_steps=2)
    assert [health.observe(rows([0.0, total])) for total in (1.0, 0.0, 0.0)] == [None, None, None]


def test_errors_above_the_limit_stop_the_stage():
    health = RewardHealth(error_limit=0.05, least_rows=20)
    assert health.observe(rows([0.0, 1.0], Verdict.error)) is None
    reason = health.observe(rows([0.0, 1.0] * 10))
    assert "2 of 22" in reason
    assert "a reason" in reason
    assert RewardHealth().observe(rows([0.0, 1.0] * 20)) is None


def never(count, text, verdict=Verdict.wrong, tokens=5, format_value=0.0):
    """One rollout of completions that earn nothing."""
    judgement = Judgement(verdict, None, "a reason")
    row = Scoring(problem(answer="7"), text, judgement, tokens, 9)
    return [Scored(row, {"format": format_value}, float(i % 2)) for i in range(count)]


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        (never(4, "the answer is 8"), ["pass rate was 0 in 3 rollouts", "100% without <think>", "template"]),
        (never(4, completion("8"), tokens=9), ["100% cut by the length limit", "max_completion_length (9)"]),
        (never(4, "<think> a </think> b"), ["100% not well formed", "look at samples"]),
        (never(4, completion("8"), format_value=1.0), ["problems are too hard"]),
        (never(4, "8", Verdict.correct), ["format was 0 in 3 rollouts", "tags"]),
    ],
)
def test_a_run_that_learns_nothing_stops_with_the_likely_reasons(rollout, said):
    health = RewardHealth(futile_rollouts=3)
    assert [health.observe(rollout) for _ in range(2)] == [None, None]
    reason = health.observe(rollout)
    assert all(part in reason for part in said), reason


def test_one_success_starts_the_count_anew_and_0_means_never():
    bad, good = never(4, "8"), never(4, completion("7"), Verdict.correct, format_value=1.0)
    health = RewardHealth(futile_rollouts=3)
    assert [health.observe(r) for r in (bad, bad, good, bad, bad)] == [None] * 5
    patient = RewardHealth(futile_rollouts=0)
    assert {patient.observe(bad) for _ in range(50)} == {None}
    unjudged = [Scored(scoring("", judgement=None), {}, float(i % 2)) for i in range(4)]
    assert {RewardHealth(futile_rollouts=2).observe(unjudged) for _ in range(5)} == {None}


JUNK = {
    "one letter": "<think></think>a",
    "an empty answer": completion(""),
    "any word": completion("a"),
    "the question's words": completion("the answer"),
    "every digit": completion("0 1 2 3 4 5 6 7 8 9"),
    "many guesses": completion("7 or 8 or 9 or 10 or 11 or 12"),
    "many boxes": completion(r"\boxed{11} \boxed{12}"),
    "all letters": completion("A B C D"),
    "all options": completion("11, 12, 13"),
    "an option in another's text": completion("B. 13"),
    "the answer in the thinking": completion("see above", "it is 12, A"),
    "the gold's name": completion("gold"),
    "an expression that absorbs": completion("x"),
    "an infinity": completion(r"\infty"),
    "not a number": completion("nan"),
    "0/0": completion(r"\frac{0}{0}"),
    "a whole line": completion(r"(-\infty, \infty)"),
    "code that exits": completion("```python\nimport os; os._exit(0)\n```"),
    "code that prints all": completion("```python\nprint(*range(99))\n```"),
    "tags within tags": "<think> a </think> <answer> <answer> 12 </answer> </answer>",
    "ten answers": "<think> a </think> " + "<answer> 12 </answer> " * 10,
}  # fmt: skip
ASKED = {
    "math": problem(answer="12"),
    "choice": problem("choice", "B", options={"A": "11", "B": "12", "C": "13"}),
    "exact": problem("exact", "Ann Bob"),
    "function": problem("code", "", entry_point="f", cases=[{"args": [1], "expected": 12}]),
    "stdin": problem("code", "", cases=[{"stdin": "", "stdout": "12\n"}]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ASKED)
def test_junk_with_valid_structure_earns_no_accuracy(pool, kind):
    found = scored(ZERO, pool, [ASKED[kind]] * len(JUNK), list(JUNK.values()))
    accuracy = {name: s.terms["accuracy"] for name, s in zip(JUNK, found, strict=True)}
    assert accuracy == dict.fromkeys(JUNK, 0.0)
    assert max(s.total for s in found) <= 1.0
