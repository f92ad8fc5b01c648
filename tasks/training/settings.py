"""Settings that trainers share: adapters, and several processes."""

from __future__ import annotations

from typing import Literal

from tasks.settings import Positive, Settings

RECOMPUTE_FROM = 1_000_000_000
"""Parameters from which on `recompute: null` means yes."""


def recomputes(asked: bool | None, parameters: int) -> bool:
    """Whether a model of so many parameters recomputes its activations, by the setting `recompute`."""
    return parameters >= RECOMPUTE_FROM if asked is None else asked


class LoraSettings(Settings):
    """Low-rank adapters on every linear layer instead of all weights; merged when the model is published."""

    rank: Positive = 16
    alpha: Positive = 32


class LaunchSettings(Settings):
    """How many processes train one model, and what they share (through Accelerate)."""

    processes: Positive = 1
    """On this machine; one a GPU."""
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    """`ddp`: every process holds the whole model. `fsdp2`: they share weights, gradients and optimiser."""

    def require_equal_shares(self, batch_size: int) -> None:
        """Raises ValueError where the processes cannot have equally many of an update's rows."""
        if batch_size % self.processes:
            raise ValueError(
                f"launch.processes {self.processes} does not divide batch_size {batch_size}: choose a divisor"
            )
