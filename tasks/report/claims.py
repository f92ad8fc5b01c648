"""The paper's claims, checked against one run; every verdict comes from numbers and their intervals.

Two checkpoints answer the same held-out questions, so they are compared question by question: a claim
is a weighted sum of question means (R1-Zero at least twice its base: 1 x R1-Zero - 2 x base > 0) with a
95% bootstrap interval over questions. Claims about training compare the first tenth of a run's steps
with the last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np

from tasks.intervals import MeanWithInterval, bootstrap, bootstrap_difference
from tasks.recipe import title

QuestionMeans = Mapping[str, float]
"""Problem id -> mean over its samples."""
Measures = Mapping[str, Mapping[str, QuestionMeans]]
"""Role of a checkpoint -> measure -> question means. Measures are named like the cells of the stage table
(`math/pass_at_1`), which are means of these values; `verifiable/vote_gain` is added."""
Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
"""Role of a checkpoint -> training metric -> (step, value)."""


CLAIMS_FILE = "claims.json"
"""The results in a report artifact."""


class ClaimVerdict(StrEnum):
    reproduces = "reproduces"
    does_not = "does not reproduce"
    noise = "inside the noise"
    not_measured = "not measured"


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
class ClaimResult:
    says: str
    paper: str
    measured: str
    verdict: ClaimVerdict


CLAIMS: tuple[Claim | TrainingClaim, ...] = (
    Claim("Pure RL at least doubles the base's math pass@1", "AIME 2024: 15.6% → 77.9%",
          "math/pass_at_1", ((1, "r1-zero"), (-2, "base"))),
    Claim("Majority voting adds to R1-Zero's pass@1", "AIME 2024: 77.9% → 86.7%",
          "verifiable/vote_gain", ((1, "r1-zero"),)),
    TrainingClaim("R1-Zero's completions grow during RL", "about 550 → 9,000 tokens",
                  "r1-zero", "completion_length"),
    TrainingClaim("R1-Zero reflects more as RL proceeds", "reflective words 5 to 7 times as frequent",
                  "r1-zero", "reflective_words"),
    Claim("R1-Zero mixes languages: less consistent than R1", "given as the reason for the cold start",
          "verifiable/language_consistency", ((1, "r1"), (-1, "r1-zero"))),
    Claim("The cold start costs reasoning: R1-Zero above Dev1", "AIME 2024: 77.9% → 59.0%",
          "verifiable/pass_at_1", ((1, "r1-zero"), (-1, "dev1"))),
    Claim("... and makes the thinking readable: Dev1 more consistent in language than R1-Zero",
          "given as the purpose of the cold start",
          "verifiable/language_consistency", ((1, "dev1"), (-1, "r1-zero"))),
    Claim("... and lifts preference: Dev1 more helpful than R1-Zero", "AlpacaEval 2.0: 24.7 → 50.1",
          "general/helpfulness", ((1, "dev1"), (-1, "r1-zero"))),
    Claim("Reasoning RL brings reasoning back: Dev2 above Dev1", "AIME 2024: 59.0% → 74.0%",
          "verifiable/pass_at_1", ((1, "dev2"), (-1, "dev1"))),
    Claim("Cold start and language reward raise language consistency: Dev2 above R1-Zero",
          "ablation: stable with the reward, decaying without",
          "verifiable/language_consistency", ((1, "dev2"), (-1, "r1-zero"))),
    Claim("... without a loss of accuracy against R1-Zero", "math equal, code slightly lower",
          "verifiable/pass_at_1", ((1, "dev2"), (-1, "r1-zero")), no_loss=True),
    Claim("General data lift preference: Dev3 more helpful than Dev2", "AlpacaEval 2.0: 55.8 → 62.1",
          "general/helpfulness", ((1, "dev3"), (-1, "dev2"))),
    Claim("Final RL lifts preference: R1 more helpful than Dev3", "AlpacaEval 2.0: 62.1 → 87.6",
          "general/helpfulness", ((1, "r1"), (-1, "dev3"))),
    Claim("Final RL keeps reasoning: R1 not below Dev3", "AIME 2024: 78.1% → 79.8%",
          "verifiable/pass_at_1", ((1, "r1"), (-1, "dev3")), no_loss=True),
    Claim("Distillation beats RL on the small model", "32B, AIME 2024: 72.6% against 47.0%",
          "verifiable/pass_at_1", ((1, "student-distilled"), (-1, "student-rl-only"))),
)  # fmt: skip


def claims_to_json(claims: Sequence[ClaimResult]) -> str:
    return json.dumps([asdict(claim) for claim in claims], indent=1, ensure_ascii=False)


def claims_from_json(text: str) -> list[ClaimResult]:
    return [ClaimResult(**c | {"verdict": ClaimVerdict(c["verdict"])}) for c in json.loads(text)]


def check_all(measures: Measures, curves: Curves) -> list[ClaimResult]:
    """Every claim of the paper that this recipe can speak to."""
    return [
        check(claim, measures) if isinstance(claim, Claim) else check_training(claim, curves)
        for claim in CLAIMS
    ]


def interval_of(claim: Claim | TrainingClaim, measures: Measures, curves: Curves) -> MeanWithInterval | None:
    """What a claim says is above 0, with its 95% interval; None where it was not measured."""
    if isinstance(claim, Claim):
        return contrast([weight for weight, _ in claim.terms], _question_means(claim, measures))
    ends = _first_and_last(claim, curves)
    return ends and bootstrap_difference(ends[1], ends[0])


def check(claim: Claim, measures: Measures) -> ClaimResult:
    """The claim against the question means of the checkpoints it names."""
    interval = interval_of(claim, measures, {})
    if interval is None:
        return ClaimResult(
            claim.says, claim.paper, "no question was answered by all", ClaimVerdict.not_measured
        )
    verdict = no_loss_verdict(interval) if claim.no_loss else verdict_above_zero(interval)
    measured = _measured(claim, _question_means(claim, measures), interval)
    return ClaimResult(claim.says, claim.paper, measured, verdict)


def check_training(claim: TrainingClaim, curves: Curves) -> ClaimResult:
    """The claim against the training curve it names."""
    ends, interval = _first_and_last(claim, curves), interval_of(claim, {}, curves)
    if ends is None or interval is None:
        steps = len(curves.get(claim.role, {}).get(claim.metric, ()))
        return ClaimResult(claim.says, claim.paper, f"{steps} training steps", ClaimVerdict.not_measured)
    early, late = ends
    measured = f"first {len(early)} steps {early.mean():.2f}, last {len(late)} steps {late.mean():.2f}"
    return ClaimResult(
        claim.says, claim.paper, f"{measured}; {_signed(interval, 1)}", verdict_above_zero(interval)
    )


def _question_means(claim: Claim, measures: Measures) -> list[QuestionMeans]:
    return [measures.get(role, {}).get(claim.measure, {}) for _, role in claim.terms]


def _first_and_last(claim: TrainingClaim, curves: Curves) -> tuple[np.ndarray, np.ndarray] | None:
    """The metric in the first and the last tenth of the steps (at least five); None for fewer than ten."""
    values = np.array([value for _, value in curves.get(claim.role, {}).get(claim.metric, ())])
    if len(values) < 10:
        return None
    size = max(5, len(values) // 10)
    return values[:size], values[-size:]


def verdict_above_zero(interval: MeanWithInterval) -> ClaimVerdict:
    """Clear only where the whole interval lies on one side of 0."""
    if interval.low > 0:
        return ClaimVerdict.reproduces
    return ClaimVerdict.does_not if interval.high < 0 else ClaimVerdict.noise


def no_loss_verdict(interval: MeanWithInterval) -> ClaimVerdict:
    """A loss counts only where the whole interval lies below 0."""
    return ClaimVerdict.does_not if interval.high < 0 else ClaimVerdict.reproduces


def contrast(weights: Sequence[float], means: Sequence[QuestionMeans]) -> MeanWithInterval | None:
    """The weighted sum of question means over the questions that all have; None where there are none."""
    shared = sorted(set.intersection(*(set(m) for m in means)))
    if not shared:
        return None
    values = np.array([[m[question] for question in shared] for m in means])  # (terms, questions)
    return bootstrap(np.asarray(weights) @ values)


def _measured(claim: Claim, means: Sequence[QuestionMeans], interval: MeanWithInterval) -> str:
    points = claim.measure != "general/helpfulness"
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


def _signed(interval: MeanWithInterval, scale: float) -> str:
    digits = 1 if scale == 100 else 2
    value, low, high = (f"{scale * v:+.{digits}f}" for v in (interval.value, interval.low, interval.high))
    return f"{value} [{low}, {high}]" + (" points" if scale == 100 else "")
