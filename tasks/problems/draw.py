"""The problems stage: training and held-out sets that share no question (paper B.3.1, D.1).

The sources are the files of `tasks/problems/sources`. Problems that repeat a question, contradict each other
or fail their own reference solution (`repeats.py`), and training problems that are near copies of a held-out
one (`decontamination.py`), go to `rejected.parquet` with the reason.

    prefect deployment run problems --param preset=tiny
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from artifacts.tables import write_table
from tasks.job import Job
from tasks.problem import Problem, counts, to_table
from tasks.problems.decontamination import near_copies
from tasks.problems.repeats import without_failing_references, without_repeats
from tasks.problems.source import Drawn
from tasks.problems.stage import ProblemsConfig
from tasks.tables import PROBLEMS, REJECTED


def run(config: ProblemsConfig, job: Job) -> None:
    """Writes `problems.parquet` and `rejected.parquet`.

    Raises:
        ValueError: where a domain has fewer different questions than asked, or the file is unusable.
    """
    drawn, refused = draw(config)
    kept, contaminated = decontaminate(drawn, config.decontamination_ngram)
    if not any(p.split == "train" for p in kept) or not any(p.split == "held_out" for p in kept):
        raise ValueError("the problems have no training or no held-out split: give both in column `split`")
    write_table(job.draft / "problems.parquet", to_table(kept), PROBLEMS)
    rejected = refused + contaminated
    write_table(job.draft / "rejected.parquet", rejected, REJECTED)
    reasons = sorted(Counter(f"rejected_{row['reason']}" for row in refused).items())
    job.summary(problems=len(kept), rejected=len(rejected), **counts(kept), **dict(reasons))


def draw(config: ProblemsConfig) -> Drawn:
    """The problems of every source, one after another, and what was refused of them."""
    drawn = [source.draw(config.seed) for source in config.sources]
    once, repeated = without_repeats([p for d in drawn for p in d.problems])
    kept, failing = without_failing_references(once)
    return Drawn(kept, [*(row for d in drawn for row in d.rejected), *repeated, *failing])


def decontaminate(problems: Sequence[Problem], n: int) -> tuple[list[Problem], list[dict[str, str]]]:
    """(kept, rejected rows): training problems that are near copies of a held-out one are rejected."""
    held_out = [p for p in problems if p.split == "held_out"]
    training = [p for p in problems if p.split != "held_out"]
    matches = near_copies([p.prompt for p in training], [p.prompt for p in held_out], n)
    rejected = {
        p.id: f"{match.share:.0%} of held-out problem {held_out[match.question].id}: {match.span}"
        for p, match in zip(training, matches, strict=True)
        if match is not None
    }
    kept = [p for p in problems if p.split == "held_out" or p.id not in rejected]
    rows = [
        {"problem_id": p.id, "text": p.prompt, "reason": "contaminated", "detail": rejected[p.id]}
        for p in training
        if p.id in rejected
    ]
    return kept, rows
