"""The whole weights of a model in training that is shared out among processes (FSDP2) or has adapters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


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


@torch.no_grad()
def policy_weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole tensor) of an unwrapped model, adapters merged, under the Hugging Face model's own names.

    One tensor at a time is whole or merged, so the model is never in memory twice, and a tied weight comes
    once. Gathering a sharded tensor takes every process: all of them must exhaust the iterator. Adapters are
    added to a copy; PEFT's `merge_adapter` and `unmerge_adapter` would round the base weights a little at
    every step.
    """
    layers = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            continue
        weight = parameter.detach()
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        if isinstance(layer, BaseTunerLayer):
            weight = weight + sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
        yield _plain_name(name), weight.full_tensor() if isinstance(weight, DTensor) else weight


def _plain_name(name: str) -> str:
    """Without what PEFT and activation checkpointing put around a module's name."""
    name = name.replace("_checkpoint_wrapped_module.", "")
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
