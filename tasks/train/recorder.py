"""The reward that TRL calls, and the record it leaves: every completion with its rewards as a Parquet row.

One shard a rollout lies in the job's state folder while training runs; `finish` joins them into
`samples.parquet`. Shards from after the checkpoint a run resumes from are dropped, so no step is twice there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.schemas import SAMPLES
from artifacts.tables import write_table
from tasks.config import RLConfig
from tasks.problems.problem import Problem
from tasks.rendering import parse_completion
from tasks.rewards import RewardFunction, RewardHealth, Scored, language_consistency
from tasks.train.grpo_trainer import rollout_seed
from tasks.train.metrics import OWN, reflective_words
from tasks.train.schedule import max_completion_length


@dataclass(frozen=True)
class Rollout:
    """What one call of the reward sees; all lists have one entry per completion, groups together."""

    step: int
    problems: list[Problem]
    prompts: list[str]
    prompt_tokens: list[int]
    completions: list[str]
    completion_tokens: list[int]
    finished: list[bool]
    scored: list[Scored]


class RecordedReward:
    """TRL's reward function: totals to TRL, rows to `shards`, figures to the log.

    Raises (when called):
        RuntimeError: the reward is broken, in the words of `RewardHealth`.
    """

    __name__ = "reward"

    def __init__(
        self, config: RLConfig, problems: Sequence[Problem], reward: RewardFunction, health: RewardHealth,
        shards: Path, checkpoint: str, engine: str, end_tokens: Iterable[int],
    ) -> None:  # fmt: skip
        self._config, self._problems, self._reward, self._health = config, problems, reward, health
        self._shards, self._checkpoint, self._engine = shards, checkpoint, engine
        self._end_tokens = frozenset(end_tokens)

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], problem: list[int],
        prompt_tokens: list[int], trainer_state: Any, log_metric: Any, **_: Any,
    ) -> list[float]:  # fmt: skip
        started, step = time.perf_counter(), trainer_state.global_step
        asked = [self._problems[i] for i in problem]
        scored = self._reward.score(asked, completions, step, self._config.steps)
        rollout = Rollout(
            step, asked, prompts, prompt_tokens, completions, [len(ids) for ids in completion_ids],
            [ids[-1] in self._end_tokens for ids in completion_ids], scored,
        )  # fmt: skip
        write_table(self._shards / f"{step:06d}.parquet", self._rows(rollout), "samples")
        for name, value in rollout_metrics(rollout).items():
            log_metric(OWN + name, value)
        log_metric(OWN + "reward_s", time.perf_counter() - started)
        if reason := self._health.observe(scored):
            raise RuntimeError(f"step {step}: {reason}")
        return [s.total for s in scored]

    def _rows(self, rollout: Rollout) -> list[dict[str, Any]]:
        return [self._row(rollout, i) for i in range(len(rollout.completions))]

    def _row(self, r: Rollout, i: int) -> dict[str, Any]:
        config, scored = self._config, r.scored[i]
        parsed = parse_completion(r.completions[i])
        terms = {f"reward_{t.name}": scored.terms.get(t.name) for t in config.rewards}
        return {
            "problem_id": r.problems[i].id, "sample_index": i % config.group_size, "step": r.step,
            "checkpoint": self._checkpoint, "prompt": r.prompts[i], "completion": r.completions[i],
            "thinking": parsed.thinking, "answer": parsed.answer, "prompt_tokens": r.prompt_tokens[i],
            "completion_tokens": r.completion_tokens[i],
            "finish_reason": "stop" if r.finished[i] else "length",
            "temperature": config.temperature, "top_p": 1.0,
            "max_new_tokens": max_completion_length(config, r.step),
            "seed": rollout_seed(config.seed, r.step), "engine": self._engine,
            "verdict": str(scored.judgement.verdict) if scored.judgement else None,
            "reward": scored.total, **terms,
        }  # fmt: skip


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Means over a rollout: reward terms, pass rate (all, by domain), verdicts, reflective words."""
    values: dict[str, list[float]] = defaultdict(list)
    for problem, completion, scored in zip(
        rollout.problems, rollout.completions, rollout.scored, strict=True
    ):
        for name, value in scored.terms.items():
            values[f"reward_{name}"].append(value)
        thinking = parse_completion(completion).thinking
        values["language_consistency"].append(language_consistency(thinking, problem.language))
        values["reflective_words"].append(reflective_words(completion))
        if scored.judgement:
            verdict = str(scored.judgement.verdict)
            values["pass_rate"].append(verdict == "correct")
            values[f"pass_rate_{problem.domain}"].append(verdict == "correct")
            for kind in ("unparseable", "timeout", "error"):
                values[f"{kind}_share"].append(verdict == kind)
    return {name: sum(v) / len(v) for name, v in values.items()}


def drop_from(shards: Path, step: int) -> int:
    """Delete the shards of this step and later ones; returns how many."""
    late = [shard for shard in shards.glob("*.parquet") if int(shard.stem) >= step]
    for shard in late:
        shard.unlink()
    return len(late)


def finish(shards: Path, path: Path) -> int:
    """Join the shards, in order of steps, into one Parquet file; returns the rows."""
    rows = 0
    with pq.ParquetWriter(path, SAMPLES, compression="zstd") as writer:
        for batch in _batches(sorted(shards.glob("*.parquet"))):
            writer.write_table(batch)
            rows += batch.num_rows
    return rows


def _batches(shards: Sequence[Path], at_once: int = 32) -> Iterable[pa.Table]:
    for start in range(0, len(shards), at_once):
        yield pa.concat_tables([pq.ParquetFile(s).read() for s in shards[start : start + at_once]])
