"""The tiny world: right working gives the right answer, splits share nothing, text comes back from tokens."""

import itertools
import random
import re

import pytest

from tasks.problem import VERIFIABLE, Problem
from tasks.problems.draw import decontaminate
from tasks.problems.sources.tiny_world import TinyWorld
from tasks.tiny_world.documents import MESSY_WEB, documents
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
