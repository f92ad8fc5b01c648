"""Training metrics: TRL's log as rows of the `metrics` table, and what shows emergence (Fig. 1, C.2)."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from artifacts.tables import write_table
from tasks.tables import METRICS

REFLECTIVE_WORDS = (
    "wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check",
    "等等", "错误", "然而", "但是", "重算", "不对", "验证", "验算", "检查", "评估",
)  # fmt: skip
"""The ten words counted in the paper's Fig. 9 and their Chinese equals."""

_LATIN = re.compile(r"\b(?:" + "|".join(w for w in REFLECTIVE_WORDS if w.isascii()) + r")\b")
_CHINESE = re.compile("|".join(w for w in REFLECTIVE_WORDS if not w.isascii()))

_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clip_share",
    "completions/mean_length": "completion_length",
    "completions/max_length": "completion_length_max",
    "completions/clipped_ratio": "truncated_share",
    "frac_reward_zero_std": "zero_spread_share",
    "reward": "reward",
    "reward_std": "reward_std",
    "mean_token_accuracy": "token_accuracy",
}
"""TRL's name -> the name in the table. What this project logs itself starts with `r1/`."""
OWN = "r1/"


class StepLog:
    """What this project logs of a training step beside TRL, which averages what lies in its `metrics` when it
    logs. On upgrade: that `_metrics` of its trainers is emptied and not replaced."""

    def __init__(self, metrics: MutableMapping[str, list[float]]) -> None:
        self._metrics = metrics
        self.seconds: dict[str, float] = defaultdict(float)
        """Of the parts of this step, so far."""

    def note(self, **values: float) -> None:
        for name, value in values.items():
            self._metrics[OWN + name].append(value)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the seconds inside to those of a part."""
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started

    def end_step(self) -> None:
        self.note(**self.seconds)
        self.seconds.clear()


def reflective_words(text: str) -> int:
    """How often the reflective words occur."""
    return len(_LATIN.findall(text.lower())) + len(_CHINESE.findall(text))


def metric_rows(log_history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """(step, name, value) rows from the Trainer's log.

    Step n (from 0) is measured while the policy of n updates samples and is updated; absent and NaN
    values have no row.
    """
    return [
        {"step": int(entry["step"]) - 1, "name": name, "value": float(value)}
        for entry in log_history
        for key, value in entry.items()
        if (name := _name(key)) and value is not None and math.isfinite(value)
    ]


def write_metrics(folder: Path, log_history: Sequence[Mapping[str, Any]]) -> None:
    """`metrics.parquet` of an artifact."""
    write_table(folder / "metrics.parquet", metric_rows(log_history), METRICS)


def last_mean(log_history: Sequence[Mapping[str, Any]], key: str, last: int = 10) -> float:
    """Mean of the last values logged under `key`; NaN where it was never logged."""
    values = [entry[key] for entry in log_history if entry.get(key) is not None][-last:]
    return sum(values) / len(values) if values else math.nan


def _name(key: str) -> str | None:
    return key.removeprefix(OWN) if key.startswith(OWN) else _NAMES.get(key)
