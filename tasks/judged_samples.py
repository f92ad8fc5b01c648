"""Samples of a checkpoint, drawn and judged: what curation and evaluation start from."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from artifacts.tables import conform
from tasks.job import Input, Job
from tasks.problem import Problem
from tasks.rendering import Template
from tasks.rewards.pool import VerifierPool
from tasks.rewards.score import RULE_TERMS, RewardFunction, scored_columns
from tasks.rollout.kept import kept_sampler
from tasks.rollout.sampling import sample_problems
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.tables import SAMPLES


def sample_checkpoint(
    checkpoint: Input,
    problems: Sequence[Problem],
    template: Template,
    sampling: Sampling,
    samples_per_problem: int,
    seed: int,
    engine: EngineSettings,
    job: Job,
    allow_weak_sandbox: bool = False,
) -> pa.Table:
    """`sample_problems` and `judge`; the engine stays open for the job's next checkpoint."""
    sampler = kept_sampler(engine, checkpoint.path / "model", job)
    table = sample_problems(
        sampler, problems, template, sampling, samples_per_problem, seed, checkpoint.ref.digest, job
    )
    job.progress(table.num_rows, table.num_rows, "verify")
    with VerifierPool(allow_weak_sandbox=allow_weak_sandbox) as pool:
        return judge(table, problems, pool)


def judge(table: pa.Table, problems: Sequence[Problem], pool: VerifierPool) -> pa.Table:
    """`samples` with thinking, answer, verdict, and the accuracy, format and language terms filled in.

    `answer` is the final answer that was judged; where no rule applies (rubric problems) it is the text
    of the answer block, and verdict and accuracy stay null.
    """
    by_id = {p.id: p for p in problems}
    asked = [by_id[i] for i in table["problem_id"].to_pylist()]
    tokens, limits = (table[name].to_pylist() for name in ("completion_tokens", "max_new_tokens"))
    scored = RewardFunction(RULE_TERMS, pool).score(
        asked, table["completion"].to_pylist(), tokens, max(limits, default=0)
    )
    kept = {name: table[name] for name in table.column_names}
    return conform(pa.table(kept | scored_columns(scored, RULE_TERMS)), SAMPLES)


def verdict_counts(table: pa.Table) -> dict[str, int]:
    """How many rows have each verdict; rows where no rule applies are left out."""
    counts = pc.value_counts(table["verdict"].drop_null()).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}
