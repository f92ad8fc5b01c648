"""reasoning-gym as a source: splits share nothing, what is stored is graded, bad settings are refused."""

import json

import pytest

from artifacts.tables import read_table
from tasks.presets import read_preset
from tasks.problem import from_table
from tasks.problems.draw import run
from tasks.problems.sources.reasoning_gym import GymTask, ReasoningGym, gym_problems
from tasks.problems.sources.tiny_world import TinyWorld
from tasks.problems.stage import ProblemsConfig
from tasks.rewards.pool import VerifierPool
from tests.jobs import local_job

CHAINS = GymTask(domain="math", train=60, held_out=15, settings={"max_terms": 2, "max_digits": 1})
LETTERS = GymTask(domain="logic", train=20, held_out=5)


def questions(problems, split):
    return {p.prompt for p in problems if p.split == split}


def test_splits_share_no_question_even_where_there_are_few():
    problems, refused = gym_problems({"chain_sum": CHAINS}, 0)
    assert (len(questions(problems, "train")), len(questions(problems, "held_out"))) == (60, 15)
    assert not questions(problems, "train") & questions(problems, "held_out")
    assert len({p.id for p in problems}) == 75
    assert refused == []


def test_problems_are_a_function_of_the_seed():
    assert gym_problems({"chain_sum": CHAINS}, 3) == gym_problems({"chain_sum": CHAINS}, 3)
    near = [questions(gym_problems({"letter_counting": LETTERS}, seed)[0], "train") for seed in (0, 1)]
    assert not near[0] & near[1]


def test_more_training_problems_leave_the_held_out_ones_as_they_are():
    few, many = (
        gym_problems({"letter_counting": LETTERS.model_copy(update={"train": n})}, 0) for n in (5, 50)
    )
    assert questions(few[0], "held_out") == questions(many[0], "held_out")


def test_a_stored_problem_is_graded_by_reasoning_gym(tmp_path):
    sources = (
        ReasoningGym(tasks={"chain_sum": CHAINS, "letter_counting": LETTERS}),
        TinyWorld(train={"general": 10}, held_out={"general": 3}),
    )
    config = ProblemsConfig(sources=sources)
    job = local_job(tmp_path, "problems", "problems", {})
    run(config, job)
    stored = from_table(read_table(job.draft / "problems.parquet"))
    assert {p.domain for p in stored} == {"math", "logic", "general"}
    ruled = [p for p in stored if p.verifier == "reasoning_gym"]
    with VerifierPool() as pool:
        right = pool.verify(ruled, [f"<think> x </think> <answer> {p.answer} </answer>" for p in ruled])
        wrong = pool.verify(ruled, ["<think> x </think> <answer> 987654 </answer>"] * len(ruled))
    assert {j.verdict.value for j in right} == {"correct"}
    assert {j.verdict.value for j in wrong} == {"wrong"}


def test_every_entry_survives_json():
    problems, _ = gym_problems({"letter_counting": LETTERS}, 0)
    assert all(json.loads(json.dumps(p.verifier_args)) == p.verifier_args for p in problems)


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("chain_sums", CHAINS, "has no such dataset; did you mean chain_sum"),
        ("chain_sum", {"settings": {"max_term": 3}}, "refuses these settings .*max_term"),
        ("chain_sum", {"settings": {"min_terms": 4, "max_terms": 2}}, "refuses these settings"),
        ("chain_sum", {"settings": {"max_terms": 2, "max_digits": 1}, "train": 5_000}, "fewer than 5000"),
        ("propositional_logic", {}, "0 different held_out questions that it can grade"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_sentence(name, task, message):
    task = task if isinstance(task, GymTask) else LETTERS.model_copy(update=task)
    with pytest.raises(ValueError, match=message) as caught:
        gym_problems({name: task}, 0)
    assert str(caught.value).startswith(f"problems.tasks.{name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["smollm2-135m", "qwen-1.5b", "qwen-7b"])
def test_reasoning_gym_knows_the_datasets_and_settings_of_the_presets(preset):
    sources = read_preset(preset).problems.sources
    (tasks,) = (source.tasks for source in sources if isinstance(source, ReasoningGym))
    few = {name: task.model_copy(update={"train": 4, "held_out": 2}) for name, task in tasks.items()}
    problems, _ = gym_problems(few, 0)
    assert len(problems) == 6 * len(tasks)
