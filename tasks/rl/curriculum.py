"""Pass rates before training, for a staged curriculum (an option; the paper states none).

The starting checkpoint answers each problem a few times. The rates are written down before step 0, so a
restarted run sees the same ones and the prompt order stays a pure function of (rates, seed, step).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tasks.problem import Problem
from tasks.rewards.score import Verifies
from tasks.rewards.verdict import Verdict
from tasks.rewards.verifier import has_rule
from tasks.rl.stage import RLConfig
from tasks.rollout.engine import derived_seed
from tasks.rollout.settings import Sampling
from tasks.rollout.text import open_sampler

_AT_ONCE = 256
"""Problems sampled and judged at a time."""


def pass_rates(
    problems: Sequence[Problem], config: RLConfig, model_dir: Path, pool: Verifies, record: Path
) -> tuple[float, ...] | None:
    """One rate a problem (1 where no rule can judge), measured once and kept in `record`; None if not asked.

    Raises:
        ValueError: a stage of the curriculum would have no problems.
    """
    if config.curriculum is None:
        return None
    if not record.exists():
        rates = _measure(problems, config, config.curriculum.samples_per_problem, model_dir, pool)
        temporary = record.with_suffix(".new")
        temporary.write_text(json.dumps(rates))
        temporary.replace(record)
    return tuple(json.loads(record.read_text()))


def _measure(
    problems: Sequence[Problem], config: RLConfig, samples: int, model_dir: Path, pool: Verifies
) -> list[float]:
    sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_completion_length)
    rates = [1.0] * len(problems)
    judged = [i for i, p in enumerate(problems) if has_rule(p)]
    with closing(open_sampler(config.engine, model_dir)) as sampler:
        for start in range(0, len(judged), _AT_ONCE):
            rows = [i for i in judged[start : start + _AT_ONCE] for _ in range(samples)]
            prompts = [sampler.prompt(config.template, problems[i].prompt) for i in rows]
            written = sampler.generate(prompts, sampling, derived_seed("pass-rate", config.seed, start))
            verdicts = pool.verify([problems[i] for i in rows], [c.text for c in written])
            for place in range(0, len(rows), samples):
                found = verdicts[place : place + samples]
                right = [v is not None and v.verdict is Verdict.correct for v in found]
                rates[rows[place]] = sum(right) / samples
    return rates
