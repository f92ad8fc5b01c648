"""Supervised fine-tuning on completions: Dev1, Dev3 and the distilled students (paper B.4.2, B.4.3, Table 6).

Loss on the completion and its end token only, cosine from the learning rate to a tenth of it. Not published
and chosen here: AdamW without weight decay, gradients clipped at norm 1. A row longer than `max_length` is
left out and counted: cut off, it would teach to never end. The order of rows is a pure function of the seed.
`tokens.py` encodes the rows, `packing.py` packs an update's rows into micro-batches.
Run one by itself: `prefect deployment run sft --param node=dev3`.
"""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainingArguments,
)

from artifacts.tables import read_batches
from tasks.job import Job
from tasks.rollout.decoding import decode
from tasks.rollout.settings import Sampling
from tasks.sft.memory import has_room_for_attention
from tasks.sft.packing import PackedTrainer, PackedUpdates
from tasks.sft.stage import SFTConfig
from tasks.sft.tokens import TokenRows, prompt_template, token_rows
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.attention import use_flash_attention
from tasks.training.callbacks import JobCallback, raise_if_stopped
from tasks.training.checkpoints import SealCheckpoints, newest_checkpoint, resume_point
from tasks.training.launching import sharding_arguments, train_in_processes
from tasks.training.memory import ModelShape
from tasks.training.metrics import last_mean, write_metrics
from tasks.training.models import (
    compile_layers,
    end_token_ids,
    load_policy,
    save_model,
    with_adapters,
)
from tasks.training.row_order import row_order
from tasks.training.settings import recomputes
from tasks.training.sharding import is_sharded, policy_weights

_SHOWN = {"loss": "loss", "token_accuracy": "mean_token_accuracy"}
_PROBES = 8


def run(config: SFTConfig, job: Job) -> None:
    """Fine-tunes `checkpoint` on `dataset`; leaves `model/` and `metrics.parquet`.

    Raises:
        ValueError: no row of the dataset fits `max_length`, or the optimiser is not installed; before
            anything is trained.
        RuntimeError: the trained model ends none of its own completions, or writes special tokens into them.
        StopRequested: asked to stop; the next run goes on from the checkpoint.
    """
    require_optimizer(config)
    source = job.inputs["checkpoint"].path / "model"
    rows = token_rows(job, load_tokenizer(source))
    fitting = rows_that_fit(rows, config, source)
    resume_point(job.state / "trainer", config.launch)
    if config.launch.processes > 1:
        train_in_processes("tasks.sft.train:train", config, config.launch, job)
    else:
        train(config, job)
    stop_share, special_share = _probe(job.draft / "model", config, rows, fitting)
    job.summary(stop_share=stop_share, special_share=special_share)


def train(config: SFTConfig, job: Job) -> None:
    """What each process of a run does; the first leaves `model/` and `metrics.parquet`. Raises as `run`."""
    job.progress(0, 0, "loading the model")
    source = job.inputs["checkpoint"].path / "model"
    tokenizer, model = load_tokenizer(source), load_policy(source)
    rows = token_rows(job, tokenizer)
    fitting = rows_that_fit(rows, config, source)
    trainer = build_trainer(config, job.state / "trainer", model, tokenizer, rows, fitting)
    trainer.add_callback(JobCallback(job, _SHOWN, budget_hours=config.budget_hours))
    resume = newest_checkpoint(job.state / "trainer")
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    raise_if_stopped(job, trainer.state, config.budget_hours)
    _leave(trainer, tokenizer, job)
    job.summary(
        rows=len(fitting), too_long=len(rows) - len(fitting), steps=trainer.state.max_steps,
        loss=round(last_mean(trainer.state.log_history, "loss"), 4),
    )  # fmt: skip


def require_optimizer(config: SFTConfig) -> None:
    """Raises ValueError where the package of `optimizer` is not installed."""
    if config.optimizer == "adamw_8bit" and importlib.util.find_spec("torchao") is None:
        raise ValueError(
            "optimizer: adamw_8bit needs the package torchao, which is not installed: run "
            "`pip install torchao` in the environment of the workers, or set optimizer: adamw"
        )


def rows_that_fit(rows: TokenRows, config: SFTConfig, source: Path) -> np.ndarray:
    """Numbers of the rows that fit `max_length` and the positions of the model in `source`.

    Raises:
        ValueError: none does.
    """
    limit = min(config.max_length, AutoConfig.from_pretrained(source).max_position_embeddings)
    fitting = np.flatnonzero(rows.lengths <= limit)
    if not len(fitting):
        raise ValueError(
            f"none of the {len(rows)} rows fits {limit} tokens (the shortest has {rows.lengths.min()}): "
            "raise max_length, or use a model with more positions"
        )
    return fitting


def build_trainer(
    config: SFTConfig, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
    rows: TokenRows, fitting: np.ndarray,
) -> PackedTrainer:  # fmt: skip
    """The trainer on the rows numbered `fitting`, its checkpoints in `folder`; nothing runs yet."""
    if (rows.ids[rows.starts[1:] - 1] != tokenizer.eos_token_id).any():
        raise ValueError(f"a training target does not end in {tokenizer.eos_token!r}: encode the rows again")
    use_flash_attention(model, config.bf16)
    recompute = recomputes(config.recompute, model.num_parameters())
    keeps_attention = recompute and _keeps_attention(model, config)
    if config.compile_layers:
        compile_layers(model, recompute, keeps_attention)
        recompute = keeps_attention = False  # nothing is left to do around the layers
    order = row_order(rows.lengths[fitting], config.epochs, config.batch_size, config.seed)
    updates = PackedUpdates(
        rows, fitting[order], config.batch_size, config.micro_batch_tokens, config.launch.processes
    )
    steps = len(order) // config.batch_size
    trainer = PackedTrainer(
        model=with_adapters(model, config.lora, config.seed) if config.lora else model,
        keeps_attention=keeps_attention,
        args=training_arguments(config, folder, steps, recompute),
        train_dataset=updates,
        processing_class=tokenizer,
        callbacks=[SealCheckpoints()],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _keeps_attention(model: PreTrainedModel, config: SFTConfig) -> bool:
    """A model whose memory is not estimated (no dense decoder) recomputes everything."""
    try:
        shape = ModelShape.of(model.config.get_text_config().to_dict())
    except ValueError:
        return False
    return has_room_here(shape, config)


def has_room_here(shape: ModelShape, config: SFTConfig) -> bool:
    """Whether a card here, or where there is none a share of the memory, can keep what attention returned."""
    on_gpu = torch.cuda.is_available()
    here = psutil.virtual_memory().available // config.launch.processes
    size = torch.cuda.get_device_properties(0).total_memory if on_gpu else here
    return has_room_for_attention(shape, config, size, on_gpu)


def training_arguments(config: SFTConfig, folder: Path, steps: int, recompute: bool) -> TrainingArguments:
    """The settings as the Trainer's arguments; its batch is one item of `PackedUpdates`. With `recompute` the
    Trainer has each layer recompute its activations."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.min_learning_rate_ratio},
        warmup_steps=config.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim={"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_torch_8bit"}[config.optimizer],
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        logging_steps=1,
        save_steps=config.checkpoint_every,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        **sharding_arguments(config.launch, recompute),
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process on several GPUs would use `nn.DataParallel`
    return arguments


def _leave(trainer: PackedTrainer, tokenizer: PreTrainedTokenizerBase, job: Job) -> None:
    """The trained model, adapters merged, and the metrics; every process takes part in gathering weights."""
    first, model = trainer.accelerator.is_main_process, trainer.accelerator.unwrap_model(trainer.model)
    weights = None
    if is_sharded(model) or trainer.causal_model(model) is not model:
        weights = {name: whole.cpu() for name, whole in policy_weights(model) if first}
    if first:
        table = next(read_batches(job.inputs["dataset"].path / "sft", 1))
        place = job.draft / "model"
        save_model(trainer.causal_model(model), tokenizer, place, prompt_template(table), weights)
        write_metrics(job.draft, trainer.state.log_history)


def _probe(folder: Path, config: SFTConfig, rows: TokenRows, fitting: np.ndarray) -> tuple[float, float]:
    """How the trained model in `folder` completes the first prompts. Returns and raises as `_check_end`."""
    gc.collect()  # the trainer of this process, which holds the GPU's memory in cycles of references
    torch.cuda.empty_cache()
    on_gpu = torch.cuda.is_available()
    model = load_policy(folder, torch.bfloat16 if config.bf16 and on_gpu else torch.float32, spread=on_gpu)
    prompts = [rows.prompt(row) for row in fitting[:_PROBES]]
    codec = Codec(load_tokenizer(folder), end_token_ids(model, load_tokenizer(folder)))
    longest = int((rows.starts[1:] - rows.completions)[fitting].max())
    return _check_end(_completed(model, codec, prompts, longest), codec)


def _completed(
    model: PreTrainedModel, codec: Codec, prompts: Sequence[list[int]], longest: int
) -> list[list[int]]:
    """Sampled completions of the prompts, of at most twice the `longest` one seen (tokens)."""
    sampling = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=2 * longest)
    return decode(model.eval(), prompts, sampling, range(len(prompts)), codec.end_tokens, len(prompts))


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
