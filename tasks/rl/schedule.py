"""Which prompts form step n: a pure function of (problems, seed, n), so a resumed run sees the same.

Each pool of problems is read in epochs; the order of an epoch depends on (seed, pool, epoch) alone.
General prompts enter only in the last `general_last_steps` steps of final RL (Methods), then make up
`general_share` of each step's questions. With a curriculum the reasoning pool of a step holds the problems
whose pass rate before training lies in the stage's range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.problem import Problem, select
from tasks.rl.stage import RLConfig

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


def prompt_schedule(
    problems: Sequence[Problem], config: RLConfig, pass_rates: Sequence[float] | None = None
) -> list[list[int]]:
    """`config.steps` lists of `config.questions_per_step` indices into `problems`.

    Raises:
        ValueError: a stage of the curriculum has no problems.
    """
    general = _epochs(_pools(problems, config)[_GENERAL], config.seed, _GENERAL)
    stages = curriculum_stages(problems, config, pass_rates)
    reasoning = [_epochs(s.pool, config.seed, s.number) for s in stages]
    order = []
    for step in range(config.steps):
        current = max(i for i, stage in enumerate(stages) if stage.begins <= step)
        streams = {_REASONING: reasoning[current], _GENERAL: general}
        order.append([next(streams[pool]) for pool in _mixture(config, step)])
    return order


@dataclass(frozen=True)
class PromptPool:
    """The reasoning problems that may be asked from step `begins` on."""

    begins: int
    pool: list[int]
    number: int
    """Which order: stages must not repeat each other's."""


def curriculum_stages(
    problems: Sequence[Problem], config: RLConfig, pass_rates: Sequence[float] | None
) -> list[PromptPool]:
    """By rising step, the first at 0; one stage with every problem where there is no curriculum."""
    pool = _pools(problems, config)[_REASONING]
    if config.curriculum is None or pass_rates is None:
        return [PromptPool(0, pool, _REASONING)]
    stages = [
        PromptPool(
            s.step, [i for i in pool if s.min_pass_rate <= pass_rates[i] <= s.max_pass_rate], 2 + number
        )
        for number, s in enumerate(config.curriculum.stages)
    ]
    for stage, settings in zip(stages, config.curriculum.stages, strict=True):
        if not stage.pool:
            known = sorted(pass_rates[i] for i in pool)
            raise ValueError(
                f"curriculum stage at step {stage.begins}: none of {len(pool)} problems has a pass rate of "
                f"{settings.min_pass_rate:g} to {settings.max_pass_rate:g} (median "
                f"{known[len(known) // 2]:.2f}, highest {known[-1]:.2f}): widen the range"
            )
    return stages


def refill_problems(
    stages: Sequence[PromptPool], seed: int, step: int, draw: int, process: int, count: int
) -> list[int]:
    """`count` problems for groups to be drawn again: a pure function of the arguments, without repeats."""
    pool = [s.pool for s in stages if s.begins <= step][-1]
    rng = np.random.default_rng((seed, 1, step, draw, process))
    return [pool[i] for i in rng.choice(len(pool), count, replace=count > len(pool))]


def last_steps_begin(steps: int, last_steps: int | None) -> int:
    """The first step (from 0) of the last `last_steps`; `steps` where it is None."""
    return steps if last_steps is None else max(0, steps - last_steps)


def late_phases(config: RLConfig) -> list[int]:
    """The steps at which general prompts or a reward term of the last steps enter; `steps` is "never"."""
    last = (config.general_last_steps, *(term.last_steps for term in config.rewards))
    return [last_steps_begin(config.steps, n) for n in last]


def phase_begins(config: RLConfig, step: int) -> int:
    """Since which step other questions or another reward have not entered: rewards and pass rates of earlier
    steps are means of something else."""
    harder = [s.step for s in config.curriculum.stages] if config.curriculum else []
    return max(begins for begins in (0, *harder, *late_phases(config)) if begins <= step)


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
