"""Cold-start data (paper B.3.2): R1-Zero's correct, readable traces, brought into one language.

    sample R1-Zero at T = 1.0, several per prompt
      -> correct answer, complete, well formed -> no repetition, no long paragraph, no code block
      -> refine (translate a mixed thinking into the question's language) -> language filter
      -> the first `keep_per_problem` distinct ones

Differs from the paper: no human rewriting and no V3; `refiner: lexicon` translates by phrase table and
writes no summary. Leaves `sft`, `samples` (as sampled) and `rejected` (every dropped candidate with its
reason). Run alone: `prefect deployment run cold-start --param preset=tiny`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from artifacts.tables import write_table
from tasks.cold_start.stage import ColdStartConfig
from tasks.curation.candidates import (
    CORRECT,
    Candidate,
    Rejection,
    candidates,
    first_distinct,
    first_objection,
    reason_counts,
    rejected_table,
    require_some,
    sft_table,
)
from tasks.curation.choice import chosen
from tasks.curation.readability import FILTERS
from tasks.job import Job
from tasks.judged_samples import sample_checkpoint
from tasks.problem import from_table
from tasks.registry import modules
from tasks.rewards.language import language_consistency
from tasks.tables import REJECTED, SAMPLES, SFT

Dropped = list[tuple[Candidate, Rejection]]

_AFTER_REFINING = ("mixed-language",)
"""Readability filters that look at the refined trace: refining is there to pass them."""


def run(config: ColdStartConfig, job: Job) -> None:
    """Sample, filter, refine, keep; the stage's entry.

    Raises:
        ValueError: no candidate passed (the counts by reason are in the message), or no problem to sample.
    """
    checkpoint = job.inputs["checkpoint"]
    problems = chosen(
        from_table(job.inputs["problems"].table("problems")), config.domains, config.problems, config.seed
    )
    samples = sample_checkpoint(
        checkpoint, problems, config.template, config.sampling, config.samples_per_problem, config.seed,
        config.engine, job, config.allow_weak_sandbox,
    )  # fmt: skip
    kept, dropped, rewritten = curate(candidates(samples, problems), config)
    require_some(kept, dropped, "cold start")
    write_table(job.draft / "samples.parquet", samples, SAMPLES)
    write_table(job.draft / "rejected.parquet", rejected_table(dropped), REJECTED)
    table = sft_table(kept, checkpoint.ref.digest, config.template)
    write_table(job.draft / "sft.parquet", table, SFT)
    job.summary(
        problems=len(problems),
        samples=samples.num_rows,
        kept=len(kept),
        refined=rewritten,
        **{f"kept_{domain}": n for domain, n in sorted(Counter(c.problem.domain for c in kept).items())},
        **{f"rejected_{reason}": n for reason, n in reason_counts(dropped).items()},
    )


def curate(sampled: Sequence[Candidate], config: ColdStartConfig) -> tuple[list[Candidate], Dropped, int]:
    """Kept candidates, dropped ones with the reason, and how many of the kept were refined."""
    before = [name for name in FILTERS if name not in _AFTER_REFINING]
    passed: list[Candidate] = []
    dropped: Dropped = []
    for candidate in sampled:
        objection = first_objection(candidate, CORRECT, before, config.readability)
        better = candidate if objection else refined(candidate, config.refiner)
        objection = objection or first_objection(better, (), _AFTER_REFINING, config.readability)
        if objection:
            dropped.append((better, objection))
        else:
            passed.append(better)
    kept, surplus = first_distinct(passed, config.keep_per_problem)
    raw = {(c.problem.id, c.sample_index): c.completion for c in sampled}
    rewritten = sum(raw[c.problem.id, c.sample_index] != c.completion for c in kept)
    return kept, dropped + surplus, rewritten


def refined(candidate: Candidate, refiner: str) -> Candidate:
    """The candidate with its thinking in one language; unchanged where it already is, or for `none`."""
    language = candidate.problem.language
    if refiner == "none" or language_consistency(candidate.thinking, language) == 1:
        return candidate
    thinking = modules("tasks.cold_start.refiners")[refiner].refine(candidate.thinking, language)
    return replace(candidate, completion=candidate.completion.replace(candidate.thinking, thinking, 1))
