"""Cold-start data (paper B.3.2): R1-Zero's correct, readable traces, rewritten for readers.

    sample R1-Zero at T = 1.0, several per prompt
      -> correct answer, complete, well formed -> no repetition, no long paragraph, no code block
      -> refine until `keep_per_problem` traces of a problem are there (`refine.py`)
      -> verified again, language filter

Differs from the paper: one request writes thinking and solution, where DeepSeek-V3 was asked for each; the
rule `lexicon` only translates and writes no solution. Leaves `sft`, `samples` (as sampled), `rejected` (every
dropped candidate with its reason) and `funnel`. Works shard by shard: a kill loses at most one.
Run alone: `prefect deployment run cold-start --param preset=tiny`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.cold_start.refine import Outcome, Refiner, Verify, by_rule, checked, read_examples
from tasks.cold_start.stage import REFINERS, ColdStartConfig
from tasks.curation.candidates import (
    Candidate,
    Rejection,
    Sieve,
    candidates,
    duplicates,
    incorrect,
    require_some,
)
from tasks.curation.choice import chosen
from tasks.curation.filtering import Filtering
from tasks.curation.readability import FILTERS
from tasks.curation.shards import CuratedShard, Shards
from tasks.job import Job
from tasks.judged_samples import checkpoint_shards, judge, kept_pool
from tasks.language_models.opening import open_model
from tasks.problem import from_table
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict
from tasks.rewards.verifier import has_rule
from tasks.settings import REPOSITORY

_AFTER_REFINING = ("mixed-language",)
"""Readability filters that look at the refined trace: refining is there to pass them."""

Readable = Callable[[Sequence[Candidate]], list[Rejection | None]]


@dataclass(frozen=True)
class Tools:
    """What the curation of a shard asks."""

    refiner: Refiner
    verify: Verify
    before: Readable
    """The filters of a trace as it was sampled."""
    after: Readable
    """Those of a refined one."""


def run(config: ColdStartConfig, job: Job) -> None:
    """Sample, filter, refine, keep; the stage's entry.

    Raises:
        ValueError: no candidate passed (the counts by reason are in the message), or no problem to sample.
        ModelLost: the refiner cannot be asked.
        StopRequested: asked to stop; finished shards and answers are kept.
    """
    examples = read_examples(REPOSITORY / Path(config.examples).expanduser()) if config.examples else []
    model = open_model(config.refiner, job, {name: by_rule(name) for name in REFINERS})
    refiner = Refiner(model, examples, config.short_answers)
    checkpoint = job.inputs["checkpoint"]
    usable = [p for p in from_table(job.inputs["problems"].table("problems")) if has_rule(p)]
    problems = chosen(usable, config.domains, config.problems, config.seed)
    pool = kept_pool(job, config.allow_weak_sandbox)
    sampled = checkpoint_shards(
        checkpoint, problems, config.template, config.sampling, config.samples_per_problem, config.seed,
        config.engine, job, pool,
    )  # fmt: skip
    by_id = {p.id: p for p in problems}
    shards = Shards(job, checkpoint.ref.digest, config.template)
    first, last = ([n for n in FILTERS if (n in _AFTER_REFINING) is late] for late in (False, True))
    last = last if model is None else list(FILTERS)
    with (
        Filtering(first, config.readability, len(sampled)) as before,
        Filtering(last, config.readability, len(sampled)) as after,
    ):
        tools = Tools(refiner, _verifier(pool), _readable(before), _readable(after))

        def curate_chunk(chunk: pa.Table) -> CuratedShard:
            asked = [by_id[i] for i in dict.fromkeys(chunk["problem_id"].to_pylist())]
            judged = judge(chunk, asked, pool)
            rows = candidates(judged, asked)
            sieve = curate(rows, config.keep_per_problem, tools)
            asked_of = {f"refiner_{name}": n for name, n in (model.taken() if model else {}).items()}
            return CuratedShard(judged, sieve, {"refined": _rewritten(rows, sieve), **asked_of})

        shards.make(sampled.chunks(), len(sampled), curate_chunk)
    require_some(shards.kept, shards.reasons, "cold start")
    shards.join(iter(()), pa.array([], pa.int64()), "")
    shards.funnel().write(job.draft)
    domains = Counter(shards.column("domain").to_pylist())
    job.summary(
        problems=len(problems),
        samples=shards.samples,
        kept=shards.kept,
        refined=shards.counts["refined"],
        **{f"kept_{domain}": n for domain, n in sorted(domains.items())},
        **{f"rejected_{reason}": n for reason, n in shards.reasons.most_common()},
    )
    if model is not None:
        job.summary(**model.summary("refiner", shards.counts_of("refiner")))
        model.close()


def curate(sampled: Sequence[Candidate], keep_per_problem: int, tools: Tools) -> Sieve:
    """What is kept of judged candidates, and why the others are dropped."""
    sieve = Sieve(list(sampled))
    sieve.step("correct", [incorrect(c) for c in sieve.kept])
    sieve.step("readable", list(tools.before(sieve.kept)))
    sieve.step("distinct", list(duplicates(sieve.kept)))
    sieve.step("refined", refined(sieve.kept, keep_per_problem, tools, tools.refiner.trivial(sampled)))
    return sieve


def refined(
    passed: Sequence[Candidate], keep_per_problem: int, tools: Tools, trivial: frozenset[str] = frozenset()
) -> list[Outcome]:
    """Each candidate refined, or why it is not kept.

    A problem's candidates are refined in sampling order until `keep_per_problem` are good: the first and not
    the shortest, as sampling order knows nothing of length. So no rewrite is paid for that is not needed.
    """
    waiting: dict[str, deque[int]] = {}
    for i, c in enumerate(passed):
        waiting.setdefault(c.problem.id, deque()).append(i)
    over = Rejection("over-quota", f"{keep_per_problem} of this problem were kept")
    outcomes: list[Outcome] = [over] * len(passed)
    kept: dict[str, set[str]] = {problem: set() for problem in waiting}
    while turn := [
        queue.popleft()
        for problem, queue in waiting.items()
        for _ in range(min(len(queue), keep_per_problem - len(kept[problem])))
    ]:
        before = [passed[i] for i in turn]
        after = checked(before, tools.refiner.rewrite(before, trivial), tools.verify, tools.after)
        for i, outcome in zip(turn, after, strict=True):
            outcomes[i] = outcome
            if isinstance(outcome, Candidate):
                texts, text = kept[outcome.problem.id], outcome.completion.strip()
                if text in texts:
                    outcomes[i] = Rejection("duplicate", "the same completion was kept already")
                texts.add(text)
        trivial = frozenset()  # a question whose short answer failed goes on as all others
    return outcomes


def _rewritten(sampled: Sequence[Candidate], sieve: Sieve) -> int:
    raw = {(c.problem.id, c.sample_index): c.completion for c in sampled}
    return sum(raw[c.problem.id, c.sample_index] != c.completion for c in sieve.kept)


def _verifier(pool: VerifierPool) -> Verify:
    return lambda problems, texts: [
        judgement is not None and judgement.verdict == Verdict.correct
        for judgement in pool.verify(problems, texts)
    ]


def _readable(filtering: Filtering) -> Readable:
    return lambda rows: filtering.objections([(c.thinking, c.problem.language) for c in rows])
