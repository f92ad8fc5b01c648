"""Evaluation of a checkpoint (paper D.1): held-out problems and named benchmarks, several samples a question.

One protocol for every checkpoint of a preset: the same questions, the same seeds, so two checkpoints
differ in nothing but their weights. Leaves `samples`, `question_scores` and `scores`
(`tasks.evaluate.scores`).
Run alone: `prefect deployment run evaluate --param preset=tiny`, or `r1 eval CHECKPOINT --on NAME`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.files import replacing
from artifacts.tables import write_table
from tasks.evaluate.scores import QuestionSet, question_scores, scores
from tasks.evaluate.stage import EvaluateConfig
from tasks.evaluate.voting import verified_equivalence
from tasks.job import Job
from tasks.judged_samples import judged_samples, kept_pool, verdict_counts
from tasks.problem import DOMAINS, Problem, from_table, select
from tasks.tables import QUESTION_SCORES, SAMPLES, SCORES

_HEADLINES = {"pass_at_1", "format", "language_consistency", "length"}


def run(config: EvaluateConfig, job: Job) -> None:
    """Sample, judge, score; the stage's entry.

    Raises:
        ValueError: there is no held-out problem, or none of a benchmark.
    """
    sets = question_sets(from_table(job.inputs["problems"].table("problems")), config)
    file = job.draft / "samples.parquet"
    counts: Counter[str] = Counter()
    rows, engine = 0, ""
    with replacing(file) as temporary, pq.ParquetWriter(temporary, SAMPLES, compression="zstd") as writer:
        for part in _samples(sets, config, job):
            writer.write_table(part)
            counts.update(verdict_counts(part))
            rows, engine = rows + part.num_rows, part["engine"][0].as_py()
    pool = kept_pool(job, config.allow_weak_sandbox)
    by_question = question_scores(file, sets, verified_equivalence(pool))
    table = scores(by_question, sets, config.seed)
    write_table(job.draft / "question_scores.parquet", by_question, QUESTION_SCORES)
    write_table(job.draft / "scores.parquet", table, SCORES)
    headlines = {
        _called(row["by"], row["group"], row["metric"]): round(row["value"], 4)
        for row in table.to_pylist()
        if row["metric"] in _HEADLINES
        and ((row["by"], row["group"]) == ("domain", "verifiable") or _is_benchmark(row, config))
    }
    verdicts = {f"verdict_{verdict}": n for verdict, n in sorted(counts.items())}
    questions = sum(len(asked.problems) for asked in sets)
    job.summary(questions=questions, samples=rows, engine=engine, **headlines, **verdicts)


def question_sets(problems: Sequence[Problem], config: EvaluateConfig) -> list[QuestionSet]:
    """Return the held-out problems and those of each benchmark, as they are asked.

    Raises:
        ValueError: there is none to ask, or none of a benchmark.
    """
    rest = [p for p in problems if p.source not in config.benchmarks]
    own = held_out(rest, config.problems_per_domain)
    sets = [QuestionSet(own, config.samples_per_problem, config.pass_at)] if own else []
    for name, benchmark in config.benchmarks.items():
        asked = [
            replace(p, prompt=benchmark.asked(p.prompt))
            for p in problems
            if p.source == name and p.split == "held_out"
        ]
        if not asked:
            raise ValueError(
                f"the problems hold no question of benchmark {name}: make them with the same "
                "`evaluation.benchmarks`, and see their rejected rows"
            )
        sets.append(QuestionSet(asked, benchmark.samples, benchmark.pass_at or config.pass_at))
    if not sets:
        raise ValueError("there is no held-out problem to evaluate on: set problems.held_out")
    return sets


def held_out(problems: Sequence[Problem], per_domain: int) -> list[Problem]:
    """The first held-out problems of each domain by id: the same ones whatever the table's order."""
    return [
        problem
        for domain in DOMAINS
        for problem in sorted(select(problems, "held_out", (domain,)), key=lambda p: p.id)[:per_domain]
    ]


def _samples(sets: Sequence[QuestionSet], config: EvaluateConfig, job: Job) -> Iterator[pa.Table]:
    """The judged samples of all questions, part by part."""
    for asked in sets:
        yield from judged_samples(
            job.inputs["checkpoint"], asked.problems, config.template, config.sampling, asked.samples,
            config.seed, config.engine, job, kept_pool(job, config.allow_weak_sandbox),
        )  # fmt: skip


def _is_benchmark(row: dict[str, str], config: EvaluateConfig) -> bool:
    return row["by"] == "source" and row["group"] in config.benchmarks and row["metric"] == "pass_at_1"


def _called(by: str, group: str, metric: str) -> str:
    return f"{group}_{metric}" if by == "source" else metric
