"""The mixture that Dev3 and the students learn from (paper B.3.3, Table 5).

Reasoning part: several samples a problem from Dev2; correct, complete, well formed, one language, short
paragraphs, no code blocks; at most `keep_per_problem` distinct ones. General part: the reference
responses of general problems, until they make `general_share` of the mixture.

Differs from the paper: what rules cannot grade is not sampled (no generative judge), and general data
are the problems' own references, standing in for DeepSeek-V3's SFT set. Decontamination happens where
problems are made; no held-out problem is ever sampled (checked).
Run alone: `prefect deployment run rejection-sampling --param preset=tiny`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from artifacts.tables import write_table
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
from tasks.problem import Problem, from_table
from tasks.rejection_sampling.stage import RejectionSamplingConfig
from tasks.rollout.engine import derived_seed
from tasks.tables import REJECTED, SAMPLES, SFT
from tasks.tokenizer import Codec


def run(config: RejectionSamplingConfig, job: Job) -> None:
    """Sample, filter, add the general part; the stage's entry.

    Raises:
        ValueError: nothing passed, no problem to sample, or general data asked for and none given.
    """
    checkpoint, everything = job.inputs["checkpoint"], from_table(job.inputs["problems"].table("problems"))
    problems = chosen(everything, config.domains, config.problems, config.seed)
    general = general_candidates(everything, config)
    samples = sample_checkpoint(
        checkpoint, problems, config.template, config.sampling, config.samples_per_problem, config.seed,
        config.engine, job, config.allow_weak_sandbox,
    )  # fmt: skip
    kept, dropped = curate(candidates(samples, problems), config)
    require_some(kept, dropped, "rejection sampling")
    codec = Codec.of(checkpoint.path / "model")
    added = [
        replace(c, prompt=codec.prompt(config.template, c.problem.prompt))
        for c in general[: general_count(len(kept), config.general_share)]
    ]
    parts = (kept, checkpoint.ref.digest), (added, "reference")
    mixture = pa.concat_tables([sft_table(rows, source, config.template) for rows, source in parts])
    write_table(job.draft / "samples.parquet", samples, SAMPLES)
    write_table(job.draft / "rejected.parquet", rejected_table(dropped), REJECTED)
    write_table(job.draft / "sft.parquet", mixture, SFT)
    job.summary(
        samples=samples.num_rows,
        kept=len(kept),
        general=len(added),
        general_share=round(len(added) / mixture.num_rows, 4),
        **{f"rejected_{reason}": n for reason, n in reason_counts(dropped).items()},
        **domain_statistics(mixture, codec),
    )


def curate(
    sampled: Sequence[Candidate], config: RejectionSamplingConfig
) -> tuple[list[Candidate], list[tuple[Candidate, Rejection]]]:
    """Kept candidates, and dropped ones with the reason."""
    judged = [(c, first_objection(c, CORRECT, list(FILTERS), config.readability)) for c in sampled]
    kept, surplus = first_distinct([c for c, r in judged if not r], config.keep_per_problem)
    return kept, [(c, r) for c, r in judged if r] + surplus


def general_count(reasoning: int, share: float) -> int:
    """How many general samples make `share` of a mixture with so many reasoning samples."""
    if share == 1:
        raise ValueError(
            "rejection_sampling.general_share is 1: a mixture needs reasoning too, choose below 1"
        )
    return round(reasoning * share / (1 - share))


def general_candidates(problems: Sequence[Problem], config: RejectionSamplingConfig) -> list[Candidate]:
    """The reference responses of general training problems in drawing order, as candidates without a prompt.

    A problem without a reference (empty answer) has none; the thinking is `verifier_args["thinking"]`.
    """
    if not config.general_share:
        return []
    offered = chosen(problems, ("general",), len(problems), config.seed)
    drawn = sorted(offered, key=lambda p: (derived_seed(config.seed, p.id), p.id))
    found = [_reference(p) for p in drawn if p.answer.strip()]
    if not found:
        raise ValueError(
            f"general_share is {config.general_share} but no general training problem has a reference "
            "response: fill their `answer`, or set general_share to 0"
        )
    return found


def _reference(problem: Problem) -> Candidate:
    thinking = str(problem.verifier_args.get("thinking", "")).strip()
    block = f" <think> {thinking} </think>" if thinking else " <think> </think>"
    completion = f"{block} <answer> {problem.answer.strip()} </answer>"
    return Candidate(problem, "", completion, None, "stop", 0)


def domain_statistics(mixture: pa.Table, codec: Codec) -> dict[str, float]:
    """Samples and mean completion tokens, the end token included, of each domain (Table 5)."""
    lengths = [len(ids) for ids in codec.completions(mixture["completion"].to_pylist())]
    counted = mixture.append_column("tokens", pa.array(lengths)).group_by("domain")
    rows = counted.aggregate([("tokens", "count"), ("tokens", "mean")]).sort_by("domain").to_pylist()
    return {f"samples_{r['domain']}": r["tokens_count"] for r in rows} | {
        f"mean_tokens_{r['domain']}": round(r["tokens_mean"], 1) for r in rows
    }
