"""The two reward models as classifiers: fitted, in one process or several (`launch`), and loaded again.

Every process reads the rows that the stage has written and takes part in both trainings. The first one leaves
`helpful/` and `safety/` in the draft, and what the Trainer logged in the state folder.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import RewardConfig, RewardTrainer

from artifacts.tables import read_table, write_table
from tasks.job import Job
from tasks.problem import from_table
from tasks.processors import halved
from tasks.reward_models.preference_data import general_problems, held_out_problems
from tasks.reward_models.stage import RewardModelsConfig
from tasks.rewards.preference_models import PreferenceModel, encode, helpful_input
from tasks.tables import METRICS
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.callbacks import JobCallback, raise_if_stopped
from tasks.training.checkpoints import SealCheckpoints, newest_checkpoint, resume_point
from tasks.training.launching import sharding_arguments, train_in_processes
from tasks.training.metrics import metric_rows
from tasks.training.models import save_model
from tasks.training.row_order import row_order
from tasks.training.settings import recomputes
from tasks.training.sharding import is_sharded, policy_weights

Row = dict[str, Any]
HELPFUL, SAFETY = "helpful", "safety"


def fit(config: RewardModelsConfig, job: Job) -> None:
    """Both models, from the preferences in the draft.

    Raises:
        ValueError: no row fits `max_length`.
        StopRequested: asked to stop; the next run goes on from the checkpoint.
    """
    for name in (HELPFUL, SAFETY):
        resume_point(job.state / name, config.launch)
    if config.launch.processes > 1:
        train_in_processes("tasks.reward_models.classifiers:train", config, config.launch, job)
    else:
        train(config, job)


def train(config: RewardModelsConfig, job: Job) -> None:
    """What each process does. Raises as `fit`."""
    rows = _training_rows(config, job)
    for name, trainer_of in ((HELPFUL, _helpful_trainer), (SAFETY, _safety_trainer)):
        tokenizer = load_tokenizer(_source(job))
        trainer = trainer_of(config, job, tokenizer, rows)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(SealCheckpoints())
        trainer.add_callback(JobCallback(job, {f"{name}_loss": "loss"}))
        resume = newest_checkpoint(job.state / name)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        raise_if_stopped(job, trainer.state)
        _leave(trainer, tokenizer, job, name)
        del trainer  # its optimiser has no place beside the next one's
        gc.collect()
        torch.cuda.empty_cache()


def load(job: Job, name: str) -> PreferenceModel:
    """A model that was fitted."""
    found = PreferenceModel.load(job.draft / name)
    _in_halves(found.model)
    return found


def logged(job: Job, name: str) -> list[dict[str, Any]]:
    """Rows of the table of metrics, from a model's training."""
    rows: list[dict[str, Any]] = read_table(_log(job, name)).to_pylist()
    return rows


def _leave(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, job: Job, name: str) -> None:
    """Every process takes part in gathering weights."""
    model, first = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.is_main_process
    sharded = is_sharded(model)
    weights = {n: whole.cpu() for n, whole in policy_weights(model) if first} if sharded else None
    if first:
        save_model(model, tokenizer, job.draft / name, weights=weights)
        write_table(_log(job, name), metric_rows(trainer.state.log_history), METRICS)


def _log(job: Job, name: str) -> Path:
    return job.state / f"{name}.parquet"


def _source(job: Job) -> Path:
    return job.inputs["checkpoint"].path / "model"


# ---- the two trainings -------------------------------------------------------------------------


def _helpful_trainer(
    config: RewardModelsConfig, job: Job, tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Row]
) -> Trainer:
    """Pairwise."""
    pairs, codec = [row for row in preferences if row["set"] == "helpfulness"], Codec(tokenizer)
    chosen, rejected = (
        encode(codec, [helpful_input(pair["prompt"], pair[side]) for pair in pairs])
        for side in ("chosen", "rejected")
    )
    rows = [{"chosen_ids": c, "rejected_ids": r} for c, r in zip(chosen, rejected, strict=True)]
    rows, model = _that_fit(rows, config), _classifier(_source(job), tokenizer)
    order = _order(rows, config)
    arguments = _arguments(config, job.state / HELPFUL, len(order), model)
    return RewardTrainer(
        model=model, args=RewardConfig(**arguments, max_length=None, disable_dropout=True),
        train_dataset=Dataset.from_list(rows).select(order), processing_class=tokenizer,
    )  # fmt: skip


def _safety_trainer(
    config: RewardModelsConfig, job: Job, tokenizer: PreTrainedTokenizerBase, preferences: Sequence[Row]
) -> Trainer:
    """Point-wise: the logit is that of the response being safe."""
    labels = [row for row in preferences if row["set"] == "safety"]
    read = encode(Codec(tokenizer), [(label["prompt"], label["response"]) for label in labels])
    rows = [{"input_ids": ids, "labels": float(x["safe"])} for ids, x in zip(read, labels, strict=True)]
    rows, model = _that_fit(rows, config), _classifier(_source(job), tokenizer)
    order = _order(rows, config)
    arguments = _arguments(config, job.state / SAFETY, len(order), model)
    tokenizer.padding_side = "right"
    return Trainer(
        model=model, args=TrainingArguments(**arguments, remove_unused_columns=False),
        train_dataset=Dataset.from_list(rows).select(order), processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer), compute_loss_func=_binary_cross_entropy,
    )  # fmt: skip


def _training_rows(config: RewardModelsConfig, job: Job) -> list[Row]:
    """The preferences of both sets whose problems are not held out."""
    problems = from_table(job.inputs["problems"].table("problems"))
    held_out = held_out_problems(general_problems(problems, config.prompts, config.seed), config.seed)
    table = read_table(job.draft / "preferences.parquet").to_pylist()
    return [row for row in table if row["problem_id"] not in held_out]


def _that_fit(rows: list[Row], config: RewardModelsConfig) -> list[Row]:
    fitting = [row for row in rows if _length(row) <= config.max_length]
    if not fitting:
        raise ValueError(f"no response fits max_length {config.max_length}: raise it")
    return fitting


def _length(row: Mapping[str, Any]) -> int:
    return max(len(value) for value in row.values() if isinstance(value, list))


def _order(rows: Sequence[Mapping[str, Any]], config: RewardModelsConfig) -> list[int]:
    return row_order([_length(row) for row in rows], config.epochs, config.batch_size, config.seed)


def _arguments(config: RewardModelsConfig, folder: Path, rows: int, model: PreTrainedModel) -> dict[str, Any]:
    share = config.batch_size // config.launch.processes
    micro = max(size for size in range(1, config.micro_batch_size + 1) if share % size == 0)
    return {
        "output_dir": str(folder),
        "max_steps": max(1, rows // config.batch_size),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": share // micro,
        "train_sampling_strategy": "sequential",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "use_cpu": not torch.cuda.is_available(),
        # On a GPU over float32 weights, as RL and SFT: fitting 1,257 pairs took 54 s of an H100 without.
        "bf16": torch.cuda.is_available(),
        "seed": config.seed,
        "logging_steps": 1,
        "save_steps": 200,
        "save_total_limit": 2,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        **sharding_arguments(config.launch, recomputes(config.recompute, model.num_parameters())),
    }


def _binary_cross_entropy(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the whole update: `num_items_in_batch` labels, over all its micro-batches."""
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs.logits[:, 0].float(), labels.float(), reduction="sum"
    )
    return losses / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def _classifier(source: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The checkpoint with a fresh scalar head; the seed of the head is fixed."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id, local_files_only=True
    )
    _in_halves(model)
    return model


def _in_halves(model: PreTrainedModel) -> None:
    """Have the model work on half of the rows in each thread, where that is faster."""
    plain: Callable[..., Any] = model.forward

    def logits(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = plain(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits
        return found

    in_halves = halved(model, logits)

    @wraps(plain)
    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        return SequenceClassifierOutput(logits=in_halves(input_ids, attention_mask))

    model.forward = forward
