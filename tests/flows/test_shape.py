"""Recipes with stages left out, brought in from elsewhere, or ended early."""

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.experiments import Variant
from flows.feasible import complaints
from flows.graph import load_pipeline
from flows.plan import plan
from tasks.presets import PresetError
from tasks.problem import Problem, counts

STUDENT = "tiny-student-distilled"


def shaped(*skip, **variant):
    return load_pipeline("tiny", variant=Variant(skip=skip, **variant))


@pytest.mark.parametrize(
    ("skip", "fed"),
    [
        (["dev1"], {"dev2": "base", "cold-start": None}),
        (["dev1", "cold-start"], {"dev2": "base"}),
        (["dev2"], {"mixture": "dev1"}),
        (["r1-zero"], {"cold-start": "base"}),
        (["dev1", "dev2"], {"mixture": "base"}),
        (["dev3"], {"reward-models": "base", "r1": "base"}),
        (["r1"], {"r1": None, "reward-models": None, "mixture": "dev2"}),
        (["reward-models", "r1"], {"dev3": "base", "r1": None, "evaluation.r1": None}),
        (["mixture", "dev3", "student-distilled"], {"r1": "base", STUDENT: None}),
        (["student-base", "student-distilled", "student-rl-only"], {"r1": "dev3", f"{STUDENT}": None}),
        (["evaluation", "report"], {"r1": "dev3", "report": None, "evaluation.r1": None}),
    ],
)
def test_skipping_rewires_the_consumers(skip, fed):
    pipeline = shaped(*skip)
    for node, feed in fed.items():
        assert pipeline.feeds.get(node, {}).get("checkpoint") == feed
    made = set(pipeline.feeds)
    assert {f for feeds in pipeline.feeds.values() for f in feeds.values()} <= made
    assert pipeline.wired.departures


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ({"skip": ["cold-start"]}, "dev1 has no dataset, as cold-start is skipped: skip dev1 too, or bring"),
        ({"skip": ["mixture"]}, "has no dataset, as mixture is skipped"),
        ({"skip": ["base"]}, "r1-zero has no checkpoint, as base is skipped"),
        ({"skip": ["evaluation"]}, "report has no evaluation, as evaluation is skipped: skip report too"),
        ({"skip": ["mixtur"]}, "no node 'mixtur': did you mean mixture?"),
        ({"skip": ["dev2"], "until": "dev2"}, "cannot end at dev2, which is skipped"),
        ({"until": "dev9"}, "no node 'dev9': did you mean dev"),
        ({"skip": ["dev1"], "use": {"dev1": "x"}}, "dev1 is skipped and has an artifact in its place"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(variant, said):
    with pytest.raises(PresetError) as refused:
        load_pipeline("tiny", variant=Variant(**variant))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_reward_models_r1_is_trained_by_rules():
    pipeline = shaped("reward_models")
    config = pipeline.node("r1").config
    assert "reward_models" not in pipeline.feeds["r1"]
    assert [term.name for term in config.rewards] == ["accuracy", "format", "language"]
    assert (config.general_last_steps, "general" in config.domains) == (None, False)
    assert any("r1 is made without reward models: domains" in line for line in pipeline.wired.departures)
    with pytest.raises(PresetError, match="r1 cannot do without reward-models"):
        shaped("reward-models", changes={"r1.rewards": [{"name": "helpful"}]})


@pytest.mark.parametrize(
    ("until", "made"),
    [
        ("base", {"base"}),
        ("dev2", {"problems", "base", "r1-zero", "cold-start", "dev1", "dev2"}),
        ("evaluation.base", {"problems", "base", "evaluation.base"}),
    ],
)
def test_a_recipe_ends_where_it_is_told_to(until, made, store):
    pipeline = shaped(until=until)
    assert set(pipeline.feeds) == made
    assert {row.node for row in plan(pipeline, store)} == made


def test_a_skip_in_the_preset_is_the_presets_own_recipe(preset):
    pipeline = load_pipeline(preset({"skip": ["reward-models", "final_rl"]}))
    assert "@" not in pipeline.name
    assert not {"reward-models", "r1"} & set(pipeline.feeds)


def test_an_artifact_of_ones_own_stands_for_a_node(built, store, preset):
    own = store.get_ref(built.ref_name("r1"))
    variant = Variant(use={"dev1": built.ref_name("r1")}, name="mine")
    pipeline = load_pipeline(preset(), variant=variant)
    rows = {row.node: row for row in plan(pipeline, store)}
    assert rows["dev1"].ref == own
    assert "cold-start" not in rows  # nothing else reads it
    assert rows["r1-zero"].hit
    assert rows["evaluation.dev1"].node in pipeline.feeds
    assert not rows["dev2"].hit
    said = CliRunner().invoke(cli.app, ["plan", "--preset", preset(), "--use", f"dev1={own.short}"])
    assert f"dev1 is {own.short}, which is not made here" in said.stdout
    wrong = load_pipeline(preset(), variant=Variant(use={"dev1": built.ref_name("mixture")}))
    with pytest.raises(PresetError, match=r"dev1 is a checkpoint, and .*mixture is a dataset"):
        plan(wrong, store)


MATH = [Problem("a", "math", "en", "1 + 1?", "2", "math"), Problem("b", "math", "en", "2?", "2", "math")]
HELD = [Problem("h", "math", "en", "3?", "3", "math", split="held_out")]
GENERAL = [
    Problem("g", "general", "en", "hello?", "hi", "rubric", {"set": "helpfulness"}),
    Problem("i", "general", "en", "harm?", "", "rubric", {"set": "harmlessness"}),
]


@pytest.mark.parametrize(
    ("problems", "variant", "said"),
    [
        (MATH + HELD, {}, {"set mixture.general_share: 0", "reward-models: .*skip: .reward-models",
                           "r1: .*skip: .reward-models"}),
        (MATH + HELD, {"skip": ["reward-models"], "changes": {"mixture.general_share": 0}}, set()),
        (MATH + HELD + GENERAL, {}, set()),
        (MATH + HELD + GENERAL[:1], {}, {"reward-models: .*rubric of set harmlessness: skip"}),
        (MATH + HELD + GENERAL[1:], {}, {"mixture: .*with an answer", "reward-models: .*helpfulness"}),
        (MATH + GENERAL, {}, {"evaluation: .*no held-out rows"}),
        (HELD + GENERAL, {"until": "r1-zero"}, {"r1-zero: .*no training rows of math, code"}),
        ([*MATH, *HELD, *GENERAL, Problem("v", "math", "en", "?", "", "maths")], {},
         {"verifier maths, which has no file in tasks/rewards/verifiers"}),
    ],
)  # fmt: skip
def test_what_cannot_work_with_the_problems_is_said_with_the_setting_that_helps(problems, variant, said):
    import re

    found = list(complaints(load_pipeline("tiny", variant=Variant(**variant)).nodes, counts(problems)))
    assert len(found) == len(said), found
    assert all(any(re.search(pattern, line) for line in found) for pattern in said), found


def test_plan_says_it_before_anything_starts(tmp_path, preset):
    from artifacts.tables import write_table
    from tasks.problem import to_table
    from tasks.tables import PROBLEMS

    write_table(tmp_path / "math.parquet", to_table(MATH + HELD), PROBLEMS)
    path = preset({"problems.sources": [{"name": "parquet", "path": str(tmp_path / "math.parquet")}]})
    refused = CliRunner().invoke(cli.app, ["plan", "--preset", path])
    assert refused.exit_code == 1
    assert "this cannot work: mixture: " in refused.stderr
    words = ["plan", "--preset", path, "--skip", "reward-models", "--set", "mixture.general_share=0"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.stderr
    assert "r1 is made without reward models" in done.stdout
    run = CliRunner().invoke(cli.app, ["run", "--preset", path])
    assert (run.exit_code, "general_share: 0" in run.stderr) == (2, True)
