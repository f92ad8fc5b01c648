"""TRL's GRPOTrainer with the paper's objective, a rollout engine and what TRL lacks (2.1, 2.2; Eq. 1-3).

TRL 1.16.0 gives the loop: data order, mini-batches of a rollout, optimiser, checkpoints, the reference
policy, several processes. What is ours, and why:

    rollouts        `tasks.rl.sampler`: from any engine of the registry, and with it the canary, the held-out
                    questions of the curve (`tasks.rl.evaluation`) and the rollout ahead.
    objective       `tasks.rl.objective`: advantages, ratio, clipping, KL and loss.
    packs           TRL's batch is one whole policy update, padded; here it is cut into packs without padding
                    in which a group's prompt stands once (`tasks.rl.packing`). Their losses add up to the
                    update's. The reference's and the old policy's log-probabilities are computed so too.
    idle groups     all rewards equal, so all advantages 0: drawn again (a bounded number of rounds), and left
                    out of forward and backward, the reference's too.
    reference       a checkpoint holds the reference policy once it was moved; TRL would start again
                    from the first one.
    length          the longest completion may change with the step.

Each method that overrides one of TRL's private ones says what to look at when TRL is upgraded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from trl import GRPOTrainer

from tasks.processors import add_gradients, in_threads, parts_at_once
from tasks.rl import objective, packing
from tasks.rl.batch import TokenMeans, idle_rows, refilled
from tasks.rl.evaluation import PeriodicEvaluation
from tasks.rl.packing import Pack, Rows
from tasks.rl.prompts import Prompts
from tasks.rl.sampler import Sampler
from tasks.rl.schedule import max_completion_length
from tasks.rl.stage import RLConfig
from tasks.rollout.engine import Completion, Engine, SampledModel
from tasks.tokenizer import Codec
from tasks.training.attention import use_flash_attention
from tasks.training.checkpoints import checkpoint_step
from tasks.training.metrics import StepLog
from tasks.training.models import compile_layers, halve_linear_layers
from tasks.training.settings import recomputes
from tasks.training.sharding import is_sharded

Row = dict[str, Any]
Batch = dict[str, Any]
Seen = tuple[objective.Tokens, torch.Tensor, torch.Tensor | None]
"""Of a pack's completion tokens: what the objective wants, their entropy, the sampler's log-probabilities."""
_REFERENCE = "reference.safetensors"


class GroupTrainer(GRPOTrainer):
    """GRPO as the settings say, with rollouts from `open_engine(model)`.

    `on_written` hears of rows of the dataset and their completions while others are still being written.
    """

    def __init__(
        self,
        config: RLConfig,
        prompts: Prompts,
        open_engine: Callable[[SampledModel], Engine],
        folder: Path,
        on_written: Callable[[list[Row], list[str]], None] | None = None,
        lost_note: Path | None = None,
        evaluation: PeriodicEvaluation | None = None,
        **trl: Any,
    ) -> None:
        super().__init__(train_dataset=prompts.dataset(config.mini_batches_per_rollout), **trl)
        self.config, self._prompts, self._on_written = config, prompts, on_written
        self._objective = objective.loss_named(config.loss)
        self._skip_idle = config.skip_zero_advantage or config.kl_coef == 0
        self._limit, self._round = config.max_completion_length, 0
        self._means, self._log = TokenMeans(), StepLog(self._metrics["train"])
        self._prepare_attention()
        self.codec = Codec(self.processing_class, self.eos_token_ids)
        self.sampler_checked = False
        self.sampler = Sampler(
            config, prompts, self.codec, evaluation, lambda: self.accelerator.unwrap_model(self.model),
            self.accelerator, self._log, open_engine, folder, lost_note,
        )  # fmt: skip

    def _prepare_attention(self) -> None:
        """That of packs; and the reference as small as autocast allows without a change of its values."""
        for model in (self.model, self.ref_model):
            if model is not None:
                use_flash_attention(self.accelerator.unwrap_model(model), self.config.bf16)
                if self.config.compile_layers:  # the reference has no gradients to recompute anything for
                    trained = model is self.model
                    recompute = trained and recomputes(self.config.recompute, model.num_parameters())
                    compile_layers(self.accelerator.unwrap_model(model), recompute)
        if self.ref_model is not None and self.config.bf16 and not is_sharded(self.ref_model):
            halve_linear_layers(self.accelerator.unwrap_model(self.ref_model))

    # ---- rollouts -----------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[Row]) -> Batch:
        """TRL's batch with our advantages and `idle`: whether a row's group has no spread.

        Idle groups are drawn again first. On upgrade: the batch's keys (`tasks.rl.batch.refilled`
        treats every tensor of it), and that TRL calls this once a rollout.
        """
        self.sampler.end_evaluation()
        self._round, self._limit = 0, max_completion_length(self.config, self.state.global_step)
        batch = self._rollout(inputs)
        while self._round < self.config.refill_rounds:
            groups = self._most(int(batch["idle"].sum()) // self.num_generations)
            if groups == 0:
                break
            self._round += 1
            batch = refilled(batch, self._rollout(self._fresh(groups)))
            tokens = batch["completion_mask"].sum()
            batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
        self._log.note(rollouts=1.0 + self._round, idle_share=float(batch["idle"].float().mean()))
        return batch

    def _rollout(self, rows: list[Row]) -> Batch:
        self._rows = rows
        batch = super()._generate_and_score_completions(rows)
        if self.sampler.is_stale:  # the policy that generated it is the old policy of the ratio
            batch["old_per_token_logps"] = batch.pop("sampling_per_token_logps")
        return batch | {"idle": self._idle, "advantages": self._advantages}

    def _fresh(self, groups: int) -> list[Row]:
        process = self.accelerator.process_index
        rows = self._prompts.fresh(self.state.global_step, self._round, process, groups)
        return [row for row in rows for _ in range(self.num_generations)]

    def _calculate_rewards(
        self, inputs: list[Row], prompts: list[str], completions: list[str], ids: list[list[int]]
    ) -> torch.Tensor:
        """TRL's, for texts that the codec made; the advantages (Eq. 3) and idle rows are kept from here.

        TRL decodes without special tokens, which would hide tags that are such tokens. It returns the rewards
        of all processes, shape (rows of all, reward functions). On upgrade: that shape, and the arguments.
        """
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, self.codec.texts(ids), ids)
        # TRL would add the reward functions up with weights; there is one here, and NaN is "no reward".
        groups = rewards[:, 0].view(-1, self.num_generations)
        share = slice(self.accelerator.process_index * len(inputs), None)
        scaled = self.config.loss != "dr_grpo"
        self._advantages = objective.advantages(groups, scaled).view(-1)[share][: len(inputs)]
        self._idle = idle_rows(rewards[:, 0], self.num_generations)[share][: len(inputs)]
        return rewards

    def _most(self, count: int) -> int:
        """The largest `count` of any process."""
        mine = torch.tensor(count, device=self.accelerator.device)
        return int(self.accelerator.gather(mine).max())

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Token ids as every other stage makes them; TRL would let a tokenizer append its end token.

        On upgrade: the three values that are returned (ids, images, multimodal fields).
        """
        return self.codec.tokens(prompts), None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *_: Any
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """Tokens and their log-probabilities for this process's rows, from the engine instead of TRL.

        On upgrade: that this is the only place where TRL generates, and what it returns.
        """
        step = self.state.global_step
        if not self.sampler_checked:
            self.sampler.check(step, prompt_ids, self._scores)
            self.sampler_checked = True
        done, scored = self.sampler.rollout(step, prompt_ids, self._round, self._limit, self._tell)
        return [c.tokens for c in done], [c.logprobs or [] for c in done] if scored else None

    def _tell(self, row: int, completion: Completion) -> None:
        if self._on_written is not None:
            self._on_written([self._rows[row]], self.codec.texts([completion.tokens]))

    def _scores(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float]]:
        """The trainer's log-probabilities of the completions."""
        rows = Rows.from_lists(prompts, completions)
        lengths = torch.tensor([len(c) for c in completions], device=self.accelerator.device)
        mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        scored = self._scored(self.model, rows, mask)
        return [row[keep].tolist() for row, keep in zip(scored, mask, strict=True)]

    # ---- log-probabilities --------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **_: Any
    ) -> tuple[torch.Tensor, None, None]:
        """(rows, logits_to_keep), 0 where a row has no token; scored in packs (`tasks.rl.packing`).

        TRL calls it for the old policy and the reference while it makes the batch. Where idle rows are
        skipped, the reference scores the others only, and later: `_score_reference`. On upgrade: the three
        values that are returned, and that the log-probabilities are divided by the temperature.
        """
        late = model is self.ref_model and self._skip_idle
        if late or (
            model is self.model and self.sampler.is_stale
        ):  # the old policy is then another one: `_rollout`
            return input_ids.new_zeros(len(input_ids), logits_to_keep, dtype=torch.float32), None, None
        rows = Rows.of(input_ids, attention_mask, logits_to_keep)
        return self._scored(model, rows, attention_mask[:, -logits_to_keep:].bool()), None, None

    @torch.no_grad()
    def _scored(self, model: Any, rows: Rows, mask: torch.Tensor) -> torch.Tensor:
        """Log-probabilities in the shape of the completions' mask, 0 where it is."""

        def scored(chosen: list[int]) -> torch.Tensor:
            with torch.no_grad(), self.accelerator.autocast():
                return packing.score(model, packing.pack(rows, chosen), mask.device)[0].float()

        out = torch.zeros(mask.shape, device=mask.device)
        with self._log.timed("score_s"):
            packs = self._planned(rows, range(len(rows.prompts)))
            for chosen, logps in zip(packs, in_threads(scored, packs), strict=True):
                out[chosen] = out[chosen].masked_scatter(mask[chosen], logps)
        return out

    def _planned(self, rows: Rows, chosen: Sequence[int]) -> list[list[int]]:
        """Packs of the chosen rows, as many in every process, or they would wait for each other forever, and
        as many in each of the parts that are done at once."""
        budget, parts = self.config.micro_batch_tokens, parts_at_once()
        most = self._most(len(packing.plan(rows, chosen, budget)))
        return packing.plan(rows, chosen, budget, -(-most // parts) * parts)

    def _score_reference(self, batch: Batch, rows: Rows, chosen: torch.Tensor) -> None:
        """The reference's log-probabilities of the rows that are trained on; TRL would score all of them."""
        kept = rows.some(chosen.tolist())
        batch["ref_per_token_logps"][chosen] = self._scored(
            self.ref_model, kept, batch["completion_mask"][chosen].bool()
        )

    # ---- update -------------------------------------------------------------------------------

    def training_step(
        self, model: Any, inputs: Any, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The gradients of one policy update; returns its loss.

        Stands for TRL's and the Trainer's: `gradient_accumulation_steps` is 1 and the micro-batches are ours.
        On upgrade: that TRL counts updates in `_step` (it decides when `_prepare_inputs` makes a new
        rollout).
        """
        model.train()
        batch = self._prepare_inputs(inputs)
        self.sampler.evaluate_if_due(self.state.global_step)
        self.sampler.begin_ahead(self.state.global_step)
        ids, mask = (
            torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], dim=1)
            for name in ("ids", "mask")
        )
        rows, kept = Rows.of(ids, mask, batch["completion_ids"].shape[1]), self._kept(batch)
        if self._skip_idle and self.ref_model is not None:
            self._score_reference(batch, rows, kept)
        with self._log.timed("update_s"):
            loss = self._gradients(model, batch, rows, kept.tolist())
        self._step += 1
        for name, value in self._means.taken(self.accelerator).items():
            self._metrics["train"][name].append(value)
        self._log.end_step()
        return loss

    def _gradients(self, model: Any, batch: Batch, rows: Rows, kept: Sequence[int]) -> torch.Tensor:
        """Adds up the losses of the packs and their gradients; the loss of them all."""
        update, packs = self._update(batch), self._planned(rows, kept)
        mask = batch["completion_mask"].bool().cpu().numpy()
        seen: dict[int, Seen] = {}

        def loss(number: int) -> torch.Tensor:
            """The objective of one pack, in place of TRL's `_compute_loss`."""
            with self.compute_loss_context_manager():
                tokens, entropy, sampler = self._seen(model, packing.pack(rows, packs[number]), batch, mask)
                seen[number] = replace(tokens, policy=tokens.policy.detach()), entropy, sampler
                return self._objective(tokens, update)

        losses = [partial(loss, number) for number in range(len(packs))]
        found = add_gradients(model, losses) if parts_at_once() > 1 else self._backward(model, losses)
        for number in range(len(packs)):  # the order of threads would change the sums from run to run
            self._means.add(*seen[number], update.epsilon)
        return torch.stack(found).sum()

    def _backward(self, model: Any, losses: Sequence[Callable[[], torch.Tensor]]) -> list[torch.Tensor]:
        """Gradients of one loss after another; processes exchange them after the last one only."""
        found = []
        for loss in losses:
            last = loss is losses[-1]
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                value = loss()
                self.accelerator.backward(value)
            found.append(value.detach())
        return found

    def _update(self, batch: Batch) -> objective.Update:
        """TRL's `num_items_in_batch` counts the tokens of the whole rollout in all processes."""
        shares = self.accelerator.num_processes * self.args.steps_per_generation
        tokens = max(float(batch["num_items_in_batch"]), 1.0) / shares
        return objective.Update(
            len(batch["advantages"]), tokens, self._limit, self.config.clip_epsilon, self.config.kl_coef
        )

    def _seen(self, model: Any, pack: Pack, batch: Batch, mask: np.ndarray) -> Seen:
        """A pack's completion tokens, with gradients, as the objective and the log want them.

        `mask` is the batch's (responses, width) of completions, on the host: which tokens they are is known
        there, and the GPU is not waited for.
        """
        policy, entropy = packing.score(model, pack, self.accelerator.device)
        assert entropy is not None  # TRL gives the policy's head that output
        response, column = (
            torch.from_numpy(places).to(policy.device, non_blocking=True)
            for places in mask[pack.rows].nonzero()
        )
        rows = torch.tensor(pack.rows).to(policy.device, non_blocking=True)

        def flat(name: str) -> torch.Tensor | None:
            return batch[name][rows[response], column] if name in batch else None

        # The first update of a rollout is on policy, so TRL leaves the old log-probabilities out: they are
        # the policy's own, as where an engine cannot tell one.
        old = flat("old_per_token_logps")
        tokens = objective.Tokens(
            policy, policy.detach() if old is None else old.where(~old.isnan(), policy.detach()),
            flat("ref_per_token_logps"), batch["advantages"][rows], response,
        )  # fmt: skip
        return tokens, entropy.detach(), flat("sampling_per_token_logps")

    def _kept(self, batch: Batch) -> torch.Tensor:
        """Numbers of the rows to train on: all, or, if so wanted, those that are not idle.

        Every process keeps equally many, or they would wait for each other forever.
        """
        if not self._skip_idle:
            return torch.arange(len(batch["idle"]), device=batch["idle"].device)
        working_first = batch["idle"].int().argsort(stable=True)
        count = self._most(int((~batch["idle"]).sum()))
        return working_first[: max(count, min(self.num_generations, len(working_first)))]

    # ---- checkpoints --------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The Trainer's, with the reference once it has moved. On upgrade: the name of the folder."""
        self.sampler.end_evaluation()
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.sampler.save(folder)
        if self.ref_model is not None and self.state.global_step >= self.args.ref_model_sync_steps:
            save_model(self.accelerator.unwrap_model(self.ref_model), str(folder / _REFERENCE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The Trainer's, with the reference that the checkpoint holds."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.sampler.load(Path(resume_from_checkpoint))
        reference = Path(resume_from_checkpoint) / _REFERENCE
        moved = checkpoint_step(Path(resume_from_checkpoint)) >= self.args.ref_model_sync_steps
        if self.ref_model is not None and moved:
            load_model(self.accelerator.unwrap_model(self.ref_model), str(reference))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card inside a trainer checkpoint."""
