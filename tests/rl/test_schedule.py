"""Prompt order and schedules by step."""

import pytest

from tasks.problem import Problem
from tasks.rewards.terms.accuracy import Accuracy
from tasks.rewards.terms.helpful import Helpful
from tasks.rl.schedule import (
    curriculum_stages,
    last_steps_begin,
    max_completion_length,
    phase_begins,
    prompt_schedule,
    refill_problems,
    training_problems,
)
from tasks.rl.stage import Curriculum, CurriculumStage, LengthStep, RLConfig


def problem(i: int, domain: str = "math", split: str = "train") -> Problem:
    return Problem(f"{domain}-{i}", domain, "en", f"what is {i}?", str(i), "math", split=split)


PROBLEMS = [problem(i) for i in range(7)] + [problem(i, "general") for i in range(5)]
CONFIG = RLConfig(steps=12, questions_per_step=4, group_size=2)


def test_every_problem_once_an_epoch():
    problems = training_problems(PROBLEMS, CONFIG)
    flat = [i for step in prompt_schedule(problems, CONFIG) for i in step]
    assert len(flat) == 48
    for epoch in range(6):
        assert sorted(flat[epoch * 7 : epoch * 7 + 7]) == list(range(7))
    assert flat[:7] != flat[7:14]


def test_a_step_does_not_depend_on_how_many_follow():
    problems = training_problems(PROBLEMS, CONFIG)
    longer = CONFIG.model_copy(update={"steps": 40})
    assert prompt_schedule(problems, longer)[:12] == prompt_schedule(problems, CONFIG)


def test_the_seed_decides_the_order():
    problems = training_problems(PROBLEMS, CONFIG)
    other = CONFIG.model_copy(update={"seed": 1})
    assert prompt_schedule(problems, other) != prompt_schedule(problems, CONFIG)


def test_general_prompts_enter_in_the_last_steps_only():
    config = CONFIG.model_copy(update={"general_last_steps": 3, "general_share": 0.5})
    problems = training_problems(PROBLEMS, config)
    general = [
        sum(problems[i].domain == "general" for i in step) for step in prompt_schedule(problems, config)
    ]
    assert general == [0] * 9 + [2] * 3


def test_held_out_problems_are_never_asked():
    rows = [problem(0), problem(1, split="held_out")]
    assert [p.id for p in training_problems(rows, CONFIG)] == ["math-0"]


@pytest.mark.parametrize("update", [{"domains": ("code",)}, {"domains": ("math",), "general_last_steps": 2}])
def test_an_empty_pool_is_refused(update):
    with pytest.raises(ValueError, match=r"no training rows of (code|general)"):
        training_problems([problem(0)], CONFIG.model_copy(update=update))


def test_length_schedule_boundary():
    config = RLConfig(length_schedule=(LengthStep(step=8_200, max_completion_length=65_536),))
    assert [max_completion_length(config, s) for s in (0, 8_199, 8_200)] == [32_768, 32_768, 65_536]


@pytest.mark.parametrize(("last", "begin"), [(None, 1700), (400, 1300), (5000, 0)])
def test_last_steps(last, begin):
    assert last_steps_begin(1700, last) == begin


def test_a_phase_begins_where_other_questions_or_rewards_enter():
    curriculum = Curriculum(stages=(CurriculumStage(step=0), CurriculumStage(step=3)))
    rewards = (Accuracy(), Helpful(last_steps=4))
    config = RLConfig(steps=12, curriculum=curriculum, rewards=rewards, general_last_steps=2)
    assert [phase_begins(config, step) for step in range(12)] == [0] * 3 + [3] * 5 + [8] * 2 + [10] * 2
    assert {phase_begins(CONFIG, step) for step in range(12)} == {0}


STAGED = CONFIG.model_copy(
    update={
        "curriculum": Curriculum(
            stages=(CurriculumStage(step=0, min_pass_rate=0.5), CurriculumStage(step=6, max_pass_rate=0.4)),
        )
    }
)
RATES = [0.0, 0.2, 0.4, 0.5, 0.8, 0.9, 1.0]


def test_a_curriculum_asks_what_is_in_reach_at_its_step():
    problems = training_problems(PROBLEMS, STAGED)
    order = prompt_schedule(problems, STAGED, RATES)
    assert {i for step in order[:6] for i in step} == {3, 4, 5, 6}
    assert {i for step in order[6:] for i in step} == {0, 1, 2}
    assert order == prompt_schedule(problems, STAGED, RATES)


def test_an_empty_stage_of_a_curriculum_is_refused():
    with pytest.raises(ValueError, match=r"step 6: none of 7 problems .* highest 1.00\): widen"):
        prompt_schedule(training_problems(PROBLEMS, STAGED), STAGED, [1.0] * 7)


def test_what_is_drawn_again_is_a_pure_function_of_step_round_and_process():
    stages = curriculum_stages(training_problems(PROBLEMS, STAGED), STAGED, RATES)
    first = refill_problems(stages, 0, 2, 1, 0, 4)
    assert sorted(first) == [3, 4, 5, 6]
    assert first == refill_problems(stages, 0, 2, 1, 0, 4)
    others = [refill_problems(stages, 0, *at, 4) for at in ((3, 1, 0), (2, 2, 0), (2, 1, 1), (2, 3, 0))]
    assert any(other != first for other in others)
    assert set(refill_problems(stages, 0, 7, 1, 0, 5)) <= {0, 1, 2}
