"""The `samples` table: completions of problems, in shards that survive a kill.

What they are worth is noted later (`tasks.judged_samples`): sampling knows no rewards.

A shard is written whole or not at all and is reused on resume. Its folder is named by everything that
decides the completions beside the request, so a shard of other settings is never taken for one of these.
What a sample draws is a pure function of (seed, problem id, sample index): neither the shard nor the run
matters, and whoever asks for more problems or more samples only draws what is not there yet.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
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
_RETIRED_DAYS = 30


@dataclass(frozen=True)
class Request:
    """One sample that is asked for."""

    problem_id: str
    sample_index: int
    prompt: str
    seed: int
    key: bytes
    """Of the four above."""


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
    sampled = sample_shards(
        sampler, problems, template, sampling, samples_per_problem, seed, checkpoint_digest, job,
        job.state / "shards",
    )  # fmt: skip
    return pa.concat_tables([conform([], SAMPLES), *sampled.chunks()])


def sample_shards(
    sampler: TextSampler,
    problems: Sequence[Problem],
    template: str,
    sampling: Sampling,
    samples_per_problem: int,
    seed: int,
    checkpoint_digest: str,
    job: Job,
    root: Path,
    finished: Callable[[list[str], list[str]], None] | None = None,
) -> SampledShards:
    """As `sample_problems`, for samples that do not fit into memory; shards lie in a folder of `root`.

    A `root` that several jobs share is where a later one finds what an earlier one drew. `finished` hears of
    the problems' ids and the completions of each shard that is drawn, while others are still being drawn.
    """
    requests = requests_for(sampler.prompt, problems, template, samples_per_problem, seed)
    folder = _shard_folder(root, sampler.name, sampling, checkpoint_digest, root.parent == job.state)
    places = _places(folder, requests)
    missing = [r for r in requests if r.key not in places]
    shards = [
        _Shard(folder / _shard_name(number, part), part)
        for number, start in enumerate(range(0, len(missing), SHARD_COMPLETIONS))
        for part in [missing[start : start + SHARD_COMPLETIONS]]
    ]
    done = len(requests) - len(missing)
    at_once = max(1, sampler.in_flight // SHARD_COMPLETIONS)
    for start in range(0, len(shards), at_once):
        for shard, completions, speed in _sampled(sampler, shards[start : start + at_once], sampling, job):
            rows = _rows(shard.requests, completions, sampling, checkpoint_digest, sampler.name)
            write_table(shard.path, rows, SAMPLES)
            places |= {r.key: (shard.path.name, row) for row, r in enumerate(shard.requests)}
            done += len(shard.requests)
            if finished is not None:
                finished([r.problem_id for r in shard.requests], [c.text for c in completions])
            job.progress(done, len(requests), "sample", tokens_per_second=speed)
    return SampledShards(folder, requests, places)


class SampledShards:
    """Samples on the disk, in the order in which they were asked for."""

    def __init__(
        self, folder: Path, requests: Sequence[Request], places: Mapping[bytes, tuple[str, int]]
    ) -> None:
        self._folder, self._requests, self._places = folder, requests, places
        self._open: dict[str, pa.Table] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def chunks(self) -> Iterator[pa.Table]:
        """`samples` tables of about a shard's rows; a problem's samples are in one of them."""
        for part in self._parts():
            places = [self._places[r.key] for r in part]
            yield self._rows(places)

    def _parts(self) -> Iterator[list[Request]]:
        part: list[Request] = []
        for _, group in itertools.groupby(self._requests, lambda r: r.problem_id):
            of_problem = list(group)
            if part and len(part) + len(of_problem) > SHARD_COMPLETIONS:
                yield part
                part = []
            part = part + of_problem
        if part:
            yield part

    def _rows(self, places: Sequence[tuple[str, int]]) -> pa.Table:
        names = list(dict.fromkeys(name for name, _ in places))
        self._open = {name: self._open.get(name) or read_table(self._folder / name) for name in names}
        starts = dict(
            zip(names, itertools.accumulate([0, *(self._open[n].num_rows for n in names)]), strict=False)
        )
        rows = [starts[name] + row for name, row in places]
        whole = pa.concat_tables([self._open[name] for name in names])
        if rows == list(range(rows[0], rows[0] + len(rows))):
            return whole.slice(rows[0], len(rows))
        return whole.take(rows)


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


def draw(
    sampler: TextSampler, requests: Sequence[Request], sampling: Sampling, checkpoint_digest: str
) -> pa.Table:
    """`samples` rows of the requests, in order, drawn in one call of the engine; no shard is left."""
    written = sampler.generate([r.prompt for r in requests], sampling, [r.seed for r in requests])
    return conform(_rows(requests, written, sampling, checkpoint_digest, sampler.name), SAMPLES)


def sample_seed(seed: int, problem_id: str, sample_index: int) -> int:
    """The seed of one sample, 0 .. 2**63-1."""
    return derived_seed(seed, problem_id, sample_index)


def requests_for(
    render: Callable[[str, str], str], problems: Sequence[Problem], template: str, samples: int, seed: int
) -> list[Request]:
    """`samples` requests a problem, a problem's together; `render(template, question)` makes the prompt."""
    return [
        Request(p.id, i, prompt, drawn_by, _key(p.id, i, prompt, drawn_by))
        for p in problems
        for prompt in [render(template, p.prompt)]
        for i in range(samples)
        for drawn_by in [sample_seed(seed, p.id, i)]
    ]


def _shard_folder(root: Path, engine: str, sampling: Sampling, checkpoint: str, private: bool) -> Path:
    """The folder of the shards with these settings.

    In a private root folders of other settings are removed at once; in a shared one, where other jobs may be
    at work, those that were not used for `_RETIRED_DAYS`.
    """
    document = [engine, checkpoint, sampling.model_dump(), SHARD_COMPLETIONS]
    folder = root / hashlib.sha256(canonical_json(document)).hexdigest()[:16]
    for other in root.glob("*"):
        if other != folder and (private or time.time() - other.stat().st_mtime > _RETIRED_DAYS * 86_400):
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    return folder


def _places(folder: Path, requests: Sequence[Request]) -> dict[bytes, tuple[str, int]]:
    """Key -> file and row of those requests that an earlier job answered."""
    wanted = {r.key for r in requests}
    columns = ["problem_id", "sample_index", "prompt", "seed"]
    found: dict[bytes, tuple[str, int]] = {}
    for file in sorted(folder.glob("*.parquet")):
        rows = read_table(file, columns).to_pylist()
        keys = [_key(**row) for row in rows]
        found |= {key: (file.name, row) for row, key in enumerate(keys) if key in wanted}
    return found


def _shard_name(number: int, requests: Sequence[Request]) -> str:
    digest = hashlib.sha256(b"".join(r.key for r in requests)).hexdigest()
    return f"{number:05d}-{digest[:16]}.parquet"


def _key(problem_id: str, sample_index: int, prompt: str, seed: int) -> bytes:
    return hashlib.sha256(canonical_json([problem_id, sample_index, prompt, seed])).digest()[:16]


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
