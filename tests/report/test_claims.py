import numpy as np
import pytest

from tasks.intervals import MeanWithInterval
from tasks.report.claims import (
    CLAIMS,
    Claim,
    ClaimVerdict,
    TrainingClaim,
    check,
    check_all,
    check_training,
    contrast,
    no_loss_verdict,
    verdict_above_zero,
)

DOUBLES = Claim("doubles", "", "math/pass_at_1", ((1, "r1-zero"), (-2, "base")))


@pytest.mark.parametrize(
    ("low", "high", "above", "no_loss"),
    [
        (0.001, 0.1, ClaimVerdict.reproduces, ClaimVerdict.reproduces),
        (0.0, 0.1, ClaimVerdict.noise, ClaimVerdict.reproduces),
        (-0.1, 0.1, ClaimVerdict.noise, ClaimVerdict.reproduces),
        (-0.1, 0.0, ClaimVerdict.noise, ClaimVerdict.reproduces),
        (-0.1, -0.001, ClaimVerdict.does_not, ClaimVerdict.does_not),
    ],
)
def test_verdicts_at_the_boundaries_of_the_interval(low, high, above, no_loss):
    interval = MeanWithInterval((low + high) / 2, low, high, 50)
    assert verdict_above_zero(interval) is above
    assert no_loss_verdict(interval) is no_loss


def measures(**levels: float):
    rng = np.random.default_rng(1)
    return {
        role.replace("_", "-"): {
            "math/pass_at_1": {f"q{i}": float(v) for i, v in enumerate(rng.binomial(8, p, 200) / 8)}
        }
        for role, p in levels.items()
    }


@pytest.mark.parametrize(
    ("base", "zero", "verdict"),
    [(0.2, 0.8, ClaimVerdict.reproduces), (0.4, 0.8, ClaimVerdict.noise), (0.6, 0.8, ClaimVerdict.does_not)],
)
def test_doubling_needs_more_than_a_difference(base, zero, verdict):
    assert check(DOUBLES, measures(base=base, r1_zero=zero)).verdict is verdict


def test_pairing_by_question_sees_a_small_gain_that_marginal_intervals_hide():
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 0.9, 100)
    before = {str(i): float(v) for i, v in enumerate(hard)}
    after = {str(i): float(v) + 0.02 for i, v in enumerate(hard)}
    alone, paired = contrast([1], [before]), contrast([1, -1], [after, before])
    assert alone.high - alone.low > 0.05
    assert paired.low == pytest.approx(0.02)
    assert verdict_above_zero(paired) is ClaimVerdict.reproduces


def test_only_questions_answered_by_all_count():
    interval = contrast([1, -1], [{"a": 1.0, "b": 0.5}, {"b": 0.25, "c": 0.0}])
    assert (interval.value, interval.count) == (0.25, 1)
    assert contrast([1, -1], [{"a": 1.0}, {"b": 1.0}]) is None


def test_what_was_not_evaluated_is_not_measured():
    found = check_all({}, {})
    assert len(found) == len(CLAIMS)
    assert {f.verdict for f in found} == {ClaimVerdict.not_measured}


def test_intervals_are_the_same_every_time():
    values = {str(i): i % 3 / 2 for i in range(50)}
    assert contrast([1], [values]) == contrast([1], [values])


@pytest.mark.parametrize(
    ("slope", "verdict"),
    [(0.2, ClaimVerdict.reproduces), (0.0, ClaimVerdict.noise), (-0.2, ClaimVerdict.does_not)],
)
def test_a_training_claim_compares_the_ends_of_the_curve(slope, verdict):
    rng = np.random.default_rng(3)
    curve = [(step, 50 + slope * step + rng.normal(0, 2)) for step in range(100)]
    claim = TrainingClaim("grows", "", "r1-zero", "completion_length")
    assert check_training(claim, {"r1-zero": {"completion_length": curve}}).verdict is verdict
    assert (
        check_training(claim, {"r1-zero": {"completion_length": curve[:9]}}).verdict
        is ClaimVerdict.not_measured
    )
