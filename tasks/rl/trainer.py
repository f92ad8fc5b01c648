"""TRL's GRPOTrainer with what it lacks (paper 2.1, 2.2; Eq. 1-3).

Where this differs from TRL 1.16.0, and why:

    generation      `tasks.rollout.decoding`: each prompt is read once a group, finished rows leave the batch,
                    and a draw depends on (seed, step, row) alone, so a resumed run repeats it. With vLLM,
                    TRL's own.
    one backward    TRL's batch is one whole policy update; here it is cut into micro-batches of similar
    per micro-batch length, each trimmed to its own longest row. The loss is TRL's; micro-batch losses are
                    weighted by rows, so their sum is TRL's mean over the batch (`dapo` sums to it by itself).
    log-probs       the reference's and the old policy's are computed in such micro-batches too.
    idle groups     all rewards equal, so all advantages 0: drawn again (`fresh_rows`, a bounded number of
                    rounds), and left out of forward and backward, the reference's too (`skip_idle`).
    canary          before the first rollout the sampler must follow a changed weight (`tasks.rl.canary`);
                    each step logs how far its log-probabilities are from the trainer's.
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

from tasks.rl import canary
from tasks.rl.micro_batches import Parts, bounds, by_length, idle_rows, refilled, trimmed
from tasks.rollout.decoding import write
from tasks.rollout.engine import derived_seed
from tasks.rollout.server import ServerWatch
from tasks.rollout.settings import Sampling
from tasks.training.checkpoints import checkpoint_step
from tasks.training.metrics import OWN
from tasks.training.sharding import whole_weights

TokenIds = list[int]
Row = dict[str, Any]
_REFERENCE = "reference.safetensors"


class GroupTrainer(GRPOTrainer):
    """GRPO with micro-batches of `micro_batch_size` completions and a length by step.

    `decode_batch` is how many completions are written at once. `fresh_rows(step, round, process, count)`
    gives prompts for groups to draw again, in at most `refill_rounds` rounds. `on_written` hears of rows of
    the dataset and their completions while others are still being written.
    """

    def __init__(
        self,
        *args: Any,
        micro_batch_size: int,
        decode_batch: int,
        length_at: Callable[[int], int],
        skip_idle: bool = False,
        refill_rounds: int = 0,
        fresh_rows: Callable[[int, int, int, int], list[Row]] | None = None,
        on_written: Callable[[list[Row], list[str]], None] | None = None,
        mismatch_limit: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.micro_batch_size = micro_batch_size
        self._decode_batch = decode_batch
        self._length_at = length_at
        self._skip_idle = skip_idle
        self._refill_rounds, self._fresh_rows, self._round = refill_rounds, fresh_rows, 0
        self._on_written = on_written
        self._mismatch_limit, self._sampler_checked = mismatch_limit, False
        self._seconds: dict[str, float] = defaultdict(float)
        self._server: ServerWatch | None = None

    def watch_server(self, server: ServerWatch) -> None:
        """End as lost when the vLLM server vanishes; for the process that talks to it."""
        self._server = server

    # ---- rollouts -----------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[Row]) -> dict[str, Any]:
        """As TRL's, with `idle`: whether a row's group has no spread. Idle groups are drawn again first."""
        self._round = 0
        batch = self._rollout(inputs)
        while self._round < self._refill_rounds:
            groups = self._most(int(batch["idle"].sum()) // self.num_generations)
            if groups == 0:
                break
            self._round += 1
            batch = refilled(batch, self._rollout(self._fresh(groups)))
            tokens = batch["completion_mask"].sum()
            batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        self._log(rollouts=1.0 + self._round, idle_share=float(batch["idle"].float().mean()))
        return batch

    def _rollout(self, rows: list[Row]) -> dict[str, Any]:
        self._rows = rows
        return super()._generate_and_score_completions(rows) | {"idle": self._idle}

    def _fresh(self, groups: int) -> list[Row]:
        rows = self._fresh_rows(self.state.global_step, self._round, self.accelerator.process_index, groups)
        return [row for row in rows for _ in range(self.num_generations)]

    def _calculate_rewards(self, inputs: list[Row], *args: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(inputs, *args)
        first = self.accelerator.process_index * len(inputs)
        idle = idle_rows(rewards.nansum(dim=1).masked_fill(rewards.isnan().all(dim=1), torch.nan),
                         self.num_generations)  # fmt: skip
        self._idle = idle[first : first + len(inputs)]
        return rewards

    def _most(self, count: int) -> int:
        """The largest `count` of any process."""
        mine = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.gather(mine).max())

    # ---- generation ---------------------------------------------------------------------------

    def _generate_single_turn(
        self,
        prompt_ids: list[TokenIds],
        images: None,
        multimodal_fields: dict,
        num_generations: int,
        *args: Any,
    ) -> tuple[list[TokenIds], list[list[float]]]:
        with self._server.watching() if self._server else contextlib.nullcontext():
            if not self._sampler_checked:
                self._check_sampler(prompt_ids)
            self._sync_sampler()
            self._set_length(self._length_at(self.state.global_step))
            with self._timed("generate_s"):
                if self.use_vllm:
                    drawn = super()._generate_single_turn(
                        prompt_ids, images, multimodal_fields, num_generations, *args
                    )
                else:
                    drawn = self._sample(prompt_ids, self._on_written and self._tell)
        written = sum(len(tokens) for tokens in drawn[0])
        self._log(tokens_per_second=written / self._seconds["generate_s"])
        return drawn

    def _sample(
        self, prompt_ids: list[TokenIds], finished: Callable[[dict[int, TokenIds]], None] | None = None
    ) -> tuple[list[TokenIds], list[list[float]]]:
        model = self.accelerator.unwrap_model(self.model)
        sampling = Sampling(temperature=self.temperature, max_new_tokens=self.max_completion_length)
        seed = rollout_seed(self.args.seed, self.state.global_step)
        first = self._round * self.args.generation_batch_size
        first += self.accelerator.process_index * len(prompt_ids)
        seeds = [derived_seed(seed, first + row) for row in range(len(prompt_ids))]
        model.eval()
        with self.accelerator.autocast(), whole_weights(model):
            written = write(
                model, prompt_ids, sampling, seeds, frozenset(self.eos_token_ids), self._decode_batch,
                scored=True, finished=finished,
            )  # fmt: skip
        model.train()
        return [w.tokens for w in written], [w.logps for w in written]

    def _tell(self, rows: dict[int, TokenIds]) -> None:
        """As TRL decodes them."""
        texts = self.processing_class.batch_decode(list(rows.values()), skip_special_tokens=True)
        self._on_written([self._rows[i] for i in rows], texts)

    def _set_length(self, tokens: int) -> None:
        self.max_completion_length = tokens
        if self.use_vllm:
            self.vllm_generation.max_completion_length = tokens

    def _sync_sampler(self, force: bool = False) -> None:
        """Give vLLM the present weights; the embedded engine samples from the policy itself."""
        with self._timed("sync_s"):
            if self.use_vllm and (force or self.state.global_step != self._last_loaded_step):
                self.vllm_generation.sync_weights()
                self._last_loaded_step = self.state.global_step

    def _check_sampler(self, prompt_ids: list[TokenIds]) -> None:
        """The start-up canary.

        Raises:
            RuntimeError: the sampler does not follow the trainer's weights.
        """
        self._set_length(canary.TOKENS)
        prompts = prompt_ids[:: max(1, len(prompt_ids) // canary.PROMPTS)][: canary.PROMPTS]
        with canary.changed_weight(self.model):
            self._sync_sampler(force=True)
            tokens, drawn = self._canary_sample(prompts)
            changed = self._scores(prompts, tokens)
        found = canary.Canary(
            mismatch=canary.mean_gap(drawn, changed),
            stale=canary.mean_gap(drawn, self._scores(prompts, tokens)),
        )
        self._sync_sampler(force=True)
        self._log(canary_mismatch=found.mismatch, canary_stale=found.stale)
        if complaint := found.complaint(self._mismatch_limit):
            raise RuntimeError(complaint)
        self._sampler_checked = True

    def _canary_sample(self, prompts: list[TokenIds]) -> tuple[list[TokenIds], list[list[float]]]:
        if not self.use_vllm:
            return self._sample(prompts)
        _, tokens, logps, _ = self.vllm_generation.generate(prompts=prompts, images=None, num_generations=1)
        return tokens, [[lp[0] for lp in row] for row in logps]

    @torch.no_grad()
    def _scores(self, prompts: list[TokenIds], completions: list[TokenIds]) -> list[list[float]]:
        """The trainer's log-probabilities of the completions, one row at a time."""
        rows = []
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = torch.tensor([prompt + completion], device=self.accelerator.device)
            score = super()._get_per_token_logps_and_entropies
            rows.append(score(self.model, ids, torch.ones_like(ids), len(completion))[0][0].float().tolist())
        return rows

    # ---- log-probabilities and loss -----------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """As TRL's; without gradients the rows are scored in micro-batches of similar length, trimmed.

        Where idle rows are skipped, the reference scores the others only, and later: `_score_reference`.
        """
        score = super()._get_per_token_logps_and_entropies
        if torch.is_grad_enabled():
            scored = score(model, input_ids, attention_mask, logits_to_keep, **kwargs)
            self._policy_logps = scored[0].detach()
            return scored
        kwargs.pop("batch_size", None)
        if self._skip_idle and model is self.ref_model:
            return input_ids.new_zeros(len(input_ids), logits_to_keep, dtype=torch.float32), None, None
        return self._scored(model, input_ids, attention_mask, logits_to_keep, **kwargs), None, None

    @torch.no_grad()
    def _scored(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Log-probabilities (rows, logits_to_keep), 0 where a row has no token."""
        score = super()._get_per_token_logps_and_entropies
        out = torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device)
        width = input_ids.shape[1]
        with self._timed("score_s"):
            for rows in by_length(attention_mask, self.micro_batch_size):
                left, right = bounds(attention_mask[rows])
                right = max(right, width - logits_to_keep + 1)
                keep = logits_to_keep - (width - right)
                logps, _, _ = score(
                    model, input_ids[rows, left:right], attention_mask[rows, left:right], keep, **kwargs
                )
                out[rows, :keep] = logps.to(out.dtype)
        return out

    def _score_reference(self, batch: dict[str, Any], rows: torch.Tensor) -> None:
        """The reference's log-probabilities of the rows that are trained on; TRL would score all of them."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)[rows]
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)[rows]
        width = batch["completion_ids"].shape[1]
        batch["ref_per_token_logps"][rows] = self._scored(self.ref_model, ids, mask, width)

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One policy update's gradients; returns the loss (mean over the batch's completions)."""
        model.train()
        batch = self._prepare_inputs(inputs)
        loss = torch.zeros((), device=self.accelerator.device)
        parts, kept = Parts(self._metrics["train"]), self._kept(batch)
        if self._skip_idle and self.ref_model is not None:
            self._score_reference(batch, kept)
        with self._timed("update_s"):
            slices = list(self._micro_batches(batch, kept))
            for number, rows in enumerate(slices):
                share = 1.0 if self.loss_type == "dapo" else len(rows) / len(batch["advantages"])
                loss += self._backward(model, trimmed(batch, rows), share, last=number == len(slices) - 1)
                parts.close(weight=float(batch["completion_mask"][rows].sum()))
        parts.merge()
        self._step += 1
        self._log(**self._seconds)
        self._seconds.clear()
        return loss

    def _kept(self, batch: dict[str, Any]) -> torch.Tensor:
        """Numbers of the rows to train on: all, or, if so wanted, those that are not idle.

        Every process keeps equally many, or they would wait for each other forever.
        """
        if not self._skip_idle:
            return torch.arange(len(batch["idle"]), device=batch["idle"].device)
        working_first = batch["idle"].int().argsort(stable=True)
        count = self._most(int((~batch["idle"]).sum()))
        return working_first[: max(count, min(self.micro_batch_size, len(working_first)))]

    def _micro_batches(self, batch: dict[str, Any], kept: torch.Tensor) -> Iterator[torch.Tensor]:
        """Row numbers, `micro_batch_size` at a time, by rising length."""
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        for rows in by_length(mask[kept], self.micro_batch_size):
            yield kept[rows]

    def _backward(self, model: Any, micro_batch: dict[str, Any], share: float, last: bool) -> torch.Tensor:
        """Gradients of `share` of the loss; processes exchange them after the last micro-batch only."""
        with self._synchronised(model, last):
            with self.compute_loss_context_manager():
                loss = self._compute_loss(model, micro_batch) * share
            self._log(sampler_mismatch=self._mismatch(micro_batch))
            self.accelerator.backward(loss)
        return loss.detach()

    def _mismatch(self, micro_batch: dict[str, Any]) -> float:
        """Mean gap, in nats, between the sampler's log-probabilities and the policy's that it had."""
        old = micro_batch.get("old_per_token_logps", self._policy_logps)
        mask = micro_batch["completion_mask"]
        gap = (old - micro_batch["sampling_per_token_logps"]).abs().nan_to_num() * mask
        return float(gap.sum() / mask.sum().clamp(min=1))

    def _synchronised(self, model: Any, last: bool) -> Any:
        return contextlib.nullcontext() if last else self.accelerator.no_sync(model)

    def _log(self, **values: float) -> None:
        for name, value in values.items():
            self._metrics["train"][OWN + name].append(value)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Adds the seconds inside to this step's `name`."""
        started = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - started

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
