"""Which fine-tuning fits which machine: estimated memory on 1, 2, 4 and 8 cards. No torch, no weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.graph import Pipeline
from tasks.base.stage import SMOLLM2, BaseConfig
from tasks.presets import CONFIGS, available, load_student
from tasks.sft.memory import sft_memory, shared_out
from tasks.sft.stage import SFTConfig
from tasks.training.memory import PUBLISHED, ModelShape, read_shape
from tasks.training.settings import LoraSettings

CARDS = (1, 2, 4, 8)
ROOM = 75.0
"""GiB of a card of 80 GB that tensors can take; CUDA, NCCL and the allocator's gaps take the rest."""
COLUMNS = (
    "fine-tuning", "parameters", "as set, GiB a card", *(f"{n} x 80 GB" for n in CARDS), "LoRA, 1 x 80 GB",
)  # fmt: skip
_GIB = 2**30
_SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Fit:
    """What a fine-tuning takes, in GiB a card."""

    name: str
    parameters: int
    processes: int
    as_set: float
    shared_out: dict[int, float]
    """Cards -> with weights, gradients and optimiser shared out among them."""
    lora: float
    """Adapters, on one card."""

    @property
    def cards(self) -> list[int]:
        """How many cards of 80 GB are enough, of `CARDS`."""
        return [count for count, need in self.shared_out.items() if need <= ROOM]

    def cells(self) -> list[str]:
        """A line of `COLUMNS`."""
        needs = [*self.shared_out.values(), self.lora]
        return [
            self.name, f"{self.parameters / 1e6:,.1f} M", f"{self.processes} x {self.as_set:.1f}",
            *(f"{need:.1f}" if need <= ROOM else f"no ({need:.0f})" for need in needs),
        ]  # fmt: skip


def fit_of(name: str, base: BaseConfig, config: SFTConfig) -> Fit | str:
    """The estimate, or a sentence that says why there is none."""
    try:
        shape = base_shape(base)
    except (FileNotFoundError, ValueError) as error:
        return f"{name}: {error}"

    def gib(settings: SFTConfig) -> float:
        return sft_memory(shape, settings).peak / _GIB

    adapters = config.model_copy(update={"lora": config.lora or LoraSettings()})
    return Fit(
        name, shape.parameters, config.launch.processes, gib(config),
        {count: gib(shared_out(config, count)) for count in CARDS}, gib(shared_out(adapters, 1)),
    )  # fmt: skip


def fits(pipeline: Pipeline) -> list[Fit | str]:
    """Of the preset's fine-tuning stages."""
    return [fit_of(*asked) for asked in _stages(pipeline)]


def student_fits() -> list[Fit | str]:
    """Of the students of `configs/students`."""
    students = {name: load_student(name) for name in available(CONFIGS / "students")}
    return [fit_of(name, student.base, student.distill) for name, student in students.items()]


def base_shape(base: BaseConfig) -> ModelShape:
    """From the model's `config.json` on this machine, or as it was published.

    Raises:
        FileNotFoundError: neither is known.
        ValueError: the model is no dense decoder.
    """
    known = PUBLISHED.get(_SMOLLM2 if base.model == SMOLLM2 else base.model)
    places = [base.folder, *sorted(_hub_cache(base.model))]
    if found := next((place for place in places if (place / "config.json").exists()), None):
        return read_shape(found)
    if known is None:
        raise FileNotFoundError(f"the config.json of {base.model} is not here, so its memory is unknown")
    return known


def _hub_cache(model: str) -> Iterator[Path]:
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"
    return Path(cache).expanduser().glob(f"models--{model.replace('/', '--')}/snapshots/*")


def _stages(pipeline: Pipeline) -> Iterator[tuple[str, BaseConfig, SFTConfig]]:
    for name, node in pipeline.nodes.items():
        if isinstance(node.config, SFTConfig):
            base = pipeline.nodes.get(f"{pipeline.student}-base" if name.endswith("-distilled") else "base")
            if base is not None and isinstance(base.config, BaseConfig):
                yield name, base.config, node.config
