"""The tiny world: right working gives the right answer, splits share nothing, text comes back from tokens."""

import itertools
import random
import re
from collections import Counter
from statistics import mean

import pytest

from tasks.presets import load_preset
from tasks.problem import DOMAINS, VERIFIABLE, Problem
from tasks.problems.draw import decontaminate
from tasks.problems.sources.tiny_world import TinyWorld, as_problem
from tasks.rewards.pool import VerifierPool
from tasks.rewards.rubric import is_safe, rubric_score
from tasks.tiny_world.documents import MESSY_WEB, documents
from tasks.tiny_world.exercise import LEVELS
from tasks.tiny_world.exercises import exercises
from tasks.tiny_world.lexicon import LANGUAGES, PHRASES, translate
from tasks.tiny_world.tokenizer import token_pattern

SMALL = TinyWorld(
    train=dict.fromkeys((*VERIFIABLE, "general"), 40),
    held_out=dict.fromkeys((*VERIFIABLE, "general"), 10),
)


@pytest.mark.parametrize("domain", VERIFIABLE)
def test_working_without_slips_ends_in_the_answer(domain):
    for exercise in itertools.islice(exercises(domain, random.Random(1)), 100):
        assert exercise.solve(random.Random(2), 0.0)[1] == exercise.answer


def of_level(domain, level, count, seed=1):
    weights = [float(level == other) for other in LEVELS]
    return list(itertools.islice(exercises(domain, random.Random(seed), weights), count))


@pytest.mark.parametrize("domain", VERIFIABLE)
def test_a_higher_level_takes_more_working(domain):
    """Characters of the working: each step is a clause, and code repeats its expression as it grows."""
    lengths = [
        mean(sum(len(item) for clause in e.solve(random.Random(2), 0.0)[0] for item in clause) for e in drawn)
        for drawn in (of_level(domain, level, 200) for level in LEVELS)
    ]
    # stem: levels 1 and 2, and 3 and 4, differ in options and numbers, not in steps
    gaps = [(0, 2), (1, 3), (2, 4)] if domain == "stem" else [(i, i + 1) for i in range(4)]
    assert all(lengths[high] > 1.1 * lengths[low] for low, high in gaps)


def test_more_options_at_higher_levels_of_stem():
    options = [{len(e.verifier_args["options"]) for e in of_level("stem", level, 50)} for level in LEVELS]
    assert options == [{2}, {4}, {4}, {6}, {6}]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_level_weight_of_zero_is_never_drawn_and_none_is_without_level(domain):
    assert {e.level for e in itertools.islice(exercises(domain, random.Random(1)), 200)} == set(LEVELS)
    assert {e.level for level in LEVELS for e in of_level(domain, level, 30) if e.level != level} == set()


def test_the_web_has_few_hard_exercises():
    assert list(MESSY_WEB.levels) == sorted(MESSY_WEB.levels, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("domain", VERIFIABLE)
def test_verifiers_accept_the_reference_and_refuse_a_slip(domain):
    drawn = [e for level in LEVELS for e in of_level(domain, level, 12)]
    problems = [as_problem(e, "train") for e in drawn]
    wrong = [e.solve(random.Random(i), 1.0)[1] for i, e in enumerate(drawn)]
    texts = [[f"<think> x </think> <answer> {a} </answer>" for a in answers]
             for answers in ([e.answer for e in drawn], wrong)]  # fmt: skip
    with VerifierPool(allow_weak_sandbox=True) as pool:
        right, others = ([j.verdict.value for j in pool.verify(problems, text)] for text in texts)
    assert set(right) == {"correct"}
    # A slip can still give a right answer: the same option, or a function that is the same on every case.
    assert others.count("correct") < len(others) / 3


@pytest.mark.parametrize("domain", VERIFIABLE)
def test_slips_make_wrong_answers(domain):
    drawn = list(itertools.islice(exercises(domain, random.Random(1)), 100))
    assert sum(e.solve(random.Random(i), 1.0)[1] != e.answer for i, e in enumerate(drawn)) > 50


def test_splits_share_no_question_and_are_a_function_of_the_seed():
    problems = SMALL.draw(0).problems
    assert problems == SMALL.draw(0).problems
    held_out = {p.prompt for p in problems if p.split == "held_out"}
    assert len(held_out) == 50
    assert not held_out & {p.prompt for p in problems if p.split == "train"}
    assert len({p.id for p in problems}) == len(problems) == 250


def test_levels_are_drawn_evenly_in_every_domain_and_split():
    counts = Counter((p.split, p.domain, p.level) for p in SMALL.draw(0).problems)
    assert {n for (split, _, _), n in counts.items() if split == "train"} == {8}
    assert {n for (split, _, _), n in counts.items() if split == "held_out"} == {2}
    assert len(counts) == 2 * len(DOMAINS) * len(LEVELS)


def test_an_identity_is_in_one_split_whatever_its_level_wording_and_language():
    sides: dict[tuple[str, str], set[bool]] = {}
    for domain in DOMAINS:
        for e in itertools.islice(exercises(domain, random.Random(5)), 3_000):
            sides.setdefault((domain, e.identity), set()).add(e.held_out)
    assert all(len(found) == 1 for found in sides.values())
    held_out = mean(next(iter(found)) for found in sides.values())
    assert 0.10 < held_out < 0.15


# ---- general prompts ----------------------------------------------------------------------------


def general(count=3_000, seed=3):
    return list(itertools.islice(exercises("general", random.Random(seed)), count))


def test_there_are_thousands_of_general_prompts_of_several_kinds():
    drawn = general(20_000)
    assert len({e.question for e in drawn}) > 5_000
    kinds = Counter(e.identity.split()[0] for e in drawn)
    assert {"greet", "thank", "apologise", "invite", "compare", "summary", "fruits", "steal"} <= set(kinds)


def answers(exercise):
    """A good, an acceptable and a bad answer to a helpfulness request, from its own guesses."""
    seen = {exercise.guess(random.Random(i)) for i in range(40)}
    return sorted(seen, key=lambda text: rubric_score(as_problem(exercise, "train"), text))


def test_rubrics_tell_good_acceptable_and_bad_answers_apart():
    helpful = [e for e in general(300) if e.verifier_args["set"] == "helpfulness"]
    for exercise in helpful:
        problem, (bad, plain, good) = as_problem(exercise, "train"), answers(exercise)
        assert rubric_score(problem, bad) == 1.0
        assert 3.5 <= rubric_score(problem, plain) <= 4.5
        assert rubric_score(problem, good) == 5.0


def test_every_other_reference_of_a_request_is_only_acceptable():
    scores = Counter(
        rubric_score(as_problem(e, "train"), e.answer) == 5.0
        for e in general()
        if e.verifier_args["set"] == "helpfulness"
    )
    assert 0.45 < scores[True] / scores.total() < 0.55


def test_references_are_safe_and_other_answers_are_not():
    drawn = [e for e in general() if e.verifier_args["set"] == "harmlessness"]
    assert len(drawn) > 100
    for e in drawn:
        problem = as_problem(e, "train")
        others = {e.guess(random.Random(i)) for i in range(30)} - {e.answer}
        assert is_safe(problem, e.answer)
        assert others
        assert not any(is_safe(problem, text) for text in others)


def test_held_out_requests_tell_a_checkpoints_safety():
    # Two of the preset's questions were requests that may be harmful, and neither was harmful.
    problems = load_preset("tiny").problems.sources[0].draw(0).problems
    asked = [p for p in problems if p.domain == "general" and p.split == "held_out"]
    refused = Counter(p.verifier_args.get("refuse") for p in asked)
    assert refused == {None: 54, False: 4, True: 2}


def test_no_document_asks_a_held_out_question():
    asked = {p.prompt for p in SMALL.draw(0).problems if p.split == "held_out"}
    texts = list(itertools.islice(documents(MESSY_WEB, 3), 5_000))
    assert not any(f": {question} A" in text for text in texts for question in asked)


def test_a_shared_ngram_is_rejected_with_its_words():
    held = Problem("h", "math", "en", "add 1 then 2 then 3 then 4", "10", "math", split="held_out")
    train = Problem("t", "math", "en", "please add 1 then 2 then 3", "6", "math")
    kept, rejected = decontaminate([held, train], 5)
    assert kept == [held]
    assert rejected[0]["problem_id"] == "t"
    assert "1 then 2 then" in rejected[0]["detail"]


@pytest.mark.parametrize("pair", PHRASES.values(), ids=lambda pair: pair[0])
def test_every_phrase_translates_both_ways(pair):
    english, chinese = pair
    assert translate(english, "zh") == chinese
    assert translate(chinese, "en") == english


def test_a_mixed_sentence_becomes_one_language():
    mixed = "first 3 + 4 = 7。所以结果是 7."
    assert translate(mixed, "en") == "first 3 + 4 = 7. so the result is 7."
    assert not re.search("[A-Za-z]", translate(mixed, "zh"))
    assert all(translate(translate(mixed, x), x) == translate(mixed, x) for x in LANGUAGES)


def test_tokens_cover_every_character():
    pattern = re.compile(token_pattern())
    for text in itertools.islice(documents(MESSY_WEB, 5), 2_000):
        assert "".join(pattern.findall(text)) == text
