"""The reward that TRL calls, and the record it leaves: every completion with its rewards as a Parquet row.

Shards lie in the job's state folder while training runs: one a rollout, and one more for each further process
and each time groups were drawn again. `finish` joins them into `samples.parquet`. Shards from after the
checkpoint a run resumes from are dropped, so no step is twice there.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.tables import write_table
from tasks.problem import Problem
from tasks.rewards.health import RewardHealth
from tasks.rewards.score import RewardFunction, Scored, finite, scored_columns
from tasks.rl.early_rewards import EarlyVerifier
from tasks.rl.sampler import rollout_seed
from tasks.rl.schedule import max_completion_length
from tasks.rl.stage import RLConfig
from tasks.tables import SAMPLES
from tasks.training.metrics import OWN, reflective_words


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

    A total that is no finite number goes to TRL as None: the completion then counts neither in its group's
    mean and deviation nor in the loss.

    Raises (when called):
        RuntimeError: the reward is broken, in the words of `RewardHealth`.
    """

    __name__ = "reward"

    def __init__(
        self, config: RLConfig, problems: Sequence[Problem], reward: RewardFunction, health: RewardHealth,
        shards: Path, checkpoint: str, end_tokens: Iterable[int], process: int = 0,
    ) -> None:  # fmt: skip
        self._config, self._problems, self._reward, self._health = config, problems, reward, health
        self._shards, self._checkpoint = shards, checkpoint
        self.engine = ""
        """Name and version of what samples; known once the trainer, which is given this reward, opened it."""
        self._end_tokens = frozenset(end_tokens)
        self._process, self._rounds = process, Counter[int]()

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], problem: list[int],
        prompt_tokens: list[int], trainer_state: Any, log_metric: Any, **_: Any,
    ) -> list[float | None]:  # fmt: skip
        started, step = time.perf_counter(), trainer_state.global_step
        asked = [self._problems[i] for i in problem]
        lengths, limit = [len(ids) for ids in completion_ids], max_completion_length(self._config, step)
        scored = self._reward.score(asked, completions, lengths, limit, step, self._config.steps)
        rollout = Rollout(
            step, asked, prompts, prompt_tokens, completions, lengths,
            [ids[-1] in self._end_tokens for ids in completion_ids], scored,
        )  # fmt: skip
        write_table(self._shards / self._shard(step), self._rows(rollout), SAMPLES)
        for name, value in rollout_metrics(rollout).items():
            log_metric(OWN + name, value)
        log_metric(OWN + "reward_s", time.perf_counter() - started)
        if reason := self._health.observe(scored):
            raise RuntimeError(f"step {step}: {reason}")
        return [finite(s.total) for s in scored]

    def early(self, verifier: EarlyVerifier) -> Callable[[list[dict[str, Any]], list[str]], None]:
        """What starts checking the completions of some rows before the reward is asked for."""
        return lambda rows, texts: verifier.begin([self._problems[row["problem"]] for row in rows], texts)

    def _shard(self, step: int) -> str:
        """A name for each rollout, process and round; those of a step sort together."""
        again, self._rounds[step] = self._rounds[step], self._rounds[step] + 1
        return f"{step:06d}" + (f"-{self._process}-{again}" if self._process or again else "") + ".parquet"

    def _rows(self, r: Rollout) -> pa.Table:
        """The rollout as rows of the `samples` table."""
        config, count = self._config, len(r.completions)
        columns = {
            "problem_id": [p.id for p in r.problems],
            "sample_index": [i % config.group_size for i in range(count)],
            "step": [r.step] * count, "checkpoint": [self._checkpoint] * count,
            "prompt": r.prompts, "completion": r.completions, "prompt_tokens": r.prompt_tokens,
            "completion_tokens": r.completion_tokens,
            "finish_reason": ["stop" if finished else "length" for finished in r.finished],
            "temperature": [config.temperature] * count, "top_p": [1.0] * count,
            "max_new_tokens": [max_completion_length(config, r.step)] * count,
            "seed": [rollout_seed(config.seed, r.step)] * count, "engine": [self.engine] * count,
            "reward": [finite(s.total) for s in r.scored],
            **scored_columns(r.scored, config.rewards),
        }  # fmt: skip
        return pa.table(columns)


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """Means over a rollout: reward terms, pass rate (all, by domain), verdicts, reflective words."""
    values: dict[str, list[float]] = defaultdict(list)
    for problem, completion, scored in zip(
        rollout.problems, rollout.completions, rollout.scored, strict=True
    ):
        for name, value in scored.terms.items():
            if math.isfinite(value):
                values[f"reward_{name}"].append(value)
        if math.isfinite(scored.total):
            values[f"reward_{problem.domain}"].append(scored.total)
        values["language_consistency"].append(scored.scoring.language_consistency)
        values["reflective_words"].append(reflective_words(completion))
        values["wait_words"].append(completion.lower().count("wait"))
        if scored.judgement:
            verdict = str(scored.judgement.verdict)
            values["pass_rate"].append(verdict == "correct")
            values[f"pass_rate_{problem.domain}"].append(verdict == "correct")
            for kind in ("unparseable", "timeout", "error"):
                values[f"{kind}_share"].append(verdict == kind)
    means = {name: sum(v) / len(v) for name, v in values.items()}
    lengths = np.percentile(rollout.completion_tokens, (10, 50, 90, 99))
    return means | dict(zip(_PERCENTILES, lengths.tolist(), strict=True))


_PERCENTILES = tuple(f"completion_length_p{p}" for p in (10, 50, 90, 99))


def drop_from(shards: Path, step: int) -> int:
    """Delete the shards of this step and later ones; returns how many."""
    late = [shard for shard in shards.glob("*.parquet") if int(shard.stem.partition("-")[0]) >= step]
    for shard in late:
        shard.unlink()
    return len(late)


def finish(shards: Path, path: Path, schema: pa.Schema = SAMPLES) -> int:
    """Join the shards, in order of steps, into one Parquet file; returns the rows."""
    rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in _batches(sorted(shards.glob("*.parquet"), key=lambda shard: shard.stem)):
            writer.write_table(batch)
            rows += batch.num_rows
    return rows


def _batches(shards: Sequence[Path], at_once: int = 32) -> Iterable[pa.Table]:
    for start in range(0, len(shards), at_once):
        yield pa.concat_tables([pq.ParquetFile(s).read() for s in shards[start : start + at_once]])
