"""Work on a second processor while it has nothing else to do, where there is no GPU.

A worker gives each of two jobs half of the machine (`flows.starting`). Mostly there is one that the recipe
waits for, and a small model's matrices are too small for torch's own threads: of a job with one thread, two
parts of gradients and log-probabilities are therefore worked on at once, in threads, since torch lets go of
Python's lock in its kernels. Sampling in a fork was tried: once torch has worked in several threads, a matrix
product in a fork may wait for ever for a lock that no thread there holds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def parts_at_once() -> int:
    """2 for a job of one process and one thread on a machine with another processor; else 1."""
    alone = not torch.cuda.is_available() and "WORLD_SIZE" not in os.environ
    return 2 if alone and torch.get_num_threads() == 1 and len(os.sched_getaffinity(0)) > 1 else 1


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` of each item, in order, so many at once. What torch keeps for a thread (`no_grad`, autocast) is
    for `work` to set."""
    if min(parts_at_once(), len(items)) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(parts_at_once(), thread_name_prefix="part") as threads:
        return list(threads.map(work, items))


def add_gradients(model: torch.nn.Module, losses: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
    """Adds the gradients of the losses' sum to the model's, a share of the losses in each thread; what the
    losses are.

    The order of every sum is fixed, so that a run that resumes comes to the same numbers.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    values: list[torch.Tensor] = [torch.zeros(())] * len(losses)

    def share(numbers: Sequence[int]) -> list[torch.Tensor]:
        total: list[torch.Tensor] = []
        for number in numbers:
            loss = losses[number]()
            values[number] = loss.detach()
            found = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
            total = [a.add_(b) for a, b in zip(total, found, strict=True)] if total else found
        return total

    parts = min(parts_at_once(), len(losses))
    for total in in_threads(share, [range(part, len(losses), parts) for part in range(parts)]):
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return values


Rows = Callable[..., torch.Tensor]
"""Of tensors whose first axis is the rows."""


def halved(model: torch.nn.Module, work: Rows) -> Rows:
    """`work` of a half of the rows in each thread, backward too, where two parts are done at once.

    For trainers whose loss is over the whole batch: `add_gradients` does not fit into them.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]

    def whole(*rows: torch.Tensor) -> torch.Tensor:
        if min(parts_at_once(), len(rows[0])) == 1:
            return work(*rows)
        made: torch.Tensor = _Halved.apply(work, rows, torch.is_grad_enabled(), *parameters)  # type: ignore[no-untyped-call]
        return made

    return whole


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, work: Rows, rows: Sequence[torch.Tensor], learns: bool, *parameters: torch.Tensor
    ) -> torch.Tensor:
        def half(own: Sequence[torch.Tensor]) -> torch.Tensor:
            with torch.set_grad_enabled(learns):
                return work(*own)

        ctx.parameters = parameters
        ctx.halves = in_threads(half, [*zip(*(tensor.chunk(2) for tensor in rows), strict=True)])
        return torch.cat([found.detach() for found in ctx.halves])

    @staticmethod
    def backward(ctx: Any, *grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        def half(number: int) -> tuple[torch.Tensor, ...]:
            own = grad[0].split([len(found) for found in ctx.halves])[number]
            return torch.autograd.grad(ctx.halves[number], ctx.parameters, own, materialize_grads=True)

        first, second = in_threads(half, [0, 1])
        return None, None, None, *(a.add_(b) for a, b in zip(first, second, strict=True))
