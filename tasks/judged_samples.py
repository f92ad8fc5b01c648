"""Samples of a checkpoint, drawn and judged: what curation and evaluation start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from artifacts.tables import conform
from tasks.job import Input, Job
from tasks.language_models.chat import Asks
from tasks.language_models.verdict import GradedAnswer, judged
from tasks.problem import Problem
from tasks.rewards.pool import REMEMBERED, VerifierPool
from tasks.rewards.score import RULE_TERMS, RewardFunction, scored_columns
from tasks.rewards.verdict import Verdict
from tasks.rewards.verifier import has_rule
from tasks.rollout.kept import kept_sampler
from tasks.rollout.sampling import SampledShards, sample_shards
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.tables import SAMPLES

BY_MODEL = "judge"
"""The verifier of problems whose answers a language model compares with the reference."""
_AHEAD = REMEMBERED // 2
"""Completions that are verified while others are sampled; the pool would forget the first of many more."""


def judged_samples(
    checkpoint: Input,
    problems: Sequence[Problem],
    template: str,
    sampling: Sampling,
    samples_per_problem: int,
    seed: int,
    engine: EngineSettings,
    job: Job,
    pool: VerifierPool,
) -> Iterator[pa.Table]:
    """Sample a checkpoint and yield its judged `samples`, part by part, in the order of the problems.

    The engine stays open for the job's next checkpoint.
    """
    with verified_ahead(problems, pool) as finished:
        sampler = kept_sampler(engine, checkpoint.path / "model", job)
        sampled = sample_shards(
            sampler, problems, template, sampling, samples_per_problem, seed, checkpoint.ref.digest, job,
            job.state / "shards", finished,
        )  # fmt: skip
    done = 0
    for chunk in sampled.chunks():
        job.progress(done, len(sampled), "verify")
        yield judge(chunk, problems, pool)
        done += chunk.num_rows


def checkpoint_shards(
    checkpoint: Input,
    problems: Sequence[Problem],
    template: str,
    sampling: Sampling,
    samples_per_problem: int,
    seed: int,
    engine: EngineSettings,
    job: Job,
    pool: VerifierPool,
) -> SampledShards:
    """Sample a checkpoint into shards that are not judged; a later job finds them again. `pool`, which will
    judge them, begins with it."""
    with verified_ahead(problems, pool) as finished:
        sampler = kept_sampler(engine, checkpoint.path / "model", job)
        return sample_shards(
            sampler, problems, template, sampling, samples_per_problem, seed, checkpoint.ref.digest, job,
            job.work_root / "shards", finished,
        )  # fmt: skip


def kept_pool(job: Job, allow_weak_sandbox: bool) -> VerifierPool:
    """The verifier pool that the builds of a job share; the job ends it after the last one."""
    place = "verifiers, weak sandbox" if allow_weak_sandbox else "verifiers"
    if place not in job.kept:
        job.kept[place] = VerifierPool(allow_weak_sandbox=allow_weak_sandbox)
    pool: VerifierPool = job.kept[place]
    return pool


@contextmanager
def verified_ahead(
    problems: Sequence[Problem], pool: VerifierPool
) -> Iterator[Callable[[list[str], list[str]], None]]:
    """Gives a function that takes problem ids with completions and has the pool verify them beside what goes
    on here: `judge` finds them remembered. Waits for them at the end."""
    by_id, left = {p.id: p for p in problems}, _AHEAD
    thread = ThreadPoolExecutor(1, thread_name_prefix="verify-ahead")

    def finished(ids: list[str], completions: list[str]) -> None:
        nonlocal left
        if left > 0:
            left -= len(ids)
            thread.submit(pool.verify, [by_id[i] for i in ids], completions)

    try:
        pool.warm(problems)
        yield finished
        thread.shutdown()
    finally:
        thread.shutdown(cancel_futures=True)


def judge(
    table: pa.Table, problems: Sequence[Problem], pool: VerifierPool, model: Asks | None = None
) -> pa.Table:
    """`samples` with thinking, answer, verdict, and the accuracy, format and language terms filled in.

    `answer` is the final answer that was judged; where no rule applies it is the text of the answer block,
    and verdict and accuracy stay null. With a `model`, answers to problems of verifier `judge` get its
    verdict; where it gave none the verdict is `judge-unreadable`, `judge-timeout` or the like.
    """
    by_id = {p.id: p for p in problems}
    asked = [by_id[i] for i in table["problem_id"].to_pylist()]
    tokens, limits = (table[name].to_pylist() for name in ("completion_tokens", "max_new_tokens"))
    scored = RewardFunction(RULE_TERMS, pool).score(
        asked, table["completion"].to_pylist(), tokens, max(limits, default=0)
    )
    columns = scored_columns(scored, RULE_TERMS)
    if model is not None:
        columns["verdict"] = _with_model(columns, asked, model)
    kept = {name: table[name] for name in table.column_names}
    return conform(pa.table(kept | columns), SAMPLES)


def _with_model(
    columns: dict[str, list[str | None]], problems: Sequence[Problem], model: Asks
) -> list[str | None]:
    """The verdicts, those of a language model filled in."""
    verdicts, answers = list(columns["verdict"]), columns["answer"]
    rows = [i for i, p in enumerate(problems) if p.verifier == BY_MODEL and not has_rule(p)]
    cases = {
        i: GradedAnswer(problems[i].prompt, problems[i].answer, text) for i in rows if (text := answers[i])
    }
    found = dict(zip(cases, judged(model, list(cases.values())), strict=True))
    for i in rows:
        correct, failure = found.get(i, (None, ""))
        if i not in found:
            verdicts[i] = Verdict.unparseable.value
        elif correct is None:
            verdicts[i] = f"judge-{failure}"
        else:
            verdicts[i] = (Verdict.correct if correct else Verdict.wrong).value
    return verdicts


def verdict_counts(table: pa.Table) -> dict[str, int]:
    """How many rows have each verdict; rows where no rule applies are left out."""
    counts = pc.value_counts(table["verdict"].drop_null()).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}
