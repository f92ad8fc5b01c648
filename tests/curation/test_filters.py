"""Each filter at its border, and the order and counts of what is dropped."""

import os
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.cold_start.refine import Refiner, by_rule
from tasks.cold_start.stage import ColdStartConfig
from tasks.curation import candidates
from tasks.curation.candidates import Candidate, Sieve, duplicates, incorrect, require_some
from tasks.curation.choice import chosen
from tasks.curation.diversity import surplus
from tasks.curation.filtering import Filtering, first_objections
from tasks.curation.readability import FILTERS, Readability, unreadable
from tasks.language_models.chat import RuleModel
from tasks.problem import Problem
from tasks.rejection_sampling import mixture as rejection_sampling
from tasks.rejection_sampling.stage import RejectionSamplingConfig
from tasks.rendering import parse_completion
from tasks.settings import REPOSITORY

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
    (readable,) = first_objections([(candidate.thinking, "en")], list(FILTERS)[:-1], LIMITS)
    found = incorrect(candidate) or readable
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


def lexicon(*sampled):
    return Refiner(RuleModel(by_rule("lexicon"))).rewrite(sampled, frozenset())


def test_refining_translates_the_thinking_and_nothing_else():
    mixed = make("first 1 + 2 = 3. 所以结果是 3。", answer="正确 3")
    assert lexicon(mixed)[0].completion == (
        " <think> first 1 + 2 = 3. so the result is 3. </think> <answer> 正确 3 </answer>"
    )
    assert Refiner(None).rewrite([mixed], frozenset()) == [mixed]
    assert lexicon(make())[0].completion == make().completion
    assert "先算" in lexicon(make("first 1 + 2 = 3.", ZH))[0].completion
    with pytest.raises(ValueError, match="refiner 'lexikon' is not known: use one of none, lexicon"):
        ColdStartConfig(refiner="lexikon")


def test_the_first_of_equal_completions_is_kept():
    sampled = [make(index=0), make(index=1), make("then 3", index=2), make(problem=ZH)]
    assert [found and found.reason for found in duplicates(sampled)] == [None, "duplicate", None, None]


def test_the_most_different_are_kept():
    texts = [
        "first 1 + 2 = 3 so 3",
        "first 1 + 2 = 3 so it is 3",
        "count up from one: two, three",
        "two and one",
    ]
    sampled = [make(text, index=i) for i, text in enumerate(texts)] + [make(problem=ZH)]
    kept = [c.sample_index for c, found in zip(sampled, surplus(sampled, 2), strict=True) if not found]
    assert kept == [0, 2, 0]
    assert all(found is None for found in surplus(sampled, 4))
    assert [f.reason for f in surplus(sampled, 1) if f] == ["over-quota"] * 3


def _chosen_in_a_process(seed):
    code = (
        "from tests.curation.test_filters import make\nfrom tasks.curation.diversity import surplus\n"
        "import random\nr = random.Random(0)\n"
        "rows = [make(' '.join(r.choices('abcdefgh', k=30)), index=i) for i in range(12)]\n"
        "print([i for i, found in enumerate(surplus(rows, 5)) if not found])"
    )
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    ).stdout


def test_the_choice_is_the_same_in_every_process():
    assert _chosen_in_a_process("1") == _chosen_in_a_process("2")


_TEXTS = st.lists(st.text("ab 所\n", max_size=12), max_size=12)


@settings(deadline=None)  # the first Chinese text loads jieba's dictionary
@given(texts=_TEXTS, verdicts=st.lists(st.sampled_from(["correct", "wrong", None]), min_size=12, max_size=12))
def test_every_candidate_is_kept_or_dropped_once(texts, verdicts):
    sampled = [
        make(text, index=i, verdict=verdict, problem=(EN, ZH)[i % 2])
        for i, (text, verdict) in enumerate(zip(texts, verdicts, strict=False))
    ]
    with Filtering(list(FILTERS), LIMITS, len(sampled)) as filtering:
        config = RejectionSamplingConfig(keep_per_problem=1)
        sieve = rejection_sampling.curate(Sieve(sampled), filtering, config)
    seen = [c.sample_index for c in sieve.kept] + [c.sample_index for c, _ in sieve.dropped]
    assert sorted(seen) == [c.sample_index for c in sampled]
    rows = len(sampled)
    for _, kept, dropped in sieve.steps:
        assert rows == kept + sum(dropped.values())
        rows = kept
    assert rows == len(sieve.kept)


@pytest.mark.slow
def test_filters_say_the_same_in_processes_as_in_one():
    texts = [(f"first {i} so 所以 " * (i % 9), ("en", "zh")[i % 2]) for i in range(500)]
    with Filtering(list(FILTERS), LIMITS, 100_000, processes=2) as several:
        assert several.objections(texts) == first_objections(texts, list(FILTERS), LIMITS)
        assert several._processes is not None


@pytest.mark.parametrize(("texts", "started"), [(12_000, False), (100_000, True)])
def test_processes_start_for_what_takes_longer_than_they_do(texts, started):
    """Of one line each: 12,000 take about a second."""
    with Filtering(list(FILTERS), LIMITS, texts, processes=2) as filtering:
        assert filtering.objections([("first 1 + 2 = 3.", "en")] * 512) == [None] * 512
        assert (filtering._processes is not None) is started


def test_a_thinking_is_parsed_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        candidates, "parse_completion", lambda text: calls.append(text) or parse_completion(text)
    )
    candidate = make()
    assert candidate.thinking == candidate.thinking == "first 1 + 2 = 3."
    assert incorrect(candidate) is None
    assert len(calls) == 1


def test_rejection_sampling_does_not_refine():
    sieve = Sieve([make(), make("先算 1 + 2 = 3。", index=1)])
    with Filtering(list(FILTERS), Readability(), 2) as filtering:
        rejection_sampling.curate(sieve, filtering, RejectionSamplingConfig())
    assert len(sieve.kept) == 1
    assert candidates.reason_counts(sieve.dropped) == {"mixed-language": 1}


def test_nothing_left_says_why():
    with pytest.raises(ValueError, match=r"none of 4 candidates passed \(wrong 3, truncated 1\)"):
        require_some(0, Counter({"wrong": 3, "truncated": 1}), "cold start")


def test_domains_are_capped_by_the_seed():
    domains = pa.chunked_array([["math"] * 6, ["code"] * 3 + ["math"] * 4])
    out = rejection_sampling.beyond_the_caps(domains, {"math": 4, "stem": 1}, 1).to_pylist()
    assert len(out) == 6
    assert set(out) <= {0, 1, 2, 3, 4, 5, 9, 10, 11, 12}
    assert out == rejection_sampling.beyond_the_caps(domains, {"math": 4, "stem": 1}, 1).to_pylist()
    assert out != rejection_sampling.beyond_the_caps(domains, {"math": 4}, 2).to_pylist()
    assert len(rejection_sampling.beyond_the_caps(domains, {}, 1)) == 0


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
