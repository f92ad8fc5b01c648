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
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from artifacts.keys import canonical_json
from artifacts.tables import conform, read_table, write_table
from tasks.job import Job, StopRequested
from tasks.problem import Problem
from tasks.rendering import Template, render_prompt
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
    template: Template,
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
    requests = _requests(problems, template, samples_per_problem, seed)
    folder = _shard_folder(job.state / "shards", sampler.name, requests, sampling, checkpoint_digest)
    shards = [
        _Shard(folder / f"{number:05d}.parquet", requests[start : start + SHARD_COMPLETIONS])
        for number, start in enumerate(range(0, len(requests), SHARD_COMPLETIONS))
    ]
    missing = [shard for shard in shards if not shard.path.exists()]
    at_once = max(1, sampler.in_flight // SHARD_COMPLETIONS)
    for start in range(0, len(missing), at_once):
        for shard, completions, speed in _sampled(sampler, missing[start : start + at_once], sampling, job):
            rows = _rows(shard.requests, completions, sampling, checkpoint_digest, sampler.name)
            write_table(shard.path, rows, SAMPLES)
            done = sum(len(s.requests) for s in shards if s.path.exists())
            job.progress(done, len(requests), "sample", tokens_per_second=speed)
    return read_table(folder) if shards else conform([], SAMPLES)


@dataclass(frozen=True)
class _Shard:
    """Requests that are written as one file."""

    path: Path
    requests: list[Request]


def _sampled(
    sampler: TextSampler, shards: Sequence[_Shard], sampling: Sampling, job: Job
) -> Iterator[tuple[_Shard, list[Written], float]]:
    """Each shard as its last completion ends, with the tokens a second since the start of the call.

    The requests of all these shards are in flight at once: an engine that waited for a shard's longest
    completion before it began with the next would stand half idle.

    Raises:
        StopRequested: the job was asked to stop.
    """
    requests = [(shard, place) for shard in shards for place in range(len(shard.requests))]
    asked = [shard.requests[place] for shard, place in requests]
    done: dict[Path, dict[int, Written]] = {shard.path: {} for shard in shards}
    started, tokens = time.perf_counter(), 0
    written = sampler.stream([r.prompt for r in asked], sampling, [r.seed for r in asked])
    with closing(written):
        for row, completion in written:
            shard, place = requests[row]
            done[shard.path][place] = completion
            tokens += completion.completion_tokens
            if len(done[shard.path]) == len(shard.requests):
                whole = done.pop(shard.path)
                speed = round(tokens / (time.perf_counter() - started), 1)
                yield shard, [whole[i] for i in range(len(whole))], speed
            if job.should_stop() and done:
                raise StopRequested(f"{len(done)} of {len(shards)} shards in flight were not yet whole")


def sample_seed(seed: int, problem_id: str, sample_index: int) -> int:
    """The seed of one sample, 0 .. 2**63-1."""
    return derived_seed(seed, problem_id, sample_index)


def _requests(problems: Sequence[Problem], template: Template, samples: int, seed: int) -> list[Request]:
    return [
        Request(p.id, i, prompt, sample_seed(seed, p.id, i))
        for p in problems
        for prompt in [render_prompt(template, p.prompt)]
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
