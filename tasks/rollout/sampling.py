"""The `samples` table: completions of problems, in shards that survive a kill.

What they are worth is noted later (`tasks.judged_samples`): sampling knows no rewards.

A shard is written whole or not at all and is reused on resume. Its folder is named by everything that
decides the completions, so a shard of other settings is never taken for one of these. What a sample
draws is a pure function of (seed, problem id, sample index): neither the shard nor the run matters.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from artifacts.keys import canonical_json
from artifacts.tables import conform, read_table, write_table
from tasks.job import Job, StopRequested
from tasks.problem import Problem
from tasks.rollout.engine import derived_seed
from tasks.rollout.settings import Sampling
from tasks.rollout.text import TextSampler, Written
from tasks.tables import SAMPLES

SHARD_COMPLETIONS = 512
"""Completions between two points at which a job can be killed without losing work."""


@dataclass(frozen=True)
class Request:
    """One sample that is asked for."""

    problem_id: str
    sample_index: int
    prompt: str
    seed: int


def sample_problems(
    sampler: TextSampler,
    problems: Sequence[Problem],
    template: str,
    sampling: Sampling,
    samples_per_problem: int,
    seed: int,
    checkpoint_digest: str,
    job: Job,
) -> pa.Table:
    """`samples` rows: `samples_per_problem` completions of each problem, a problem's together, in order.

    Raises:
        StopRequested: the job was asked to stop; the shards made so far are kept.
    """
    requests = _requests(sampler, problems, template, samples_per_problem, seed)
    folder = _shard_folder(job.state / "shards", sampler.name, requests, sampling, checkpoint_digest)
    shards = [
        requests[start : start + SHARD_COMPLETIONS] for start in range(0, len(requests), SHARD_COMPLETIONS)
    ]
    done = 0
    for number, shard in enumerate(shards):
        path, started = folder / f"{number:05d}.parquet", time.perf_counter()
        made = not path.exists()
        if made:
            if job.should_stop():
                raise StopRequested(f"{number} of {len(shards)} shards sampled")
            completions = sampler.generate([r.prompt for r in shard], sampling, [r.seed for r in shard])
            rows = _rows(shard, completions, sampling, checkpoint_digest, sampler.name)
            write_table(path, rows, SAMPLES)
        done += len(shard)
        speed = {"tokens_per_second": _tokens(completions, started)} if made else {}
        job.progress(done, len(requests), "sample", **speed)
    return read_table(folder) if shards else conform([], SAMPLES)


def sample_seed(seed: int, problem_id: str, sample_index: int) -> int:
    """The seed of one sample, 0 .. 2**63-1."""
    return derived_seed(seed, problem_id, sample_index)


def _requests(
    sampler: TextSampler, problems: Sequence[Problem], template: str, samples: int, seed: int
) -> list[Request]:
    return [
        Request(p.id, i, prompt, sample_seed(seed, p.id, i))
        for p in problems
        for prompt in [sampler.prompt(template, p.prompt)]
        for i in range(samples)
    ]


def _shard_folder(
    root: Path, engine: str, requests: Sequence[Request], sampling: Sampling, checkpoint: str
) -> Path:
    """The folder of these requests' shards; folders of other requests are removed."""
    asked = hashlib.sha256()
    for r in requests:
        asked.update(canonical_json([r.problem_id, r.sample_index, r.prompt, r.seed]))
    document = [engine, checkpoint, sampling.model_dump(), SHARD_COMPLETIONS, asked.hexdigest()]
    folder = root / hashlib.sha256(canonical_json(document)).hexdigest()[:16]
    for other in root.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _rows(
    requests: Sequence[Request],
    completions: Sequence[Written],
    sampling: Sampling,
    checkpoint: str,
    engine: str,
) -> pa.Table:
    n = len(requests)
    columns = {
        "problem_id": [r.problem_id for r in requests],
        "sample_index": [r.sample_index for r in requests],
        "checkpoint": [checkpoint] * n,
        "prompt": [r.prompt for r in requests],
        "completion": [c.text for c in completions],
        "prompt_tokens": [c.prompt_tokens for c in completions],
        "completion_tokens": [c.completion_tokens for c in completions],
        "finish_reason": [c.finish_reason for c in completions],
        "temperature": [sampling.temperature] * n,
        "top_p": [sampling.top_p] * n,
        "max_new_tokens": [sampling.max_new_tokens] * n,
        "seed": [r.seed for r in requests],
        "engine": [engine] * n,
    }
    return pa.table(columns)


def _tokens(completions: Sequence[Written], started: float) -> float:
    return round(sum(c.completion_tokens for c in completions) / (time.perf_counter() - started), 1)
