"""Weights on their way into an engine: from a folder, and in buckets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

BUCKET_BYTES = 1 << 29
"""Enough to make the cost of a push that of its bytes, little enough to stand beside a model in memory."""


def folder_weights(folder: Path, device: str = "cpu") -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of every safetensors file of a Hugging Face folder; a tied weight comes once."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt", device=device) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                yield name, tensors.get_tensor(name)


def named_weights(
    weights: Path | Iterable[tuple[str, Any]], device: str = "cpu"
) -> Iterator[tuple[str, Any]]:
    """What `Engine.load` gets, as pairs."""
    return folder_weights(weights, device) if isinstance(weights, Path) else iter(weights)


def buckets(
    weights: Iterable[tuple[str, torch.Tensor]], size: int = BUCKET_BYTES
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The pairs in order, as lists of at most `size` bytes (a larger tensor has a list of its own)."""
    held: list[tuple[str, torch.Tensor]] = []
    used = 0
    for name, tensor in weights:
        if held and used + tensor.nbytes > size:
            yield held
            held, used = [], 0
        held.append((name, tensor))
        used += tensor.nbytes
    if held:
        yield held
