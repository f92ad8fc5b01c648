"""The metrics table and the emergence counts."""

import math

import pytest

from tasks.problem import Problem
from tasks.rewards import term
from tasks.rewards.language import language_consistency
from tasks.rewards.pool import VerifierPool
from tasks.rewards.score import RewardFunction, Scored
from tasks.rewards.term import Scoring
from tasks.rewards.terms.language import Language
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rl.recorder import Rollout, drop_from, rollout_metrics
from tasks.training.metrics import last_mean, metric_rows, reflective_words


def test_rows_have_the_projects_names_and_count_steps_from_zero():
    log = [
        {"step": 1, "loss": 0.5, "r1/pass_rate": 0.25, "epoch": 0.1, "kl": math.nan},
        {"step": 2, "loss": 0.25, "clip_ratio/region_mean": None},
        {"step": 2, "train_runtime": 3.0},
    ]
    assert [(r["step"], r["name"], r["value"]) for r in metric_rows(log)] == [
        (0, "loss", 0.5),
        (0, "pass_rate", 0.25),
        (1, "loss", 0.25),
    ]


def test_last_mean_looks_at_what_was_logged():
    log = [{"loss": 1.0}, {"kl": 3.0}, {"loss": 2.0}, {"loss": 4.0}]
    assert last_mean(log, "loss", last=2) == 3.0
    assert math.isnan(last_mean(log, "reward"))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Wait, but that is wrong.", 3),
        ("a button in the checklist", 0),
        ("等等，这不对，重算", 3),
        ("12 + 3", 0),
    ],
)
def test_reflective_words(text, count):
    assert reflective_words(text) == count


def test_pass_rates_by_domain_leave_out_what_no_rule_judges():
    def row(domain, verdict):
        problem = Problem(domain, domain, "en", "?", "", "math")
        judgement = Judgement(verdict, None) if verdict else None
        scoring = Scoring(problem, "<think> wait </think>", judgement, 3, 9)
        return problem, Scored(scoring, {"format": 1.0}, 1.0)

    rows = [
        row("math", Verdict.correct),
        row("math", Verdict.wrong),
        row("code", Verdict.timeout),
        row("general", None),
    ]
    rollout = Rollout(
        0, [p for p, _ in rows], ["p"] * 4, [1] * 4, ["<think> wait </think>"] * 4, [3] * 4, [True] * 4,
        [s for _, s in rows],
    )  # fmt: skip
    metrics = rollout_metrics(rollout)
    assert metrics["pass_rate"] == pytest.approx(1 / 3)
    assert (metrics["pass_rate_math"], metrics["pass_rate_code"]) == (0.5, 0.0)
    assert "pass_rate_general" not in metrics
    assert metrics["timeout_share"] == pytest.approx(1 / 3)
    assert metrics["reflective_words"] == 1.0
    assert metrics["reward_format"] == 1.0


def test_words_are_cut_once_for_the_reward_and_the_log(monkeypatch):
    cut = []
    counting = lambda text, language: cut.append(text) or language_consistency(text, language)  # noqa: E731
    monkeypatch.setattr(term, "language_consistency", counting)
    problems = [Problem(str(i), "math", "en", "?", "1", "exact") for i in range(3)]
    texts = ["<think>one two</think><answer>1</answer>", "<think>一 two</think><answer>1</answer>", "none"]
    with VerifierPool(1) as pool:
        rows = RewardFunction((Language(),), pool).score(problems, texts, [3] * 3, 9)
    rollout = Rollout(0, problems, ["p"] * 3, [1] * 3, texts, [3] * 3, [True] * 3, rows)
    assert rollout_metrics(rollout)["language_consistency"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert [row.total for row in rows] == [1.0, 0.5, 0.0]
    assert cut == ["one two", "一 two", None]


def test_shards_after_the_checkpoint_are_dropped(tmp_path):
    for step in (0, 4, 8):
        (tmp_path / f"{step:06d}.parquet").touch()
    assert drop_from(tmp_path, 4) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["000000.parquet"]
