"""Which prompts form step n: a pure function of (problems, seed, n), so a resumed run sees the same.

Each pool of problems is read in epochs; the order of an epoch depends on (seed, pool, epoch) alone.
General prompts enter only in the last `general_last_steps` steps of final RL (Methods), then make up
`general_share` of each step's questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tasks.config import RLConfig
from tasks.problems.problem import Problem, select

_REASONING, _GENERAL = 0, 1


def training_problems(problems: Sequence[Problem], config: RLConfig) -> list[Problem]:
    """The rows of split `train` that this run may ask.

    Raises:
        ValueError: there is none in the domains asked for.
    """
    late = ("general",) if config.general_last_steps else ()
    chosen = select(problems, "train", (*config.domains, *late))
    reasoning, general = _pools(chosen, config)
    _refuse_empty(reasoning, tuple(d for d in config.domains if d not in late))
    if late:
        _refuse_empty(general, late)
    return chosen


def _refuse_empty(pool: Sequence[int], domains: Sequence[str]) -> None:
    if not pool:
        raise ValueError(
            f"the problems hold no training rows of {', '.join(domains)}: add some, or change `domains` or "
            "`general_last_steps`"
        )


def prompt_schedule(problems: Sequence[Problem], config: RLConfig) -> list[list[int]]:
    """`config.steps` lists of `config.questions_per_step` indices into `problems`."""
    pools = _pools(problems, config)
    streams = [_epochs(pool, config.seed, number) for number, pool in enumerate(pools)]
    return [
        [next(streams[pool]) for pool in _mixture(config, step)]
        for step in range(config.steps)
    ]  # fmt: skip


def last_steps_begin(steps: int, last_steps: int | None) -> int:
    """The first step (from 0) of the last `last_steps`; `steps` where it is None."""
    return steps if last_steps is None else max(0, steps - last_steps)


def max_completion_length(config: RLConfig, step: int) -> int:
    """Tokens a completion may have after `step` updates (paper: 32,768, then 65,536 from 8,200)."""
    reached = [entry.max_completion_length for entry in config.length_schedule if entry.step <= step]
    return reached[-1] if reached else config.max_completion_length


def _pools(problems: Sequence[Problem], config: RLConfig) -> tuple[list[int], list[int]]:
    """Indices of the reasoning pool and of the general pool (empty where no prompts enter late)."""
    if config.general_last_steps is None:
        return list(range(len(problems))), []
    reasoning = [i for i, p in enumerate(problems) if p.domain != "general"]
    return reasoning, [i for i, p in enumerate(problems) if p.domain == "general"]


def _mixture(config: RLConfig, step: int) -> list[int]:
    """The pool of each question of a step."""
    entered = step >= last_steps_begin(config.steps, config.general_last_steps)
    general = round(config.general_share * config.questions_per_step) if entered else 0
    return [_REASONING] * (config.questions_per_step - general) + [_GENERAL] * general


def _epochs(pool: Sequence[int], seed: int, number: int) -> Iterator[int]:
    epoch = 0
    while pool:
        yield from (pool[i] for i in np.random.default_rng((seed, number, epoch)).permutation(len(pool)))
        epoch += 1
