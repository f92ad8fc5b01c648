"""Evaluation of a checkpoint on held-out problems (paper D.1): temperature 0.6, top-p 0.95, several samples.

One protocol for every checkpoint of a preset: the same problems, the same seeds, so two checkpoints
differ in nothing but their weights. Leaves `samples`, `question_scores` and `scores`
(`tasks.evaluate.scores`).
Run alone: `prefect deployment run evaluate --param preset=tiny`.
"""

from __future__ import annotations

from collections.abc import Sequence

from artifacts.tables import write_table
from tasks.evaluate.scores import QuestionSet, question_scores, scores
from tasks.evaluate.stage import EvaluateConfig
from tasks.evaluate.voting import verified_equivalence
from tasks.job import Job
from tasks.judged_samples import sample_checkpoint, verdict_counts
from tasks.problem import DOMAINS, Problem, from_table, select
from tasks.rewards.pool import VerifierPool
from tasks.tables import QUESTION_SCORES, SAMPLES, SCORES

_HEADLINES = {"pass_at_1", "format", "language_consistency", "length"}


def run(config: EvaluateConfig, job: Job) -> None:
    """Sample, judge, score; the stage's entry.

    Raises:
        ValueError: there is no held-out problem.
    """
    problems = held_out(from_table(job.inputs["problems"].table("problems")), config.problems_per_domain)
    sets = [QuestionSet(problems, config.samples_per_problem)]
    samples = sample_checkpoint(
        job.inputs["checkpoint"], problems, config.template, config.sampling, config.samples_per_problem,
        config.seed, config.engine, job, config.allow_weak_sandbox,
    )  # fmt: skip
    with VerifierPool() as pool:
        same = verified_equivalence(pool)
        by_question = question_scores(samples, sets, same)
    table = scores(by_question, sets, config.seed)
    write_table(job.draft / "samples.parquet", samples, SAMPLES)
    write_table(job.draft / "question_scores.parquet", by_question, QUESTION_SCORES)
    write_table(job.draft / "scores.parquet", table, SCORES)
    headlines = {
        row["metric"]: round(row["value"], 4)
        for row in table.to_pylist()
        if (row["by"], row["group"]) == ("domain", "verifiable") and row["metric"] in _HEADLINES
    }
    counts = {f"verdict_{verdict}": n for verdict, n in verdict_counts(samples).items()}
    job.summary(questions=len(problems), samples=samples.num_rows, **headlines, **counts)


def held_out(problems: Sequence[Problem], per_domain: int) -> list[Problem]:
    """The first held-out problems of each domain by id: the same ones whatever the table's order."""
    chosen = [
        problem
        for domain in DOMAINS
        for problem in sorted(select(problems, "held_out", (domain,)), key=lambda p: p.id)[:per_domain]
    ]
    if not chosen:
        raise ValueError("there is no held-out problem to evaluate on: set problems.held_out")
    return chosen
