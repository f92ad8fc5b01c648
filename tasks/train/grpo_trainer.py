"""TRL's GRPOTrainer with what it lacks (paper 2.1, 2.2; Eq. 1-3).

Where this differs from TRL 1.16.0, and why:

    generation      `tasks.rollout.decoding`: each prompt is read once a group, finished rows leave the batch,
                    and a draw depends on (seed, step, row) alone, so a resumed run repeats it. With vLLM,
                    TRL's own.
    one backward    TRL's batch is one whole policy update; here it is cut into micro-batches of similar
    per micro-batch length, each trimmed to its own longest row. The loss is TRL's; micro-batch losses are
                    weighted by rows, so their sum is TRL's mean over the batch (`loss_type="grpo"`).
    log-probs       the reference's and the old policy's are computed in such micro-batches too.
    reference       a checkpoint holds the reference policy once it was moved; TRL would start again
                    from the first one.
    length          `max_completion_length` may change with the step.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from trl import GRPOTrainer

from tasks.config import Sampling
from tasks.rollout.decoding import decode
from tasks.rollout.engine import derived_seed
from tasks.train.checkpoints import checkpoint_step
from tasks.train.metrics import OWN

TokenIds = list[int]
_REFERENCE = "reference.safetensors"


class GroupTrainer(GRPOTrainer):
    """GRPO with micro-batches of `micro_batch_size` completions and a length by step.

    `decode_batch` is how many completions are written at once.
    """

    def __init__(
        self,
        *args: Any,
        micro_batch_size: int,
        decode_batch: int,
        length_at: Callable[[int], int],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.micro_batch_size = micro_batch_size
        self._decode_batch = decode_batch
        self._length_at = length_at

    # ---- generation ---------------------------------------------------------------------------

    def _generate_single_turn(
        self,
        prompt_ids: list[TokenIds],
        images: None,
        multimodal_fields: dict,
        num_generations: int,
        *args: Any,
    ) -> tuple[list[TokenIds], list[list[float]] | None]:
        started = time.perf_counter()
        self._set_length(self._length_at(self.state.global_step))
        if self.use_vllm:
            drawn = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, *args
            )
        else:
            drawn = self._sample(prompt_ids), None
        self._log(generate_s=time.perf_counter() - started)
        return drawn

    def _sample(self, prompt_ids: list[TokenIds]) -> list[TokenIds]:
        model = self.accelerator.unwrap_model(self.model)
        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_completion_length)
        seed = rollout_seed(self.args.seed, self.state.global_step)
        seeds = [derived_seed(seed, row) for row in range(len(prompt_ids))]
        model.eval()
        with self.accelerator.autocast():
            drawn = decode(
                model, prompt_ids, sampling, seeds, frozenset(self.eos_token_ids), self._decode_batch
            )
        model.train()
        return drawn

    def _set_length(self, tokens: int) -> None:
        self.max_completion_length = tokens
        if self.use_vllm:
            self.vllm_generation.max_completion_length = tokens

    # ---- log-probabilities and loss -----------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """As TRL's; without gradients the rows are scored in micro-batches of similar length, trimmed."""
        score = super()._get_per_token_logps_and_entropies
        if torch.is_grad_enabled():
            return score(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        kwargs.pop("batch_size", None)
        out = torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device)
        width = input_ids.shape[1]
        for rows in self._micro_batches(attention_mask):
            left, right = _bounds(attention_mask[rows])
            right = max(right, width - logits_to_keep + 1)
            keep = logits_to_keep - (width - right)
            logps, _, _ = score(
                model, input_ids[rows, left:right], attention_mask[rows, left:right], keep, **kwargs
            )
            out[rows, :keep] = logps.to(out.dtype)
        return out, None, None

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One policy update's gradients; returns the loss (mean over the batch's completions)."""
        model.train()
        batch = self._prepare_inputs(inputs)
        started = time.perf_counter()
        loss = torch.zeros((), device=self.accelerator.device)
        parts = _Parts(self._metrics["train"])
        slices = list(self._micro_batches(torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)))
        for number, rows in enumerate(slices):
            loss += self._backward(model, _trimmed(batch, rows), len(rows) / len(batch["advantages"]),
                                   last=number == len(slices) - 1)  # fmt: skip
            parts.close(weight=float(batch["completion_mask"][rows].sum()))
        parts.merge()
        self._step += 1
        self._log(update_s=time.perf_counter() - started)
        return loss

    def _backward(self, model: Any, micro_batch: dict[str, Any], share: float, last: bool) -> torch.Tensor:
        """Gradients of `share` of the loss; processes exchange them after the last micro-batch only."""
        with self._synchronised(model, last):
            with self.compute_loss_context_manager():
                loss = self._compute_loss(model, micro_batch) * share
            self.accelerator.backward(loss)
        return loss.detach()

    def _synchronised(self, model: Any, last: bool) -> Any:
        return contextlib.nullcontext() if last else self.accelerator.no_sync(model)

    def _micro_batches(self, mask: torch.Tensor) -> Iterator[torch.Tensor]:
        """Row numbers, `micro_batch_size` at a time, by rising length."""
        yield from mask.sum(dim=1).argsort(stable=True).split(self.micro_batch_size)

    def _log(self, **values: float) -> None:
        for name, value in values.items():
            self._metrics["train"][OWN + name].append(value)

    # ---- checkpoints --------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.ref_model is not None and self.state.global_step >= self.args.ref_model_sync_steps:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            save_model(self.accelerator.unwrap_model(self.ref_model), str(folder / _REFERENCE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        reference = Path(resume_from_checkpoint) / _REFERENCE
        moved = checkpoint_step(Path(resume_from_checkpoint)) >= self.args.ref_model_sync_steps
        if self.ref_model is not None and moved:
            load_model(self.accelerator.unwrap_model(self.ref_model), str(reference))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card inside a trainer checkpoint."""


def rollout_seed(seed: int, step: int) -> int:
    """The seed of everything that is drawn at a step."""
    return derived_seed("rollout", seed, step)


class _Parts:
    """Folds what TRL logs for each micro-batch into one value an update, weighted by tokens."""

    def __init__(self, metrics: dict[str, list[float]]) -> None:
        self._metrics = metrics
        self._before = {name: len(values) for name, values in metrics.items()}
        self._held: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def close(self, weight: float) -> None:
        """End of a micro-batch of `weight` tokens."""
        for name, values in self._metrics.items():
            start = self._before.get(name, 0)
            self._held[name] += [(value, weight) for value in values[start:]]
            del values[start:]

    def merge(self) -> None:
        for name, pairs in self._held.items():
            if pairs:
                total = sum(weight for _, weight in pairs)
                self._metrics[name].append(sum(v * w for v, w in pairs) / total if total else 0.0)


def _bounds(mask: torch.Tensor) -> tuple[int, int]:
    """First and one past the last column that any row uses."""
    used = mask.any(dim=0).nonzero()
    return int(used[0]), int(used[-1]) + 1


def _trimmed(batch: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The rows of a batch without the columns that only longer rows need.

    Prompts are padded on the left, completions and what is per completion token on the right.
    """
    prompt = int(batch["prompt_mask"][rows].sum(dim=1).max())
    completion = max(1, int(batch["completion_mask"][rows].sum(dim=1).max()))
    width = batch["completion_ids"].shape[1]
    out: dict[str, Any] = {}
    for name, value in batch.items():
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            out[name] = value
        elif name in ("prompt_ids", "prompt_mask"):
            out[name] = value[rows][:, value.shape[1] - prompt :]
        elif value.ndim == 2 and value.shape[1] == width:
            out[name] = value[rows][:, :completion]
        else:
            out[name] = value[rows]
    return out
