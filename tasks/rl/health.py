"""What is off in a run, in plain words with the evidence: pure functions of the training log.

    plateau      the reward stopped rising below a full pass rate
    collapse     the entropy is nearly gone and most groups agree, or the pass rate fell by half
    truncation   many completions are cut by the length limit
    constant     nearly every group has one reward for all its outputs: no gradient
    hacking      the reward rises while the pass rate falls
    mismatch     the sampler's log-probabilities are far from the trainer's
    unreadable   many answers cannot be parsed or time out

Rewards and pass rates are compared within a phase only, in which the same kinds of questions are asked and
the same terms rewarded: where general prompts enter, which earn more, the mean reward rises whatever is
learned.

The paper publishes no limits; these are chosen here. They warn; `RewardHealth` and the canary stop.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

log = logging.getLogger("health")

WINDOW = 10
"""Steps that a figure is averaged over."""
_PLATEAU = 3 * WINDOW
Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Finding:
    """One thing that is off."""

    kind: str
    step: int
    """The last step (from 0) of the evidence."""
    evidence: str

    def __str__(self) -> str:
        return f"{self.kind} at step {self.step}: {self.evidence}"


@dataclass(frozen=True)
class Mean:
    """Of a window, with its standard error."""

    value: float
    error: float

    def __sub__(self, other: Mean) -> float:
        return self.value - other.value

    def clearly_above(self, other: Mean) -> bool:
        """By more than twice the error of the difference."""
        return self - other > 2 * math.hypot(self.error, other.error)


def findings(history: Log, mismatch_limit: float, phase_begins: Callable[[int], int]) -> list[Finding]:
    """What is off at the end of this log; empty before `WINDOW` steps. `phase_begins` is that of
    `tasks.rl.schedule`: of a step, both from 0."""
    rows = [entry for entry in history if entry.get("reward") is not None]
    if len(rows) < WINDOW:
        return []
    step = _step(rows[-1])
    begins = phase_begins(step)
    phase = [row for row in rows if _step(row) >= begins]
    found = {
        "plateau": _plateau(phase),
        "collapse": _collapse(rows) or _fallen(phase),
        "truncation": _truncation(rows),
        "constant": _constant(rows),
        "hacking": _hacking(phase),
        "unreadable": _unreadable(rows),
        "mismatch": _mismatch(rows, mismatch_limit),
    }
    return [Finding(name, step, evidence) for name, evidence in found.items() if evidence]


def _step(row: Mapping[str, Any]) -> int:
    """From 0; TRL counts the updates that were made."""
    return int(row["step"]) - 1


def mean(rows: Log, key: str) -> Mean | None:
    """None where the key was not logged throughout."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if len(values) < max(2, len(rows) // 2):
        return None
    centre = sum(values) / len(values)
    variance = sum((v - centre) ** 2 for v in values) / (len(values) - 1)
    return Mean(centre, math.sqrt(variance / len(values)))


def _plateau(rows: Log) -> str:
    if len(rows) < 2 * _PLATEAU:
        return ""
    late, early = mean(rows[-_PLATEAU:], "reward"), mean(rows[-2 * _PLATEAU : -_PLATEAU], "reward")
    passed = mean(rows[-_PLATEAU:], "r1/pass_rate")
    if (
        not (late and early and passed)
        or passed.value > 0.9
        or late.clearly_above(early)
        or early.clearly_above(late)
    ):
        return ""
    return (
        f"reward {late.value:.3f} over the last {_PLATEAU} steps, {early.value:.3f} over the {_PLATEAU} "
        f"before, at a pass rate of {passed.value:.2f}"
    )


def _collapse(rows: Log) -> str:
    entropy, first = mean(rows[-WINDOW:], "entropy"), mean(rows[:WINDOW], "entropy")
    agreed = mean(rows[-WINDOW:], "frac_reward_zero_std")
    if not (entropy and first and agreed) or entropy.value >= first.value / 10 or agreed.value <= 0.8:
        return ""
    return (
        f"entropy {entropy.value:.3f} (first steps {first.value:.3f}) while {agreed.value:.0%} of the "
        "groups have one reward"
    )


def _fallen(rows: Log) -> str:
    passed = mean(rows[-WINDOW:], "r1/pass_rate")
    best = max((m.value for m in _windows(rows, "r1/pass_rate")), default=0.0)
    if passed and best > 0.1 and passed.value < best / 2:
        return f"pass rate {passed.value:.2f} over the last {WINDOW} steps, {best:.2f} at its best"
    return ""


def _truncation(rows: Log) -> str:
    cut, length = mean(rows[-WINDOW:], "completions/clipped_ratio"), mean(rows[-WINDOW:], _LENGTH)
    if not cut or not length or cut.value <= 0.2:
        return ""
    return (
        f"{cut.value:.0%} of the completions were cut by the length limit (mean length "
        f"{length.value:.0f} tokens); raise max_completion_length"
    )


def _constant(rows: Log) -> str:
    agreed = mean(rows[-WINDOW:], "frac_reward_zero_std")
    if not agreed or agreed.value <= 0.9:
        return ""
    passed = mean(rows[-WINDOW:], "r1/pass_rate")
    rate = f" at a pass rate of {passed.value:.2f}" if passed else ""
    return f"{agreed.value:.0%} of the groups got one reward for all their outputs{rate}: little is learned"


def _hacking(rows: Log) -> str:
    if len(rows) < 2 * WINDOW:
        return ""
    late, early = rows[-WINDOW:], rows[:-WINDOW]
    passed, reward = mean(late, "r1/pass_rate"), mean(late, "reward")
    best = max(
        (
            (p, r)
            for i in range(0, len(early) - WINDOW + 1, WINDOW)
            if (p := mean(early[i : i + WINDOW], "r1/pass_rate"))
            and (r := mean(early[i : i + WINDOW], "reward"))
        ),
        key=lambda pair: pair[0].value,
        default=None,
    )
    if not (best and passed and reward and best[0].clearly_above(passed) and reward.clearly_above(best[1])):
        return ""
    return (
        f"reward rose from {best[1].value:.3f} to {reward.value:.3f} while the pass rate fell from "
        f"{best[0].value:.2f} to {passed.value:.2f}; read samples.parquet for what it found"
    )


def _unreadable(rows: Log) -> str:
    shares = {kind: mean(rows[-WINDOW:], f"r1/{kind}_share") for kind in ("unparseable", "timeout", "error")}
    high = [f"{found.value:.0%} {kind}" for kind, found in shares.items() if found and found.value > 0.5]
    return f"of the answers {', '.join(high)}" if high else ""


def _mismatch(rows: Log, limit: float) -> str:
    gap = mean(rows[-WINDOW:], "r1/sampler_mismatch")
    if not gap or gap.value <= limit:
        return ""
    return (
        f"the sampler's log-probabilities are {gap.value:.3f} a token from the trainer's (limit "
        f"{limit:g}): the updates are off-policy; check the engine's precision and weight sync"
    )


def _windows(rows: Log, key: str) -> list[Mean]:
    return [m for i in range(0, len(rows), WINDOW) if (m := mean(rows[i : i + WINDOW], key))]


_LENGTH = "completions/mean_length"


class HealthCallback(TrainerCallback):
    """Logs a finding when its kind turns up, and again only after it was gone."""

    def __init__(self, mismatch_limit: float, phase_begins: Callable[[int], int]) -> None:
        self._limit, self._phase_begins = mismatch_limit, phase_begins
        self.current: list[Finding] = []

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        before = {finding.kind for finding in self.current}
        self.current = findings(state.log_history, self._limit, self._phase_begins)
        for finding in self.current:
            if finding.kind not in before and state.is_world_process_zero:
                log.warning("%s", finding)

    def lines(self) -> str:
        """Everything that is off now, as one line; `ok` where nothing is."""
        return "; ".join(map(str, self.current)) or "ok"
