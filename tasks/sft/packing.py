"""Packs the rows of an update into micro-batches, without padding and without attention from row to row.

An update is what the settings say, `batch_size` rows. Here its rows are put, best-fit decreasing, into
micro-batches of at most `micro_batch_tokens` tokens, and these are dealt to the processes. The positions of
a row start at 0. A GPU's attention takes the rows as they lie (`tasks.training.attention`); elsewhere
transformers finds by the positions where a row ends (`find_packed_sequence_indices`) and makes a whole mask
(tokens x tokens). The loss of a micro-batch is divided by the completion tokens of the whole update, so that
the gradients add up to those of the update's rows one by one.
"""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_left, insort
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import Dataset
from transformers import PreTrainedModel, Trainer
from trl.trainer.utils import add_fused_lm_head

from tasks.processors import add_gradients, parts_at_once
from tasks.sft.tokens import TokenRows
from tasks.training.attention import FLASH, PackLayout, pack_inputs
from tasks.training.checkpoints import make_room
from tasks.training.recompute import keep_attention

log = logging.getLogger(__name__)

MicroBatch = dict[str, torch.Tensor]
"""`input_ids`, `position_ids` and `labels`, each of shape (1, tokens)."""


class PackedUpdate(TypedDict):
    """One process's part of a policy update."""

    micro_batches: list[MicroBatch]
    completion_tokens: int
    """Of the whole update, all processes together."""


def packed(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of row numbers by best-fit decreasing; a row longer than `capacity` has a bin of its own."""
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens free, bin), sorted
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(free, (lengths[row], -1))
        room, number = free.pop(place) if place < len(free) else (capacity, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(row)
        insort(free, (room - lengths[row], number))
    return bins


def dealt(lengths: Sequence[int], capacity: int, processes: int) -> list[list[list[int]]]:
    """The bins of each process: equally many, since sharded weights are gathered by all at once.

    Bins of about the same size have the same place, so that processes wait little for each other. There must
    be a row for every process.
    """
    bins = packed(lengths, capacity)
    while len(bins) % processes:
        most = max(bins, key=len)
        bins.remove(most)
        bins += [most[::2], most[1::2]]
    bins.sort(key=lambda rows: -sum(lengths[row] for row in rows))
    return [bins[process::processes] for process in range(processes)]


def micro_batch(rows: TokenRows, numbers: Sequence[int]) -> MicroBatch:
    """These rows one behind the other."""
    parts = {
        "input_ids": [rows.ids[rows.starts[row] : rows.starts[row + 1]] for row in numbers],
        "position_ids": [np.arange(rows.lengths[row]) for row in numbers],
        "labels": [rows.labels(row) for row in numbers],
    }
    return {name: torch.from_numpy(np.concatenate(p).astype(np.int64))[None] for name, p in parts.items()}


def layout(micro: MicroBatch) -> PackLayout:
    """Every row is a group of its own."""
    positions = micro["position_ids"][0].cpu().numpy()
    return PackLayout(np.cumsum(positions == 0) - 1, np.zeros_like(positions), positions)


class PackedUpdates(Dataset[PackedUpdate]):
    """Item `update x processes + process`, as Accelerate deals a data set out to its processes.

    `order` holds the row numbers of all updates, `batch_size` an update.
    """

    def __init__(
        self, rows: TokenRows, order: Sequence[int] | np.ndarray, batch_size: int, capacity: int,
        processes: int = 1,
    ) -> None:  # fmt: skip
        self.rows, self._capacity, self._processes = rows, capacity, processes
        self._updates = np.array(order).reshape(-1, batch_size)

    def __len__(self) -> int:
        return len(self._updates) * self._processes

    def __getitem__(self, item: int) -> PackedUpdate:
        update, process = divmod(item, self._processes)
        numbers = self._updates[update]
        parts = min(parts_at_once(), len(numbers))  # of a process alone; they take turns in its list
        shares = dealt(self.rows.lengths[numbers].tolist(), self._capacity, self._processes * parts)
        mine = [bins for turn in zip(*shares[process * parts :][:parts], strict=True) for bins in turn]
        return {
            "micro_batches": [micro_batch(self.rows, numbers[places]) for places in mine],
            "completion_tokens": int(self.rows.completion_lengths[numbers].sum()),
        }


class PackedTrainer(Trainer):
    """The Trainer on `PackedUpdates`: an item is one process's whole share of an update.

    The logits come from TRL's fused head, tile by tile: no tensor of tokens x vocabulary is there.
    """

    def __init__(self, model: PreTrainedModel, keeps_attention: bool = False, **trainer: Any) -> None:
        """`keeps_attention`: see `tasks.training.recompute`."""
        super().__init__(model=model, data_collator=lambda items: items[0], **trainer)
        self._right, self._keeps_attention = 0, keeps_attention
        add_fused_lm_head(self.causal_model(self.model), outputs=("log_probs", "is_top1"))

    @staticmethod
    def causal_model(model: Any) -> PreTrainedModel:
        """The Hugging Face model below PEFT's adapters, where there are any."""
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def training_step(
        self, model: torch.nn.Module, inputs: PackedUpdate, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Forward and backward of every micro-batch; the loss of this process's rows times the processes.

        That is what data parallelism expects, which averages gradients (and the Trainer the logged loss).
        """
        model.train()
        # Not before: Accelerate puts its wrappers around the layers when training begins.
        if self._keeps_attention:
            keep_attention(model)
        scale = self.accelerator.num_processes / inputs["completion_tokens"]
        total = torch.zeros((), device=self.accelerator.device)
        micros = inputs["micro_batches"]
        right = [torch.zeros_like(total)] * len(micros)

        def part(number: int) -> torch.Tensor:
            with self.compute_loss_context_manager():
                given = self._prepare_inputs(micros[number]) | self._attention(micros[number])
                found = model(**given, use_cache=False, fused_lm_head=True)
            right[number] = found.is_top1.sum() * scale
            return -found.log_probs.sum() * scale

        if parts_at_once() > 1:
            total += torch.stack(add_gradients(model, [partial(part, n) for n in range(len(micros))])).sum()
        else:
            for number in range(len(micros)):
                with self._averaging(model, number == len(micros) - 1):
                    loss = part(number)
                    self.accelerator.backward(loss)
                total += loss.detach()
        self._right = torch.stack(right).sum()
        return total

    def _attention(self, micro: MicroBatch) -> dict[str, Any]:
        """For the flash kernel; other attention makes its own mask from the positions."""
        config = self.causal_model(self.accelerator.unwrap_model(self.model)).config.get_text_config()
        if config._attn_implementation != FLASH:
            return {}
        return pack_inputs(layout(micro), config, self.accelerator.device)

    def _averaging(self, model: torch.nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are averaged once an update; where they are sharded, in every micro-batch, because a
        process has no room for whole ones."""
        once = not last and not isinstance(model, FSDPModule)
        return self.accelerator.no_sync(model) if once else contextlib.nullcontext()

    def _save_checkpoint(self, *args: Any) -> None:
        """The Trainer's, once the disk has room. On upgrade: that checkpoints are written nowhere else."""
        if self.accelerator.is_main_process:
            for gone in make_room(Path(self.args.output_dir)):
                log.warning("deleted %s: the disk has no room for it and the next checkpoint", gone)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(*args)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs["mean_token_accuracy"] = float(self.accelerator.gather(self._right).mean())
        super().log(logs, *args, **kwargs)
