"""The curve of Fig. 1: a few held-out questions, asked of the policy every `evaluate_every` updates.

Questions, seeds, sampling (temperature 0.6, top-p 0.95: paper D.1) and length limit are those of every other
step, so two points of the curve differ in nothing but the weights. They are asked through the trainer's own
rollout engine, all in one call. Training is the same with them and without: no random stream is read, since
a draw depends on its seed alone, and no weight is touched.

Each evaluated step leaves two small files in the job's state folder, its judged samples and its metrics,
which become `evaluation_samples.parquet` and `evaluation_metrics.parquet`:

    pass_at_1, cons_at_K   mean over the questions; K = `evaluate_samples`
    length                 tokens of a completion
    format                 share of the completions in the layout
    language_consistency   of the thinking, where there is one
    reflective_words       of a completion

A run that was killed evaluates the step it resumes from again; what it wrote before is dropped first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from artifacts.tables import write_table
from tasks.evaluate.estimators import consensus, pass_at_k
from tasks.evaluate.voting import SameAnswer, verified_equivalence, votes
from tasks.judged_samples import judge
from tasks.problem import Problem, select
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verifier import has_rule
from tasks.rl.stage import RLConfig
from tasks.rollout.engine import Engine
from tasks.rollout.sampling import draw, requests_for
from tasks.rollout.settings import Sampling
from tasks.rollout.text import TextSampler
from tasks.tables import METRICS, SAMPLES
from tasks.tokenizer import Codec
from tasks.training.metrics import reflective_words

TEMPERATURE, TOP_P = 0.6, 0.95
_HEADLINES = ("pass_at_1", "cons_at_")


class PeriodicEvaluation:
    """The fixed questions of a run, and where the answers are written.

    Raises:
        ValueError: the problems hold no question to ask.
    """

    def __init__(
        self, config: RLConfig, problems: Sequence[Problem], codec: Codec, pool: VerifierPool,
        samples: Path, metrics: Path, checkpoint: str,
    ) -> None:  # fmt: skip
        self._every, self._steps = config.evaluate_every, config.steps
        self._pool, self._codec = pool, codec
        self._samples, self._metrics, self._checkpoint = samples, metrics, checkpoint
        self._problems = fixed_questions(problems, config)
        self._requests = requests_for(
            codec.prompt, self._problems, config.template, config.evaluate_samples, config.seed
        )
        self._sampling = Sampling(
            temperature=TEMPERATURE, top_p=TOP_P, max_new_tokens=config.max_completion_length
        )
        self.longest = max(map(len, codec.tokens([r.prompt for r in self._requests])))
        """Tokens of the longest prompt."""
        self.latest: dict[str, float] = {}
        """pass@1 and cons@k of the newest evaluated step, for the progress record."""

    def is_due(self, step: int) -> bool:
        """Whether the policy after `step` updates is asked: every so many, and the last."""
        return step % self._every == 0 or step == self._steps

    def draw(self, engine: Engine, process: int, processes: int) -> pa.Table:
        """This process's share of the answers. Every process draws at least one row: lending a sharded policy
        to the engine takes all of them."""
        share = self._requests[process::processes] or self._requests[:1]
        return draw(TextSampler(engine, self._codec), share, self._sampling, self._checkpoint)

    def record(self, step: int, shares: Sequence[pa.Table]) -> None:
        """Judge what the processes drew at a step, and write it."""
        table = judge(in_order(shares, len(self._requests)), self._problems, self._pool)
        column = SAMPLES.get_field_index("step")
        table = table.set_column(column, SAMPLES.field(column), pa.array([step] * table.num_rows, pa.int32()))
        found = evaluation_metrics(table, self._problems, verified_equivalence(self._pool))
        name = f"{step:06d}.parquet"
        write_table(self._samples / name, table, SAMPLES)
        rows = [{"step": step, "name": metric, "value": value} for metric, value in found.items()]
        write_table(self._metrics / name, rows, METRICS)
        self.latest.update({f"evaluation_{n}": v for n, v in found.items() if n.startswith(_HEADLINES)})


def in_order(shares: Sequence[pa.Table], count: int) -> pa.Table:
    """The `count` rows of n processes as one would have drawn them: row i is row i // n of share i % n."""
    n = len(shares)
    starts = [sum(share.num_rows for share in shares[:process]) for process in range(n)]
    return pa.concat_tables(shares).take([starts[i % n] + i // n for i in range(count)])


def fixed_questions(problems: Sequence[Problem], config: RLConfig) -> list[Problem]:
    """The first held-out problems, by id, of each of the stage's domains that a rule can judge.

    Raises:
        ValueError: there is none.
    """
    chosen = [
        problem
        for domain in config.domains
        for problem in sorted(filter(has_rule, select(problems, "held_out", (domain,))), key=lambda p: p.id)[
            : config.evaluate_problems
        ]
    ]
    if not chosen:
        raise ValueError(
            f"evaluate_every is {config.evaluate_every}, and the problems hold no held-out row of "
            f"{', '.join(config.domains)} that a rule judges: add some, or set evaluate_every to 0"
        )
    return chosen


def evaluation_metrics(samples: pa.Table, problems: Sequence[Problem], same: SameAnswer) -> dict[str, float]:
    """The metrics of one step's judged samples; a problem's samples lie together."""
    by_id = {problem.id: problem for problem in problems}
    grouped = groupby(samples.to_pylist(), key=lambda row: row["problem_id"])
    questions = [(by_id[problem_id], list(rows)) for problem_id, rows in grouped]
    correct = [[row["verdict"] == "correct" for row in rows] for _, rows in questions]
    cast = votes(questions, same)
    rows = [row for _, of_question in questions for row in of_question]
    consistency = [
        [row["reward_language"] for row in of_question if row["thinking"] is not None]
        for _, of_question in questions
    ]
    values = {
        "pass_at_1": [pass_at_k(len(c), sum(c), 1) for c in correct],
        f"cons_at_{len(correct[0])}": [consensus(v, c) for v, c in zip(cast, correct, strict=True)],
        "length": [row["completion_tokens"] for row in rows],
        "format": [row["reward_format"] for row in rows],
        "language_consistency": [_mean(found) for found in consistency if found],
        "reflective_words": [reflective_words(row["completion"]) for row in rows],
    }
    return {name: _mean(found) for name, found in values.items() if found}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
