"""The trainer's side of its rollout engine: which weights the engine has, and what it is asked for when.

One engine answers the rollouts, the fixed questions of the curve (Fig. 1, `tasks.rl.evaluation`) and, with
`rollout_ahead`, the next rollout while this one is learned from. Its weights are exchanged between them:

    step n    weights of n -> rollout n -> questions, if due -> rollout n + 1, if wanted -> update

An engine on devices of its own answers the questions and the rollout ahead beside the update; nothing new is
asked of it, no weights are exchanged and no checkpoint is written before it is done.

Every draw's seed depends on (seed, step, row) alone, so a resumed run asks for the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from tasks.rl import canary
from tasks.rl.ahead import RolloutAhead
from tasks.rl.evaluation import PeriodicEvaluation
from tasks.rl.prompts import Prompts
from tasks.rl.schedule import max_completion_length
from tasks.rl.stage import RLConfig
from tasks.rollout.decoding import ATTENTION
from tasks.rollout.engine import Completion, Engine, SampledModel, derived_seed, generate_rows
from tasks.rollout.settings import Sampling
from tasks.tokenizer import Codec
from tasks.training.attention import use_flash_attention
from tasks.training.metrics import StepLog
from tasks.training.sharding import policy_weights, whole_weights

Finished = Callable[[int, Completion], None]
"""Hears of a row and its completion while others are still being written."""
_SCORED_EVERY = 10
"""An engine whose log-probabilities cost much is asked for them in every tenth step: `sampler_mismatch`."""


class Sampler:
    """Draws from the policy that `policy()` returns, through the engine that `open_engine` opens.

    Open it last: an engine in this process shares the device and the process group that the trainer has set
    up by then, and vLLM measures how much memory the models have left.
    """

    def __init__(
        self, config: RLConfig, prompts: Prompts, codec: Codec, evaluation: PeriodicEvaluation | None,
        policy: Callable[[], PreTrainedModel], accelerator: Accelerator, log: StepLog,
        open_engine: Callable[[SampledModel], Engine], folder: Path, lost_note: Path | None,
    ) -> None:  # fmt: skip
        self._config, self._prompts, self._codec, self._evaluation = config, prompts, codec, evaluation
        self._policy, self._accelerator, self._log = policy, accelerator, log
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="sampler")
        self._ahead: RolloutAhead | None = None
        self._evaluating: tuple[int, Callable[[], pa.Table]] | None = None
        """The step that is evaluated now, and what waits for this process's share of the answers."""
        self._weights_of = -1
        """The step whose weights the engine has."""
        self.is_stale = False
        """Whether the last rollout was generated ahead, by an older policy."""
        longest = max(prompts.longest, evaluation.longest if evaluation else 0)
        self.engine = open_engine(
            SampledModel(
                folder, codec.end_tokens, longest + config.longest_completion, self._lent_policy,
                accelerator.is_main_process, lost_note,
            )
        )  # fmt: skip

    @contextlib.contextmanager
    def _lent_policy(self) -> Iterator[PreTrainedModel]:
        """The policy itself, to sample from: whole, in evaluation mode, in the precision it trains in."""
        model = self._policy()
        model.eval()
        model.set_attn_implementation(ATTENTION)
        with self._accelerator.autocast(), whole_weights(model):
            yield model
        use_flash_attention(model, self._config.bf16)
        model.train()

    # ---- weights ------------------------------------------------------------------------------

    def _give_weights(self, step: int) -> None:
        """The present weights to the engine; no process samples before every engine has them."""
        self.end_evaluation()
        if self._ahead is not None:
            self._ahead.wait()
            self._accelerator.wait_for_everyone()
        with self._log.timed("sync_s"):
            self.engine.load(policy_weights(self._policy()))
            self._accelerator.wait_for_everyone()
        self._weights_of = step

    def _give_weights_once(self, step: int) -> None:
        if self._weights_of != step:
            self._give_weights(step)

    def check(
        self, step: int, prompts: list[list[int]],
        scores: Callable[[list[list[int]], list[list[int]]], list[list[float]]],
    ) -> None:  # fmt: skip
        """The start-up canary (`tasks.rl.canary`); `scores` gives the trainer's log-probabilities.

        Raises:
            RuntimeError: the engine does not follow the trainer's weights.
        """
        found = canary.measure(
            self._policy(), prompts, partial(self._give_weights, step),
            lambda few: self._draw(step, few, canary.TOKENS), scores,
        )  # fmt: skip
        self._log.note(canary_mismatch=found.mismatch, canary_stale=found.stale)
        if complaint := found.complaint(self._config.mismatch_limit):
            raise RuntimeError(complaint)

    # ---- rollouts -----------------------------------------------------------------------------

    def rollout(
        self, step: int, prompts: list[list[int]], draw: int, length: int, finished: Finished
    ) -> tuple[list[Completion], bool]:
        """Completions of at most `length` tokens for this process's rows, and whether they have
        log-probabilities. `draw` is 0, or the round in which idle groups are drawn again."""
        ahead, self._ahead = self._ahead, None
        self.is_stale = ahead is not None
        if self._config.rollout_ahead:
            self._log.note(staleness=float(self._config.mini_batches_per_rollout) if ahead else 0.0)
        if ahead is not None:
            with self._log.timed("generate_s"):
                return ahead.completions(step, prompts), True
        self._give_weights_once(step)
        scored = self._config.engine.entry.free_logprobs or step % _SCORED_EVERY == 0
        before = self._log.seconds["generate_s"]  # of the rounds before this one
        with self._log.timed("generate_s"):
            done = self._draw(step, prompts, length, draw, scored, finished)
        written, spent = sum(len(c.tokens) for c in done), self._log.seconds["generate_s"] - before
        self._log.note(tokens_per_second=written / spent)
        return done, scored

    def _draw(
        self, step: int, prompts: list[list[int]], length: int, draw: int = 0, logprobs: bool = True,
        finished: Finished | None = None,
    ) -> list[Completion]:  # fmt: skip
        """A row's seed depends on the step and on its place among the rows of all processes and rounds."""
        config = self._config
        seed = rollout_seed(config.seed, step)
        first = draw * config.batch_size * config.mini_batches_per_rollout
        first += self._accelerator.process_index * len(prompts)
        seeds = [derived_seed(seed, first + row) for row in range(len(prompts))]
        sampling = Sampling(temperature=config.temperature, max_new_tokens=length)
        return generate_rows(self.engine, prompts, sampling, seeds, logprobs, finished)

    def begin_ahead(self, step: int) -> None:
        """Once a step's rollout is in hand: begin with the next one, where that is wanted."""
        config, accelerator = self._config, self._accelerator
        begins = step + config.mini_batches_per_rollout
        if not config.rollout_ahead or self._ahead is not None or begins >= config.steps:
            return
        if step % config.mini_batches_per_rollout:
            return
        self._give_weights_once(step)
        asked = self._prompts.rollout(begins, config.mini_batches_per_rollout)
        texts = [self._prompts.texts[i] for i in asked for _ in range(config.group_size)]
        size = len(texts) // accelerator.num_processes
        share = slice(accelerator.process_index * size, (accelerator.process_index + 1) * size)
        prompts, length = self._codec.tokens(texts[share]), max_completion_length(config, begins)
        rollout = self._beside.submit(self._draw, begins, prompts, length)
        self._ahead = RolloutAhead(begins, prompts, rollout.result)

    # ---- evaluation ---------------------------------------------------------------------------

    def evaluate_if_due(self, step: int) -> None:
        """Ask the fixed questions of the present policy, at the steps where that is wanted.

        Between a rollout and its update, when the engine mostly has the weights already. An engine on devices
        of its own answers while the update is made; every process draws a share.
        """
        evaluation, accelerator = self._evaluation, self._accelerator
        if evaluation is None or not evaluation.is_due(step):
            return
        self._give_weights_once(step)
        share: Callable[[], pa.Table] = partial(
            evaluation.draw, self.engine, accelerator.process_index, accelerator.num_processes
        )
        if self._config.engine.entry.own_device:
            share = self._beside.submit(share).result
        self._evaluating = step, share
        if not self._config.engine.entry.own_device:
            self.end_evaluation()

    def end_evaluation(self) -> None:
        """Record the evaluation that is under way, if one is: before the engine is used again, and before a
        checkpoint is written, since a run that resumes there does not come back to this step."""
        if self._evaluation is None or self._evaluating is None:
            return
        (step, share), self._evaluating = self._evaluating, None
        with self._log.timed("evaluate_s"):
            drawn = [share()]
            shares: Sequence[pa.Table] = (
                gather_object(drawn) if self._accelerator.num_processes > 1 else drawn
            )
            if self._accelerator.is_main_process:
                self._evaluation.record(step, shares)

    def finish(self, step: int) -> None:
        """After training: end what is under way, and evaluate the policy after its last step."""
        self.end_evaluation()
        if self._ahead is not None:
            self._ahead.wait()
        if step == self._config.steps:
            self.evaluate_if_due(step)
            self.end_evaluation()

    # ---- checkpoints --------------------------------------------------------------------------

    def save(self, checkpoint: Path) -> None:
        """Write the rollout that is under way into a checkpoint's folder, once it is generated."""
        if self._ahead is not None:
            self._ahead.save(checkpoint, self._accelerator.process_index)

    def load(self, checkpoint: Path) -> None:
        """Go on with the rollout that a checkpoint holds, if it holds one."""
        self._ahead = RolloutAhead.load(checkpoint, self._accelerator.process_index)


def rollout_seed(seed: int, step: int) -> int:
    """The seed of everything that is drawn at a step."""
    return derived_seed("rollout", seed, step)
