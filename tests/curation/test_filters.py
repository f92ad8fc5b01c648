"""Each filter at its border, and the order and counts of what is dropped."""

import pytest

from tasks.cold_start import curate as cold_start
from tasks.cold_start.curate import refined
from tasks.cold_start.stage import ColdStartConfig
from tasks.curation import candidates
from tasks.curation.candidates import Candidate, first_distinct, first_objection, require_some
from tasks.curation.choice import chosen
from tasks.curation.readability import FILTERS, Readability, unreadable
from tasks.problem import Problem
from tasks.rejection_sampling import mixture as rejection_sampling
from tasks.rejection_sampling.stage import RejectionSamplingConfig

EN = Problem("m1", "math", "en", "compute 1 + 2", "3", "math")
ZH = Problem("m2", "math", "zh", "计算 1 + 2", "3", "math")
LIMITS = Readability.model_validate(
    {"repetition": {"ngram": 2, "max_repeats": 2}, "long_paragraph": {"max_words": 6}}
)


def make(thinking="first 1 + 2 = 3.", problem=EN, verdict="correct", finish="stop", index=0, answer="3"):
    completion = f" <think> {thinking} </think> <answer> {answer} </answer>"
    return Candidate(problem, "p", completion, verdict, finish, index)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (make(), None),
        (make(verdict="wrong"), "wrong"),
        (make(verdict="timeout"), "timeout"),
        (make(verdict=None), "no-verdict"),
        (make(finish="length"), "truncated"),
        (Candidate(EN, "p", "<answer> 3 </answer>", "correct", "stop", 0), "malformed"),
        (make("a b c a b c"), None),
        (make("a b . a b . a b"), "repetition"),
        (make("one two three four five six"), None),
        (make("one two three four five six seven"), "long-paragraph"),
        (make("one two three four\n\nfive six seven"), None),
        (make("先算一二三四五"), "long-paragraph"),
        (make("so\n```\nx\n```"), "code-block"),
        (make("so\n    x\n    y"), "code-block"),
        (make("so\n    x"), None),
    ],
)
def test_reason(candidate, reason):
    found = first_objection(candidate, candidates.CORRECT, list(FILTERS)[:-1], LIMITS)
    assert (found and found.reason) == reason


def test_code_may_be_allowed():
    limits = Readability.model_validate({"code_block": {"allowed": True}})
    assert unreadable("code-block", "```x```", "en", limits) is None
    assert unreadable("code-block", "```x```", "en", Readability()) == "```"


def test_mixed_language_counts_words_of_the_question():
    def detail(thinking, language):
        return unreadable("mixed-language", thinking, language, Readability())

    assert detail("first 1 + 2", "en") is None
    assert detail("first 所以结果是 3", "en").startswith("0.")
    assert detail("first 1 + 2", "zh") == "0.00 of the words are zh, at least 0.9"


def test_a_filter_is_one_function_with_its_own_settings():
    assert set(Readability.model_fields) == {name.replace("-", "_") for name in FILTERS}
    with pytest.raises(ValueError, match="max_repeats"):
        Readability.model_validate({"repetition": {"max_repeats": 0}})


def test_refining_translates_the_thinking_and_nothing_else():
    mixed = make("first 1 + 2 = 3. 所以结果是 3。", answer="正确 3")
    assert refined(mixed, "lexicon").completion == (
        " <think> first 1 + 2 = 3. so the result is 3. </think> <answer> 正确 3 </answer>"
    )
    assert refined(mixed, "none") is mixed
    assert refined(make(), "lexicon").completion == make().completion
    assert "先算" in refined(make("first 1 + 2 = 3.", ZH), "lexicon").completion
    with pytest.raises(ValueError, match="refiner 'lexikon' is not known: use one of none, lexicon"):
        ColdStartConfig(refiner="lexikon")


def test_the_first_distinct_are_kept():
    sampled = [
        make(index=0),
        make(index=1),
        make("then 3", index=2),
        make("wait 3", index=3),
        make(problem=ZH),
    ]
    kept, dropped = first_distinct(sampled, 2)
    assert [(c.problem.id, c.sample_index) for c in kept] == [("m1", 0), ("m1", 2), ("m2", 0)]
    assert [(c.sample_index, r.reason) for c, r in dropped] == [(1, "duplicate"), (3, "over-quota")]


def test_cold_start_accounts_for_every_candidate():
    config = ColdStartConfig(refiner="lexicon", keep_per_problem=2)
    sampled = [
        make(index=0),
        make("先算 1 + 2 = 3。", index=1),
        make("blah 不知道 3", index=2),
        make(verdict="wrong"),
    ]
    kept, dropped, rewritten = cold_start.curate(sampled, config)
    assert [c.sample_index for c in kept] == [0]
    assert [r.reason for _, r in dropped] == ["mixed-language", "wrong", "duplicate"]
    assert rewritten == 0
    kept, dropped, rewritten = cold_start.curate(sampled[1:], config)
    assert rewritten == len(kept) == 1
    assert candidates.rejected_table(dropped).num_rows == 2


def test_rejection_sampling_does_not_refine():
    sampled = [make(), make("先算 1 + 2 = 3。", index=1)]
    kept, dropped = rejection_sampling.curate(sampled, RejectionSamplingConfig())
    assert len(kept) == 1
    assert candidates.reason_counts(dropped) == {"mixed-language": 1}


def test_nothing_left_says_why():
    _, dropped, _ = cold_start.curate(
        [make(verdict="wrong")] * 3 + [make(finish="length")], ColdStartConfig()
    )
    with pytest.raises(ValueError, match=r"none of 4 candidates passed \(wrong 3, truncated 1\)"):
        require_some([], dropped, "cold start")


@pytest.mark.parametrize(
    ("reasoning", "share", "general"), [(600, 0.25, 200), (626_933, 0.22095, 177_809), (5, 0, 0)]
)
def test_general_share_is_of_the_whole_mixture(reasoning, share, general):
    assert rejection_sampling.general_count(reasoning, share) == pytest.approx(general, rel=1e-3)


def test_a_mixture_needs_reasoning():
    with pytest.raises(ValueError, match="choose below 1"):
        rejection_sampling.general_count(10, 1.0)


def test_problems_are_chosen_by_seed_from_train_alone():
    problems = [
        Problem(f"m{i}", "math", "en", f"{i}", "1", "math", split="held_out" if i % 5 == 0 else "train")
        for i in range(50)
    ]
    first = chosen(problems, ("math",), 10, 1)
    assert first == [p for p in problems if p in first]
    assert len(first) == 10
    assert all(p.split == "train" for p in first)
    assert {p.id for p in first} == {p.id for p in chosen(problems[::-1], ("math",), 10, 1)}
    assert first != chosen(problems, ("math",), 10, 2)
    assert len(chosen(problems, ("math",), 1_000, 1)) == 40
    with pytest.raises(ValueError, match="no training problem of code"):
        chosen(problems, ("code",), 10, 1)
    leak = [*problems, Problem("m0", "math", "en", "0", "1", "math")]
    with pytest.raises(ValueError, match=r"1 problem ids are in train and held_out, e\.g\. m0"):
        chosen(leak, ("math",), 10, 1)
