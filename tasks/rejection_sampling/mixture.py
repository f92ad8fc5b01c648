"""The mixture that Dev3 and the students learn from (paper B.3.3, Table 5).

Reasoning part: several samples a problem from Dev2; correct by rule, or by the judge where no rule applies;
complete, well formed, one language, short paragraphs, no code blocks; at most `keep_per_problem` of a
problem, the most different ones. General part: references of general problems and a user's files
(`general.py`), until they make `general_share` of the mixture.

Works shard by shard, so memory does not grow with the samples and a kill loses at most one. Samples lie where
a later run with more problems finds them. Decontamination happens where problems are made; no held-out
problem is ever sampled (checked). Run alone: `prefect deployment run rejection-sampling --param preset=tiny`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation.candidates import (
    Sieve,
    candidates,
    duplicates,
    incorrect,
    require_some,
)
from tasks.curation.choice import chosen
from tasks.curation.diversity import surplus
from tasks.curation.filtering import Filtering
from tasks.curation.readability import FILTERS
from tasks.curation.shards import CuratedShard, Shards
from tasks.job import Job
from tasks.judged_samples import BY_MODEL, checkpoint_shards, judge, kept_pool
from tasks.language_models.chat import Asks
from tasks.language_models.opening import open_model
from tasks.problem import Problem, from_table
from tasks.rejection_sampling.general import (
    Conversation,
    General,
    Statistics,
    folded,
    reference,
    tables,
    with_thinking,
)
from tasks.rejection_sampling.stage import RejectionSamplingConfig
from tasks.rollout.engine import derived_seed
from tasks.tokenizer import Codec

CAPPED = "domain-cap"
"""The reason of samples beyond `most_per_domain`."""


def run(config: RejectionSamplingConfig, job: Job) -> None:
    """Sample, judge, filter, add the general part; the stage's entry.

    Raises:
        ValueError: nothing passed, no problem to sample, or general data asked for and none given.
        ModelLost: judge or writer cannot be asked.
        StopRequested: asked to stop; finished shards and answers are kept.
    """
    checkpoint, everything = job.inputs["checkpoint"], from_table(job.inputs["problems"].table("problems"))
    model, writer = (open_model(settings, job, {}) for settings in (config.judge, config.writer))
    gradable = [p for p in everything if model is not None or p.verifier != BY_MODEL]
    problems = chosen(gradable, config.domains, config.problems, config.seed)
    held_out = frozenset(folded(p.prompt) for p in everything if p.split == "held_out")
    general = General(config.general, config.seed, held_out)
    offered = general_offered(everything, general, config)
    shards = curated(config, job, problems, model)
    require_some(shards.kept, shards.reasons, "rejection sampling")

    domains = shards.column("domain")
    left_out = beyond_the_caps(domains, config.most_per_domain, config.seed)
    statistics = Statistics()
    for domain, tokens in reasoning_tokens(domains, shards.column("completion_tokens"), left_out).items():
        statistics.add(domain, sum(tokens), len(tokens), len(tokens))
    reasoning = shards.kept - len(left_out)
    wanted = general_count(reasoning, config.general_share)
    added = with_thinking(drawn(offered, general, wanted), config.general, writer, general.dropped)
    codec = Codec.of(checkpoint.path / "model")
    shards.join(tables(added, codec, config.template, statistics), left_out, CAPPED)

    count = sum(samples for samples, _, _ in statistics.sums.values()) - reasoning
    funnel = shards.funnel()
    if config.most_per_domain:
        funnel.add("domains balanced", reasoning, {CAPPED: len(left_out)})
    unused = len(offered) - min(wanted, len(offered))
    funnel.add("general data", count, {"not-drawn": unused, **general.dropped})
    funnel.write(job.draft)
    reasons = shards.reasons + Counter({CAPPED: len(left_out)})
    job.summary(
        samples=shards.samples,
        kept=reasoning,
        general=count,
        general_share=round(count / (reasoning + count), 4),
        **{f"rejected_{reason}": n for reason, n in reasons.most_common()},
        **statistics.summary(),
    )
    if model is not None:
        job.summary(**model.summary("judge", shards.counts_of("judge")))
        model.close()
    if writer is not None:
        job.summary(**writer.summary("writer"))
        writer.close()


def curated(
    config: RejectionSamplingConfig, job: Job, problems: Sequence[Problem], model: Asks | None
) -> Shards:
    """Draw samples of the problems, judge and filter them, shard by shard."""
    checkpoint = job.inputs["checkpoint"]
    pool = kept_pool(job, config.allow_weak_sandbox)
    sampled = checkpoint_shards(
        checkpoint, problems, config.template, config.sampling, config.samples_per_problem, config.seed,
        config.engine, job, pool,
    )  # fmt: skip
    by_id = {p.id: p for p in problems}
    shards = Shards(job, checkpoint.ref.digest, config.template)
    with Filtering(list(FILTERS), config.readability, len(sampled)) as filtering:

        def curate_chunk(chunk: pa.Table) -> CuratedShard:
            asked = [by_id[i] for i in dict.fromkeys(chunk["problem_id"].to_pylist())]
            judged = judge(chunk, asked, pool, model)
            sieve = curate(Sieve(candidates(judged, asked)), filtering, config)
            counts = {f"judge_{name}": n for name, n in (model.taken() if model else {}).items()}
            return CuratedShard(judged, sieve, counts)

        shards.make(sampled.chunks(), len(sampled), curate_chunk)
    return shards


def curate(sieve: Sieve, filtering: Filtering, config: RejectionSamplingConfig) -> Sieve:
    """Judged candidates through every step."""
    sieve.step("correct", [incorrect(c) for c in sieve.kept])
    texts = [(c.thinking, c.problem.language) for c in sieve.kept]
    sieve.step("readable", list(filtering.objections(texts)))
    sieve.step("distinct", list(duplicates(sieve.kept)))
    sieve.step("diverse", list(surplus(sieve.kept, config.keep_per_problem)))
    return sieve


def beyond_the_caps(domains: pa.ChunkedArray, caps: Mapping[Any, int], seed: int) -> pa.Array:
    """Numbers of the kept rows that a domain's cap leaves out, drawn by the seed."""
    out: list[int] = []
    for domain, cap in sorted(caps.items()):
        rows = np.flatnonzero(pc.equal(domains, domain).to_numpy())
        out += np.random.default_rng([seed, len(rows)]).permutation(rows)[cap:].tolist()
    return pa.array(sorted(out), pa.int64())


def reasoning_tokens(
    domains: pa.ChunkedArray, tokens: pa.ChunkedArray, left_out: pa.Array
) -> dict[str, list[int]]:
    """Completion tokens of the reasoning samples, by domain."""
    out = set(left_out.to_pylist())
    found: dict[str, list[int]] = {}
    for i, (domain, count) in enumerate(zip(domains.to_pylist(), tokens.to_pylist(), strict=True)):
        if i not in out:
            found.setdefault(domain, []).append(count)
    return found


def general_count(reasoning: int, share: float) -> int:
    """How many general samples make `share` of a mixture with so many reasoning samples."""
    if share == 1:
        raise ValueError(
            "rejection_sampling.general_share is 1: a mixture needs reasoning too, choose below 1"
        )
    return round(reasoning * share / (1 - share))


Offer = tuple[int, Problem | tuple[int, int]]
"""Drawing order, and a general problem or (file, row)."""


def general_offered(
    problems: Sequence[Problem], general: General, config: RejectionSamplingConfig
) -> list[Offer]:
    """The general data that there is: references of general training problems, and rows of files.

    A problem without a reference (empty answer) has none.

    Raises:
        ValueError: general data is asked for and there is none, or a file is missing.
    """
    if not config.general_share:
        return []
    have = any(p.domain == "general" and p.split == "train" for p in problems)
    references = (
        chosen(problems, ("general",), len(problems), config.seed) if have or not general.files else []
    )
    found: list[Offer] = [(derived_seed(config.seed, p.id), p) for p in references if p.answer.strip()]
    found += [(order, (file, row)) for order, file, row in general.offered()]
    if not found:
        raise ValueError(
            f"general_share is {config.general_share} but no general training problem has a reference "
            "response: fill their `answer`, name files in `general`, or set general_share to 0"
        )
    return found


def drawn(offered: Sequence[Offer], general: General, count: int) -> Iterator[Conversation]:
    """`count` of what is offered, all where there is less: references first, then the files' rows."""
    taken = heapq.nsmallest(count, offered, key=lambda offer: (offer[0], _name(offer)))
    yield from (reference(what) for _, what in taken if isinstance(what, Problem))
    yield from general.rows(frozenset(what for _, what in taken if not isinstance(what, Problem)))


def _name(offer: Offer) -> str:
    what = offer[1]
    return what.id if isinstance(what, Problem) else f"{what[0]}:{what[1]}"
