"""Ablations: what a side changes, that nothing else is made again, and the differences of known numbers."""

import json
import random
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from artifacts.tables import read_table, write_table
from flows import cli
from flows.ablation import (
    QUESTIONS,
    Ablation,
    AblationSide,
    available,
    compare,
    load_ablation,
    result_of,
    run_sides,
    side_pipeline,
    write_result,
)
from flows.cli.ablate import show_result
from tasks.kinds import Kind
from tasks.presets import PresetError
from tasks.presets import available as presets
from tasks.recipe import Node
from tasks.settings import REPOSITORY
from tasks.tables import METRICS, QUESTION_SCORES
from tests.flows.conftest import Publisher

PASS, CONSISTENT = "verifiable/pass_at_1", "verifiable/language_consistency"


def ablation(**changes):
    sides = {"baseline": {"node": "dev2"}, "variant": {"node": "dev2", "set": {"dev2.steps": 3}}}
    words = {"title": "t", "paper": "p", "measures": [PASS], "curves": ["reward"]}
    return Ablation.model_validate(sides | words | changes)


def drawn(mean, questions=400, seed=0, spread=0.2):
    rng = random.Random(seed)
    return {f"q{i}": mean + spread * (2 * rng.random() - 1) for i in range(questions)}


# ---- what the files say -----------------------------------------------------------------------


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("preset", presets())
def test_every_ablation_fits_every_preset(name, preset, monkeypatch):
    monkeypatch.setattr("tasks.presets._check_problems", lambda *_: None)  # the user's own files
    asked = load_ablation(name)
    for side in (asked.baseline, asked.variant):
        pipeline = side_pipeline(side, name, preset, 0)
        assert list(pipeline.feeds)[-1].startswith("evaluation.")
    assert asked.measures


def test_language_reward_takes_one_term_away_and_leaves_the_rest():
    asked = load_ablation("language-reward")
    own, other = (side_pipeline(s, "language-reward", "tiny", 0) for s in (asked.baseline, asked.variant))
    assert (own.name, other.name) == ("tiny", "tiny@language-reward")
    rewards = [[term.name for term in p.nodes["dev2"].config.rewards] for p in (own, other)]
    assert rewards == [["accuracy", "format", "language"], ["accuracy", "format"]]
    assert {n for n in own.nodes if own.nodes[n].config != other.nodes[n].config} == {"dev2"}
    assert set(own.feeds) == {"problems", "base", "r1-zero", "cold-start", "dev1", "dev2", "evaluation.dev2"}


def test_no_cold_start_starts_from_the_base_and_makes_less():
    variant = side_pipeline(load_ablation("no-cold-start").variant, "no-cold-start", "tiny", 0)
    assert variant.feeds["dev2"]["checkpoint"] == "base"
    assert set(variant.feeds) == {"problems", "base", "dev2", "evaluation.dev2"}


def test_distillation_beside_rl_changes_no_setting():
    asked = load_ablation("distill-vs-rl")
    sides = [side_pipeline(side, "distill-vs-rl", "tiny", 0) for side in (asked.baseline, asked.variant)]
    assert {side.name for side in sides} == {"tiny"}
    assert "mixture" not in sides[0].feeds
    assert "mixture" in sides[1].feeds
    ends = [list(side.feeds)[-1] for side in sides]
    assert ends == ["evaluation.tiny-student-rl-only", "evaluation.tiny-student-distilled"]


def test_a_limit_is_a_share_of_the_presets_own():
    asked = load_ablation("length-cap")
    for preset in ("tiny", "qwen-7b"):
        own, half = (side_pipeline(s, "length-cap", preset, 0) for s in (asked.baseline, asked.variant))
        lengths = [p.nodes["r1-zero"].config.max_completion_length for p in (own, half)]
        assert lengths[1] == round(lengths[0] / 2)
        assert half.nodes["r1-zero"].config.length_schedule == ()


def test_a_seed_changes_what_is_trained_and_not_what_is_asked():
    side = AblationSide(node="dev2")
    first, second = (side_pipeline(side, "x", "tiny", seed) for seed in (0, 1))
    assert second.name == "tiny@seed-1"
    same = {n for n in first.nodes if first.nodes[n].config == second.nodes[n].config}
    assert same == {"problems", "base", "evaluation"}
    assert second.nodes["dev2"].config.seed == first.nodes["dev2"].config.seed + 1_000
    both = side_pipeline(AblationSide(node="dev2", set={"dev2.steps": 3}), "x", "tiny", 2)
    assert both.name == "tiny@x+seed-2"


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ({"node": "dev9"}, "the recipe has no node 'evaluation.dev9'"),
        ({"node": "dev2", "set": {"dev2.stepz": 1}}, "dev2.stepz is not a setting: did you mean steps?"),
        ({"node": "dev2", "scale": {"dev2.loss": 0.5}}, "dev2.loss is no number in this preset"),
        ({"node": "dev2", "scale": {"dev9.steps": 0.5}}, "dev9.steps: the recipe has no node 'dev9'"),
        (
            {"node": "r1-zero", "without_rewards": {"r1-zero": ["language"]}},
            "r1-zero has no reward term language in this preset (it has accuracy, format)",
        ),
        ({"node": "dev2", "skip": ["dev2"]}, "evaluation.dev2"),
    ],
)
def test_a_side_that_fits_no_preset_is_one_sentence(side, said):
    with pytest.raises(PresetError) as refused:
        side_pipeline(AblationSide.model_validate(side), "x", "tiny", 0)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_are_no_ablation(tmp_path):
    with pytest.raises(PresetError, match="no ablation 'language-rewards': did you mean language-reward"):
        load_ablation("language-rewards")
    file = tmp_path / "mine.yaml"
    file.write_text("title: t\npaper: p\nbaseline: {node: dev2}\nvariant: {nod: dev2}\nmeasures: []\n")
    with pytest.raises(PresetError, match="variant"):
        load_ablation(str(file))
    file.write_text("- 1")
    with pytest.raises(PresetError, match=r"mine\.yaml"):
        load_ablation(str(file))


# ---- numbers ----------------------------------------------------------------------------------


def test_the_difference_is_paired_over_questions():
    """The questions differ far more than the sides do: only pairs can tell them apart."""
    baseline = drawn(0.5, spread=0.5)
    variant = {question: value - 0.02 for question, value in baseline.items()}
    (found,) = compare(
        ablation(curves=[]),
        {"baseline": [{PASS: baseline}], "variant": [{PASS: variant}]},
        {"baseline": [{}], "variant": [{}]},
    ).measures
    assert found.value == pytest.approx(-0.02)
    assert found.low <= found.value <= found.high < 0
    assert found.high - found.low < 1e-6
    assert found.p_value < 0.01
    assert (found.questions, found.low_over_seeds) == (400, None)
    assert found.variant - found.baseline == pytest.approx(found.value)


def test_only_questions_of_both_sides_count():
    values = {"baseline": [{PASS: {"a": 0.0, "b": 1.0, "c": 1.0}}], "variant": [{PASS: {"a": 1.0, "b": 1.0}}]}
    found = compare(ablation(), values, {"baseline": [{}], "variant": [{}]})
    assert (found.measures[0].questions, found.measures[0].baseline) == (2, 0.5)
    assert found.not_measured == ["reward of the baseline", "reward of the variant"]


def test_seeds_have_an_interval_of_their_own():
    gains = (0.10, 0.16, 0.04)
    values = {
        "baseline": [{PASS: drawn(0.5, seed=seed)} for seed in range(3)],
        "variant": [{PASS: drawn(0.5 + gain, seed=seed)} for seed, gain in enumerate(gains)],
    }
    (found,) = compare(ablation(), values, {"baseline": [{}] * 3, "variant": [{}] * 3}).measures
    assert found.by_seed == pytest.approx(gains)
    assert found.value == pytest.approx(0.10)
    # Student's t with two degrees of freedom: 4.303 x 0.06 / sqrt(3).
    assert found.low_over_seeds == pytest.approx(0.10 - 0.1490, abs=2e-4)
    assert found.high_over_seeds == pytest.approx(0.10 + 0.1490, abs=2e-4)


def test_trends_of_both_sides():
    rng = random.Random(0)

    def curve(slope):
        return [(step, slope * step + rng.gauss(0, 0.05)) for step in range(60)]

    curves = {"baseline": [{"reward": curve(0)}], "variant": [{"reward": curve(-0.02)}]}
    values = {side: [{PASS: {"a": 1.0}}] for side in curves}
    flat, falling = compare(ablation(), values, curves).curves
    assert (flat.side, falling.side) == ("baseline", "variant")
    assert flat.low < 0 < flat.high
    assert falling.high < 0
    assert falling.last - falling.first == pytest.approx(-0.02 * 54, abs=0.1)
    short = {side: [{"reward": found[0]["reward"][:9]}] for side, found in curves.items()}
    assert not compare(ablation(), values, short).curves


def test_a_measure_that_one_side_lacks_is_named():
    values = {"baseline": [{PASS: {"a": 1.0}}], "variant": [{}]}
    found = compare(ablation(curves=[]), values, {"baseline": [{}], "variant": [{}]})
    assert (found.measures, found.not_measured) == ([], [PASS])


# ---- a whole ablation on artifacts of a few bytes -------------------------------------------------


class Results(Publisher):
    """Publishes evaluations with question scores, and checkpoints with a training curve."""

    def fill(self, draft, node: Node):
        super().fill(draft, node)
        if node.stage.output == Kind.evaluation:
            variant = "language-reward" in self.pipeline.name
            rows = [
                {"problem_id": f"p{i}", "domain": "math", "level": 1, "language": "en", "source": "t",
                 "metric": metric, "value": value - 0.25 * (variant and metric == "language_consistency")}
                for i in range(40)
                for metric, value in (("pass_at_1", i % 2), ("language_consistency", 0.9))
            ]  # fmt: skip
            write_table(draft / "question_scores.parquet", rows, QUESTION_SCORES)
        if node.stage.output == Kind.checkpoint:
            rows = [{"step": n, "name": "language_consistency", "value": 0.9 - n / 100} for n in range(20)]
            write_table(draft / "metrics.parquet", rows, METRICS)


@pytest.fixture
def building(store, tmp_path):
    """Builds pipelines out of nothing, and what it had to make for each."""
    made = {}

    class Reusing(Results):
        def make(self, node, stage, config, **inputs):
            from flows.graph import key_of

            if found := self.store.lookup(key_of(Node(node, stage, config), inputs)):
                return found
            made.setdefault(self.pipeline.name, []).append(node)
            return super().make(node, stage, config, **inputs)

    def build(pipeline):
        folder = tmp_path / "drafts" / f"{pipeline.name}-{len(made)}"
        return pipeline.walk(Reusing(pipeline, store, folder))

    return build, made


def test_a_whole_ablation_makes_only_what_differs(store, building, tmp_path, capsys):
    build, made = building
    asked = load_ablation("language-reward")
    runs = run_sides(asked, "language-reward", "tiny", 2, store, build)
    assert made["tiny@language-reward"] == ["dev2", "evaluation.dev2"]
    trained = ["r1-zero", "cold-start", "dev1", "dev2", "evaluation.dev2"]
    assert made["tiny"] == ["problems", "base", *trained]
    assert made["tiny@seed-1"] == trained
    assert made["tiny@language-reward+seed-1"] == ["dev2", "evaluation.dev2"]
    assert [run.checkpoint.kind for run in runs["variant"]] == [Kind.checkpoint] * 2

    result, rows = result_of(asked, "language-reward", "tiny", runs, store)
    consistency, correct = result.measures
    assert (consistency.value, correct.value) == (pytest.approx(-0.25), 0)
    assert consistency.by_seed == (pytest.approx(-0.25), pytest.approx(-0.25))
    assert [curve.last < curve.first for curve in result.curves] == [True, True]
    assert (result.warnings, result.not_measured) == ([], [])

    write_result(tmp_path / "out", result, rows)
    written = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert written["measures"][0]["high"] < 0
    assert written["evaluations"]["baseline"] == [run.evaluation.digest for run in runs["baseline"]]
    table = read_table(tmp_path / "out" / "questions.parquet")
    assert table.schema.names == QUESTIONS.names
    assert table.num_rows == 2 * 2 * 40 * len(asked.measures)

    show_result(result)
    shown = capsys.readouterr().out
    assert "-25.0%" in shown
    assert "95% over seeds" in shown

    again = run_sides(asked, "language-reward", "tiny", 1, store, build)
    assert again["baseline"][0].evaluation == runs["baseline"][0].evaluation
    assert sum(map(len, made.values())) == 7 + 2 + 5 + 2


def test_the_command_lists_ablations_and_refuses_unknown_ones(home):
    listed = CliRunner().invoke(cli.app, ["ablate"])
    assert listed.exit_code == 0
    assert all(name in listed.stdout for name in available())
    refused = CliRunner().invoke(cli.app, ["ablate", "language"])
    assert refused.exit_code == 2
    assert "there is no ablation 'language': did you mean language-reward?" in refused.output


@pytest.mark.slow
def test_a_real_run_without_the_language_reward(preset, store, tmp_path):
    """Dev2 from the base in ten updates on a few problems; nobody learns much, everything is real."""
    few = {"math": 24, "code": 12, "stem": 12, "logic": 12}
    path = preset(
        {
            "problems.sources": [{"name": "tiny-world", "train": few, "held_out": dict.fromkeys(few, 4)}],
            "skip": ["dev1"], "dev2.steps": 10, "dev2.questions_per_step": 8, "dev2.group_size": 4,
            "evaluation.problems_per_domain": 4, "evaluation.samples_per_problem": 2,
        }
    )  # fmt: skip
    words = [sys.executable, "-m", "flows.cli", "ablate", "language-reward", "--preset", path]
    done = subprocess.run(
        [*words, "--out", str(tmp_path / "out")], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("r1: made")]
    assert made == ["problems", "base", "dev2", "evaluation.dev2", "dev2", "evaluation.dev2"]
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [m["measure"] for m in found["measures"]] == [CONSISTENT, PASS]
    assert [(c["metric"], c["side"], c["steps"]) for c in found["curves"]] == [
        ("language_consistency", "baseline", 5), ("language_consistency", "variant", 5),
    ]  # fmt: skip
    assert not found["warnings"]
    assert "Reasoning RL (Dev2) without the language-consistency reward" in done.stdout
    rewards = {
        side: store.manifest(store.manifest(digests[0]).parents["checkpoint"].digest).config["rewards"]
        for side, digests in found["evaluations"].items()
    }
    names = {side: [term["name"] for term in terms] for side, terms in rewards.items()}
    assert names == {"baseline": ["accuracy", "format", "language"], "variant": ["accuracy", "format"]}
