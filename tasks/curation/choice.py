"""Which training problems a curation stage samples: a pure function of (seed, problem ids)."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.problem import Problem, select
from tasks.rollout.engine import derived_seed


def chosen(problems: Sequence[Problem], domains: Sequence[str], count: int, seed: int) -> list[Problem]:
    """`count` training problems of these domains (all, where there are fewer), in the table's order.

    Raises:
        ValueError: there is none, or a training id is a held-out id too.
    """
    train = select(problems, "train", domains)
    held_out = {p.id for p in problems if p.split == "held_out"}
    leaked = sorted(p.id for p in train if p.id in held_out)
    if leaked:
        raise ValueError(
            f"{len(leaked)} problem ids are in train and held_out, e.g. {leaked[0]}: make ids unique"
        )
    if not train:
        raise ValueError(f"no training problem of {', '.join(domains)}: add some or change `domains`")
    drawn = sorted(train, key=lambda p: (derived_seed(seed, p.id), p.id))[:count]
    ids = {p.id for p in drawn}
    return [p for p in train if p.id in ids]
