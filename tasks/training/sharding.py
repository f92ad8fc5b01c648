"""Sampling from a model whose weights are shared out among processes (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.fsdp import FSDPModule


@contextmanager
def whole_weights(model: torch.nn.Module) -> Iterator[None]:
    """Gathers every weight once and keeps it.

    Else each forward pass would gather, and processes whose completions end at different lengths would wait
    for each other forever. Models that are not sharded are left alone.
    """
    sharded = [m for m in model.modules() if isinstance(m, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    yield
    for module in sharded:
        module.reshard()
        module.set_reshard_after_forward(True, recurse=False)


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether its weights are shared out (FSDP2), so that a process holds a part of each."""
    return any(isinstance(m, FSDPModule) for m in model.modules())
