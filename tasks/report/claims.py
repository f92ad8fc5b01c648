"""The paper's claims, checked against one run; every verdict comes from numbers and their intervals.

Two checkpoints answer the same held-out questions, so they are compared question by question: a claim
is a weighted sum of question means (R1-Zero at least twice its base: 1 x R1-Zero - 2 x base > 0) with a
95% bootstrap interval over questions. Claims about training compare the first tenth of a run's steps
with the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tasks.recipe import title

RESAMPLES = 4_000

QuestionMeans = Mapping[str, float]
"""Problem id -> mean over its samples."""
Measures = Mapping[str, Mapping[str, QuestionMeans]]
"""Role of a checkpoint -> measure (`math`, `verifiable`, `language`, ...) -> question means."""
Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
"""Role of a checkpoint -> training metric -> (step, value)."""


class Verdict(StrEnum):
    reproduces = "reproduces"
    does_not = "does not reproduce"
    noise = "inside the noise"
    not_measured = "not measured"


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float
    count: int
    """Questions, or training steps."""


@dataclass(frozen=True)
class Claim:
    """`sum(weight x mean of role)` lies above 0, or (`no_loss`) not significantly below."""

    says: str
    paper: str
    """What was published."""
    measure: str
    terms: tuple[tuple[float, str], ...]
    no_loss: bool = False


@dataclass(frozen=True)
class TrainingClaim:
    """A training metric of one checkpoint rises from the first tenth of the steps to the last."""

    says: str
    paper: str
    role: str
    metric: str


@dataclass(frozen=True)
class Finding:
    says: str
    paper: str
    measured: str
    verdict: Verdict


CLAIMS: tuple[Claim | TrainingClaim, ...] = (
    Claim("Pure RL at least doubles the base's math pass@1", "AIME 2024: 15.6% → 77.9%",
          "math", ((1, "r1-zero"), (-2, "base"))),
    Claim("Majority voting adds to R1-Zero's pass@1", "AIME 2024: 77.9% → 86.7%",
          "vote_gain", ((1, "r1-zero"),)),
    TrainingClaim("R1-Zero's completions grow during RL", "about 550 → 9,000 tokens",
                  "r1-zero", "completion_length"),
    TrainingClaim("R1-Zero reflects more as RL proceeds", "reflective words 5 to 7 times as frequent",
                  "r1-zero", "reflective_words"),
    Claim("R1-Zero mixes languages: less consistent than R1", "given as the reason for the cold start",
          "language", ((1, "r1"), (-1, "r1-zero"))),
    Claim("The cold start costs reasoning: R1-Zero above Dev1", "AIME 2024: 77.9% → 59.0%",
          "verifiable", ((1, "r1-zero"), (-1, "dev1"))),
    Claim("Reasoning RL brings reasoning back: Dev2 above Dev1", "AIME 2024: 59.0% → 74.0%",
          "verifiable", ((1, "dev2"), (-1, "dev1"))),
    Claim("Cold start and language reward raise language consistency: Dev2 above R1-Zero",
          "ablation: stable with the reward, decaying without",
          "language", ((1, "dev2"), (-1, "r1-zero"))),
    Claim("... without a loss of accuracy against R1-Zero", "math equal, code slightly lower",
          "verifiable", ((1, "dev2"), (-1, "r1-zero")), no_loss=True),
    Claim("Final RL lifts preference: R1 more helpful than Dev3", "AlpacaEval 2.0: 62.1 → 87.6",
          "helpfulness", ((1, "r1"), (-1, "dev3"))),
    Claim("Final RL keeps reasoning: R1 not below Dev3", "AIME 2024: 78.1% → 79.8%",
          "verifiable", ((1, "r1"), (-1, "dev3")), no_loss=True),
    Claim("Distillation beats RL on the small model", "32B, AIME 2024: 72.6% against 47.0%",
          "verifiable", ((1, "student-distilled"), (-1, "student-rl-only"))),
)  # fmt: skip


def check_all(measures: Measures, curves: Curves) -> list[Finding]:
    """Every claim of the paper that this recipe can speak to."""
    return [
        check(claim, measures) if isinstance(claim, Claim) else check_training(claim, curves)
        for claim in CLAIMS
    ]


def check(claim: Claim, measures: Measures) -> Finding:
    """The claim against the question means of the checkpoints it names."""
    means = [measures.get(role, {}).get(claim.measure, {}) for _, role in claim.terms]
    interval = contrast([w for w, _ in claim.terms], means)
    if interval is None:
        return Finding(claim.says, claim.paper, "no question was answered by all", Verdict.not_measured)
    verdict = no_loss_verdict(interval) if claim.no_loss else verdict_above_zero(interval)
    return Finding(claim.says, claim.paper, _measured(claim, means, interval), verdict)


def check_training(claim: TrainingClaim, curves: Curves) -> Finding:
    """The claim against the training curve it names."""
    points = curves.get(claim.role, {}).get(claim.metric, ())
    if len(points) < 10:
        return Finding(claim.says, claim.paper, f"{len(points)} training steps", Verdict.not_measured)
    values = np.array([value for _, value in points])
    size = max(5, len(values) // 10)
    early, late = values[:size], values[-size:]
    interval = difference(late, early)
    measured = f"first {size} steps {early.mean():.2f}, last {size} steps {late.mean():.2f}"
    return Finding(
        claim.says, claim.paper, f"{measured}; {_signed(interval, 1)}", verdict_above_zero(interval)
    )


def verdict_above_zero(interval: Interval) -> Verdict:
    """Clear only where the whole interval lies on one side of 0."""
    if interval.low > 0:
        return Verdict.reproduces
    return Verdict.does_not if interval.high < 0 else Verdict.noise


def no_loss_verdict(interval: Interval) -> Verdict:
    """A loss counts only where the whole interval lies below 0."""
    return Verdict.does_not if interval.high < 0 else Verdict.reproduces


def contrast(weights: Sequence[float], means: Sequence[QuestionMeans], seed: int = 0) -> Interval | None:
    """The weighted sum of question means over the questions that all have; None where there are none."""
    shared = sorted(set.intersection(*(set(m) for m in means)))
    if not shared:
        return None
    values = np.array([[m[question] for question in shared] for m in means])  # (terms, questions)
    return _bootstrap(np.asarray(weights) @ values, seed)


def difference(late: np.ndarray, early: np.ndarray, seed: int = 0) -> Interval:
    """Mean of `late` - mean of `early`, steps resampled on both sides."""
    rng = np.random.default_rng(seed)
    draws = _resampled_means(late, rng) - _resampled_means(early, rng)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Interval(float(late.mean() - early.mean()), float(low), float(high), len(late) + len(early))


def _bootstrap(values: np.ndarray, seed: int) -> Interval:
    low, high = np.percentile(_resampled_means(values, np.random.default_rng(seed)), (2.5, 97.5))
    return Interval(float(values.mean()), float(low), float(high), len(values))


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(RESAMPLES,) means of `len(values)` draws with replacement."""
    return np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)])


def _measured(claim: Claim, means: Sequence[QuestionMeans], interval: Interval) -> str:
    points = claim.measure != "helpfulness"
    if len(means) == 1:
        return f"{_signed(interval, 100)}, {interval.count} questions"
    sides = ", ".join(
        f"{title(role)} {_mean(m, points)}" for (_, role), m in zip(claim.terms, means, strict=True)
    )
    formula = " ".join(f"{'+' if w > 0 else '−'} {_weight(w)}{title(role)}" for w, role in claim.terms)
    return f"{sides}; {formula.removeprefix('+ ')} = {_signed(interval, 100 if points else 1)}"


def _weight(weight: float) -> str:
    return "" if abs(weight) == 1 else f"{abs(weight):g} × "


def _mean(means: QuestionMeans, as_percent: bool) -> str:
    value = sum(means.values()) / len(means)
    return f"{value:.1%}" if as_percent else f"{value:.2f}"


def _signed(interval: Interval, scale: float) -> str:
    digits = 1 if scale == 100 else 2
    value, low, high = (f"{scale * v:+.{digits}f}" for v in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]" + (" points" if scale == 100 else "")
