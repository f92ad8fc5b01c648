"""How much memory fine-tuning takes in each process, from the settings and the shape of the model."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.sft.stage import SFTConfig
from tasks.training.memory import FLOAT, HALF, ModelShape, Precision, activation_bytes
from tasks.training.settings import recomputes

_MOMENTS = {"adamw": 2 * FLOAT, "adamw_8bit": 2 * (1 + FLOAT / 256)}
"""Bytes a trained value: torchao keeps a scale for every 256."""

ROOM = 0.94
"""Share of a card that tensors can take; CUDA, NCCL and the allocator's gaps take the rest."""


@dataclass(frozen=True)
class SFTMemory:
    """Bytes of one process."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    """Weights in the precision of the matrix products: of the layers at work where they are sharded, else
    what autocast keeps of all of them; and the buckets in which `ddp` averages gradients."""
    activations: int

    @property
    def peak(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def has_room_for_attention(shape: ModelShape, config: SFTConfig, size: int, on_gpu: bool = True) -> bool:
    """Whether a card of `size` bytes can keep what attention returned (`tasks.training.recompute`)."""
    return sft_memory(shape, config, on_gpu, keeps_attention=True).peak <= ROOM * size


def sft_memory(
    shape: ModelShape, config: SFTConfig, on_gpu: bool = True, keeps_attention: bool = False
) -> SFTMemory:
    """At a full micro-batch, in which every token carries loss. At the least: without `keeps_attention`."""
    parameters = shape.parameters
    adapters = shape.adapter_parameters(config.lora.rank) if config.lora else 0
    trained = adapters or parameters
    sharded = config.launch.strategy == "fsdp2" and config.launch.processes > 1
    share = config.launch.processes if sharded else 1
    tokens = max(config.micro_batch_tokens, config.max_length)
    recompute = recomputes(config.recompute, parameters)
    if sharded:
        # A layer at work and the next one; their gradients; the output layer, which stays gathered.
        gathered = (HALF if config.bf16 else FLOAT) * (3 * shape.layer_parameters + 2 * shape.embedding)
    else:
        layers = HALF * (shape.layer_parameters if adapters else parameters) if config.bf16 else 0
        gathered = layers + FLOAT * trained * (config.launch.processes > 1)
    return SFTMemory(
        weights=FLOAT * (parameters + adapters) // share,
        gradients=FLOAT * trained // share,
        optimizer=int(_MOMENTS[config.optimizer] * trained / share),
        gathered=gathered,
        activations=activation_bytes(
            shape, tokens, tokens, Precision.of(config.bf16, sharded), recompute, on_gpu, keeps_attention
        ),
    )


def processes_that_fit(
    shape: ModelShape, config: SFTConfig, room: int, counts: tuple[int, ...]
) -> dict[int, int]:
    """Processes -> bytes that each takes with weights shared out (FSDP2), where that is at most `room`."""
    found = {count: sft_memory(shape, shared_out(config, count)).peak for count in counts}
    return {count: need for count, need in found.items() if need <= room}


def shared_out(config: SFTConfig, processes: int) -> SFTConfig:
    """The same training in so many processes that share weights; alone, a process shares with nobody."""
    launch = config.launch.model_copy(update={"processes": processes, "strategy": "fsdp2"})
    return config.model_copy(update={"launch": launch})
