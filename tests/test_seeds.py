"""`benchmarks.seeds` on synthetic runs: what is pooled, what counts in which group, which seeds differ."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.seeds import (
    SEED_STEP,
    SeedRun,
    pooled_claims,
    pooled_curves,
    pooled_measures,
    pooled_rows,
    score_rows,
    seed_changes,
    seeds_interval,
    write,
)
from flows.experiments import Variant
from flows.graph import load_pipeline
from tasks.report.claims import CLAIMS, ClaimVerdict

QUESTIONS = 100


def run(seed: int, gain: float, noise: float = 0.3) -> SeedRun:
    """Dev2 is better than Dev1 by `gain` on average; the questions are the same in every seed."""
    rng = np.random.default_rng(seed)
    hard = np.random.default_rng(0).uniform(0.2, 0.6, QUESTIONS)
    scores = {"dev1": hard, "dev2": hard + gain + rng.normal(0, noise, QUESTIONS)}
    questions = [
        {"node": node, "problem_id": f"q{i}", "domain": "math", "level": i % 5 + 1, "metric": "pass_at_1",
         "value": float(value)}
        for node, values in scores.items() for i, value in enumerate(values)
    ]  # fmt: skip
    measures = {
        node: {"verifiable/pass_at_1": {f"q{i}": float(v) for i, v in enumerate(values)}}
        for node, values in scores.items()
    }
    curves = {"r1-zero": {"completion_length": [(step, step + 10.0 * seed) for step in range(1, 31)]}}
    return SeedRun(seed, questions, measures, curves, {"torch": "2.0"}, 60.0)


def of(claims, text):
    return next(claim for claim in claims if text in claim.says)


def test_pooling_shows_a_gain_that_is_noise_in_most_single_runs():
    runs = [run(seed, 0.05) for seed in range(5)]
    claim = of(pooled_claims(runs), "Dev2 above Dev1")
    assert claim.shown_by < 5
    assert claim.verdict is ClaimVerdict.reproduces
    assert claim.by_seed == pytest.approx([
        np.mean([r.measures["dev2"]["verifiable/pass_at_1"][f"q{i}"]
                 - r.measures["dev1"]["verifiable/pass_at_1"][f"q{i}"] for i in range(QUESTIONS)])
        for r in runs
    ])  # fmt: skip
    assert claim.seed_low < np.mean(claim.by_seed) < claim.seed_high


def test_a_loss_in_every_run_does_not_reproduce_and_what_is_absent_is_not_measured():
    claims = pooled_claims([run(seed, -0.2) for seed in range(3)])
    assert len(claims) == len(CLAIMS)
    assert of(claims, "Dev2 above Dev1").verdict is ClaimVerdict.does_not
    assert of(claims, "Dev2 above Dev1").shown_by == 0
    assert of(claims, "Distillation beats RL").verdict is ClaimVerdict.not_measured


def test_the_training_claim_reads_the_mean_curve():
    runs = [run(seed, 0.0) for seed in range(3)]
    curve = pooled_curves([r.curves for r in runs])["r1-zero"]["completion_length"]
    assert curve[0] == (1, 11.0)
    grown = of(pooled_claims(runs), "completions grow")
    assert (grown.verdict, grown.shown_by) == (ClaimVerdict.reproduces, 3)
    assert grown.by_seed == pytest.approx([25.0] * 3)


def test_only_questions_and_steps_of_every_run_are_pooled():
    one, two = {"base": {"m": {"a": 1.0, "b": 0.0}}}, {"base": {"m": {"b": 1.0, "c": 0.0}}}
    assert pooled_measures([one, two]) == {"base": {"m": {"b": 0.5}}}
    short, long = {"r1": {"x": [(1, 2.0)]}}, {"r1": {"x": [(1, 4.0), (2, 4.0)]}}
    assert pooled_curves([short, long]) == {"r1": {"x": [(1, 3.0)]}}


def test_groups_are_domain_verifiable_and_level():
    rows = {(r["by"], r["group"]): r for r in score_rows(run(1, 0.1)) if r["node"] == "dev1"}
    expected = {("domain", "math"), ("domain", "verifiable"), *(("level", str(n)) for n in range(1, 6))}
    assert set(rows) == expected
    assert rows["level", "3"]["questions"] == QUESTIONS / 5


def test_the_interval_over_seeds_is_wider_where_runs_disagree():
    same = {(r["node"], r["by"], r["group"]): r for r in pooled_rows([run(s, 0.1, 0.0) for s in range(4)])}
    apart = {
        (r["node"], r["by"], r["group"]): r for r in pooled_rows([run(s, s / 10, 0.0) for s in range(4)])
    }
    key = ("dev2", "domain", "verifiable")
    assert same[key]["seed_high"] - same[key]["seed_low"] == pytest.approx(0, abs=1e-9)
    assert apart[key]["seed_high"] - apart[key]["seed_low"] > 0.3
    assert apart[key]["seeds"] == 4


def test_students_t_for_five_runs():
    low, high = seeds_interval([1, 2, 3, 4, 5])  # deviation 1.5811, t(0.975, 4) = 2.776
    assert (low, high) == pytest.approx((3 - 1.963, 3 + 1.963), abs=0.005)
    assert np.isnan(seeds_interval([1.0])[0])


def test_every_seed_differs_but_that_of_the_problems():
    pipeline = load_pipeline("tiny")
    first, second = seed_changes(pipeline, 0), seed_changes(pipeline, 1)
    assert all(second[key] == first[key] + SEED_STEP for key in first)
    assert {
        "r1-zero.seed",
        "dev1.seed",
        "mixture.seed",
        "tiny-student-distilled.seed",
        "evaluation.seed",
    } <= set(first)
    assert not any(key.startswith("problems.") for key in first)
    with_seeds = load_pipeline("tiny", variant=Variant(second))
    changed = {n for n, node in with_seeds.nodes.items() if node.config != pipeline.nodes[n].config}
    assert changed == {key.removesuffix(".seed") for key in second}


def test_files_hold_every_claim_and_score(tmp_path):
    write(tmp_path, [run(seed, 0.1) for seed in range(2)], "python -m benchmarks.seeds", "tiny")
    assert len(json.loads((tmp_path / "claims.json").read_text())) == len(CLAIMS)
    assert set(pq.read_table(tmp_path / "scores.parquet")["seed"].to_pylist()) == {0, 1}
    page = (tmp_path / "README.md").read_text()
    assert all(claim.says in page for claim in CLAIMS)
    assert "torch 2.0" in page
    assert "pass_at_1 by level" in page
