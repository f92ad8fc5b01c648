"""Health lines: each kind on a log that shows it, and silence on a healthy one."""

import random

import pytest

from tasks.rl.health import Finding, HealthCallback, findings


def log(steps: int = 80, **curves) -> list[dict]:
    """A healthy run with noise; `curves` replace figures by functions of the step."""
    noise = random.Random(0)
    healthy = {
        "reward": lambda n: 0.5 + n / 60,
        "r1/pass_rate": lambda n: 0.2 + n / 120,
        "entropy": lambda n: 1.0 - n / 200,
        "frac_reward_zero_std": lambda n: 0.3,
        "completions/clipped_ratio": lambda n: 0.01,
        "completions/mean_length": lambda n: 40.0,
        "r1/unparseable_share": lambda n: 0.1,
        "r1/sampler_mismatch": lambda n: 1e-6,
    }
    names = {
        "pass_rate": "r1/pass_rate", "truncated": "completions/clipped_ratio",
        "agreed": "frac_reward_zero_std", "mismatch": "r1/sampler_mismatch",
        "unparseable": "r1/unparseable_share",
    }  # fmt: skip
    figures = healthy | {names.get(name, name): curve for name, curve in curves.items()}
    return [
        {"step": n + 1, **{name: curve(n) + noise.gauss(0, 0.002) for name, curve in figures.items()}}
        for n in range(steps)
    ]


def one_phase(step: int) -> int:
    return 0


def kinds(history) -> list[str]:
    return [finding.kind for finding in findings(history, 0.1, one_phase)]


def test_a_healthy_run_has_no_findings():
    for steps in (0, 5, 10, 30, 80):
        assert kinds(log(steps)) == []


@pytest.mark.parametrize(
    ("kind", "curves", "evidence"),
    [
        ("plateau", {"reward": lambda n: 1.2, "pass_rate": lambda n: 0.4}, "1.200 over the 30 before|1.20"),
        (
            "collapse",
            {"pass_rate": lambda n: 0.6 if n < 70 else 0.1, "reward": lambda n: 0.9 - n / 200},
            "0.10 over the last 10 steps, 0.60",
        ),
        ("collapse", {"entropy": lambda n: 2.0 / (n + 1), "agreed": lambda n: 0.85}, "85% of the groups"),
        ("truncation", {"truncated": lambda n: 0.5}, "50% of the completions were cut"),
        ("constant", {"agreed": lambda n: 0.97}, "97% of the groups got one reward"),
        ("mismatch", {"mismatch": lambda n: 0.3}, "0.300 a token"),
        ("unreadable", {"unparseable": lambda n: 0.8}, "80% unparseable"),
        ("hacking", {"pass_rate": lambda n: 0.5 - n / 400}, "while the pass rate fell"),
    ],
)
def test_each_kind_is_said_with_its_evidence(kind, curves, evidence):
    found = {f.kind: f for f in findings(log(**curves), 0.1, one_phase)}
    assert list(found) == [kind]
    assert any(part in found[kind].evidence for part in evidence.split("|"))
    assert found[kind].step == 79


def late_phase(step: int) -> int:
    """Other questions enter at step 60."""
    return 60 if step >= 60 else 0


def rising(start: float, jump: float):
    """A curve that rises but for a jump at step 60."""
    return lambda n: start + n / 200 + jump * (n >= 60)


@pytest.mark.parametrize(
    ("kind", "curves"),
    [
        # General prompts earn more than the others, and the others are fewer and by chance harder.
        ("hacking", {"reward": rising(2.0, 0.3), "pass_rate": rising(0.2, -0.3)}),
        # A curriculum goes on to problems that are hardly ever solved.
        ("collapse", {"reward": rising(0.8, -0.6), "pass_rate": rising(0.4, -0.6)}),
    ],
)
def test_other_questions_do_not_look_like_a_policy_that_changed(kind, curves):
    history = log(**curves)
    assert kinds(history) == [kind]  # if the questions were the same
    for steps in range(60, 81):
        assert [f.kind for f in findings(history[:steps], 0.1, late_phase)] == []


def test_hacking_is_seen_within_the_last_phase():
    history = log(
        reward=lambda n: 2.2 + (0.3 + (n - 60) / 100) * (n >= 60),
        pass_rate=lambda n: 0.2 - (n - 60) / 200 * (n >= 60),
    )
    assert [f.kind for f in findings(history, 0.1, late_phase)] == ["hacking"]


def test_a_solved_task_is_no_plateau():
    assert "plateau" not in kinds(log(reward=lambda n: 2.0, pass_rate=lambda n: 0.97))


def test_a_finding_is_logged_once_while_it_lasts(caplog):
    from transformers import TrainerState

    callback, history = HealthCallback(0.1, one_phase), log(20, truncated=lambda n: 0.5)
    for steps in (9, 10, 11, 12):
        callback.on_log(None, TrainerState(log_history=history[:steps]), None)
    assert [r.message.split(":")[0] for r in caplog.records] == ["truncation at step 9"]
    assert callback.lines().startswith("truncation at step 11: 50%")
    assert str(Finding("constant", 3, "x")) == "constant at step 3: x"
