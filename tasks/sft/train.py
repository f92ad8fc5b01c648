"""Supervised fine-tuning on completions: Dev1, Dev3 and the distilled students (paper B.4.2, B.4.3, Table 6).

TRL's SFTTrainer, loss on the completion and its end token only, cosine from the learning rate to a tenth
of it. Not published and chosen here: AdamW without weight decay, gradients clipped at norm 1. A row
longer than `max_length` is left out and counted: cut off, it would teach to never end.
The order of rows is a pure function of the seed; within a batch they are sorted by length, so that
micro-batches hold little padding. Run one by itself: `prefect deployment run sft --param node=dev3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig as TrlSFTConfig
from trl import SFTTrainer

from tasks.job import Job
from tasks.rendering import CHAT, template_of
from tasks.rollout.decoding import decode
from tasks.rollout.settings import Sampling
from tasks.sft.stage import SFTConfig
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.callbacks import JobCallback, raise_if_stopped
from tasks.training.checkpoints import SealCheckpoints, newest_checkpoint
from tasks.training.metrics import last_mean, write_metrics
from tasks.training.models import (
    CHECKPOINTING_FROM,
    end_token_ids,
    load_policy,
    save_model,
)
from tasks.training.row_order import row_order

_SHOWN = {"loss": "loss", "token_accuracy": "mean_token_accuracy"}
_IGNORED = -100
_PROBES = 8


@dataclass(frozen=True)
class Encoded:
    """A row as token ids: the prompt, and the completion with its end token."""

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    def features(self) -> dict[str, list[int]]:
        """What the trainer reads; prompt tokens carry no loss."""
        return {
            "input_ids": self.prompt + self.completion,
            "labels": [_IGNORED] * len(self.prompt) + self.completion,
        }


def run(config: SFTConfig, job: Job) -> None:
    """Fine-tunes `checkpoint` on `dataset`; leaves `model/` and `metrics.parquet`.

    Raises:
        ValueError: no row of the dataset fits `max_length`, before anything is trained.
        RuntimeError: the trained model ends none of its own completions, or writes special tokens into them.
        StopRequested: asked to stop; the next run goes on from the checkpoint.
    """
    job.progress(0, 0, "loading the model")
    source = job.inputs["checkpoint"].path / "model"
    tokenizer, model = load_tokenizer(source), load_policy(source)
    table = job.inputs["dataset"].table("sft")
    encoded = encode(table, tokenizer)
    limit = min(config.max_length, model.config.max_position_embeddings)
    rows = _that_fit(encoded, limit)

    trainer = build_trainer(config, job.state / "trainer", model, tokenizer, rows)
    trainer.add_callback(JobCallback(job, _SHOWN, budget_hours=config.budget_hours))
    resume = newest_checkpoint(job.state / "trainer")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    raise_if_stopped(job, trainer.state, config.budget_hours)

    model = trainer.accelerator.unwrap_model(trainer.model)
    prompts = [row.prompt for row in rows[:_PROBES]]
    codec = Codec(tokenizer, end_token_ids(model, tokenizer))
    written = _completed(model, codec, prompts, max(len(row.completion) for row in rows))
    stop_share, special_share = _check_end(written, codec)
    save_model(model, tokenizer, job.draft / "model", _template(table))
    log = trainer.state.log_history
    write_metrics(job.draft, log)
    job.summary(
        rows=len(rows), too_long=len(encoded) - len(rows), steps=trainer.state.max_steps,
        loss=round(last_mean(log, "loss"), 4), stop_share=stop_share, special_share=special_share,
    )  # fmt: skip


def encode(table: pa.Table, tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """The rows of an `sft` table; every completion ends in the end token, whatever the text.

    A prompt of template `chat` is rendered by this tokenizer, as the model that wrote the completion may be
    of another family.
    """
    if not table.num_rows:
        raise ValueError("the dataset holds no rows: look at its rejected.parquet for the reasons")
    codec = Codec(tokenizer)
    prompts = table["prompt"].to_pylist()
    if _template(table) == CHAT:
        prompts = [codec.prompt(CHAT, question) for question in table["question"].to_pylist()]
    completions = codec.completions(table["completion"].to_pylist())
    return [Encoded(*ids) for ids in zip(codec.tokens(prompts), completions, strict=True)]


def _template(table: pa.Table) -> str | None:
    """That of the prompts; tables of one's own may leave the column out."""
    named = table["template"][0].as_py() if "template" in table.column_names else None
    return named or template_of(table["prompt"][0].as_py())


def build_trainer(
    config: SFTConfig, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Encoded],
) -> SFTTrainer:  # fmt: skip
    """The trainer on the rows in order, its checkpoints in `folder`; nothing runs yet."""
    order = row_order([len(row) for row in rows], config.epochs, config.batch_size, config.seed)
    features = [row.features() for row in rows]
    trainer = SFTTrainer(
        model=model,
        args=sft_arguments(config, folder, len(order) // config.batch_size, model.num_parameters()),
        train_dataset=Dataset.from_list(features).select(order),
        processing_class=tokenizer,
        callbacks=[SealCheckpoints()],
    )
    trainer.remove_callback(PrinterCallback)
    if any(labels[-1] != tokenizer.eos_token_id for labels in trainer.train_dataset["labels"]):
        raise ValueError(f"a training target does not end in {tokenizer.eos_token!r}: TRL cut or changed it")
    return trainer


def sft_arguments(config: SFTConfig, folder: Path, steps: int, parameters: int) -> TrlSFTConfig:
    """The settings as TRL's arguments."""
    return TrlSFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size,
        train_sampling_strategy="sequential",
        max_length=None,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.min_learning_rate_ratio},
        warmup_steps=config.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=parameters >= CHECKPOINTING_FROM,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        logging_steps=1,
        save_steps=config.checkpoint_every,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _completed(
    model: PreTrainedModel, codec: Codec, prompts: Sequence[list[int]], longest: int
) -> list[list[int]]:
    """Sampled completions of the prompts, of at most twice the `longest` one seen (tokens)."""
    training, sampling = model.training, Sampling(temperature=0.6, top_p=0.95, max_new_tokens=2 * longest)
    written = decode(model.eval(), prompts, sampling, range(len(prompts)), codec.end_tokens, len(prompts))
    model.train(training)
    return written


def _check_end(written: Sequence[list[int]], codec: Codec) -> tuple[float, float]:
    """Shares of completions that end in an end token, and that hold another special token before it.

    Raises:
        RuntimeError: none ends, or more than half hold one.
    """
    stopped = sum(row[-1] in codec.end_tokens for row in written) / len(written)
    special = [names for row in written if (names := codec.special_inside(row))]
    if stopped == 0:
        raise RuntimeError(
            f"the model ended none of {len(written)} completions: check that the dataset teaches the end "
            f"token {codec.tokenizer.eos_token!r} and raise epochs or learning_rate"
        )
    if len(special) > len(written) / 2:
        raise RuntimeError(
            f"the model wrote special tokens such as {special[0][0]!r} into {len(special)} of {len(written)} "
            "completions: check that the dataset's completions hold none, and raise epochs or learning_rate"
        )
    return stopped, len(special) / len(written)


def _that_fit(rows: Sequence[Encoded], limit: int) -> list[Encoded]:
    fitting = [row for row in rows if len(row) <= limit]
    if not fitting:
        raise ValueError(
            f"none of the {len(rows)} rows fits {limit} tokens (the shortest has {min(map(len, rows))}): "
            "raise max_length, or use a model with more positions"
        )
    return fitting
