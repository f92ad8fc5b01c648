"""Helpful and safety reward models (paper Methods, 3.1).

The checkpoint answers general prompts several times; a rubric or a language model judges them
(`preference_data.py` here).
Helpful: TRL's RewardTrainer on pairs of final answers, pairwise loss. Safety: one response at a time,
binary cross-entropy. Both start from the checkpoint with a scalar head, as in the paper. A fifth of the
problems trains neither model and gives the held-out accuracy.
Run it by itself: `prefect deployment run reward-models --param preset=tiny`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import RewardConfig, RewardTrainer

from artifacts.tables import write_table
from tasks.funnel import Funnel
from tasks.job import Job
from tasks.language_models.opening import open_model
from tasks.language_models.settings import StandIn
from tasks.problem import RUBRIC_SETS, Problem, from_table, select
from tasks.processors import halved
from tasks.rendering import parse_completion
from tasks.reward_models.preference_data import (
    Labelled,
    Pair,
    Pairs,
    Response,
    held_out_problems,
    length_gap,
    model_judge,
    preference_pairs,
    rubric_judge,
    safety_labels,
)
from tasks.reward_models.stage import RewardModelsConfig
from tasks.rewards.preference_models import (
    PreferenceModel,
    encode,
    helpful_input,
    set_score_range,
)
from tasks.rollout.sampling import sample_problems
from tasks.rollout.text import open_sampler
from tasks.tables import METRICS, PREFERENCES
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.callbacks import JobCallback, raise_if_stopped
from tasks.training.checkpoints import SealCheckpoints, newest_checkpoint
from tasks.training.metrics import metric_rows
from tasks.training.models import save_model
from tasks.training.row_order import row_order

_FEWEST = 8
"""Rows that a reward model needs at least."""


def run(config: RewardModelsConfig, job: Job) -> None:
    """Leaves `helpful/`, `safety/`, `preferences.parquet` and `metrics.parquet`.

    Raises:
        ValueError: no general prompts, or too few pairs or labels came out of the sampling.
        StopRequested: asked to stop; finished shards and checkpoints are kept.
    """
    problems = general_problems(from_table(job.inputs["problems"].table("problems")), config)
    model = None if isinstance(config.judge, StandIn) else open_model(config.judge, job, {})
    responses = sample_responses(config, job, problems)
    held_out = held_out_problems(problems, config.seed)
    judge = model_judge(model) if model else rubric_judge
    pairs = preference_pairs(responses, config.judgments_per_pair, config.min_margin, config.seed, judge)
    labels = safety_labels(responses)
    if model:
        job.summary(**model.summary("judge"))
        model.close()
    _leave_funnel(job, responses, pairs, labels)
    _require_enough(pairs.kept, labels, held_out)

    write_table(job.draft / "preferences.parquet", _preference_rows(pairs.kept, labels), PREFERENCES)
    helpful = train_helpful(config, job, [p for p in pairs.kept if p.problem.id not in held_out])
    safety = train_safety(config, job, [x for x in labels if x.problem.id not in held_out])
    scores = {
        "helpful_held_out_accuracy": _pair_accuracy(helpful.model, pairs.kept, held_out),
        "safety_held_out_accuracy": _label_accuracy(safety.model, labels, held_out),
    }
    write_table(job.draft / "metrics.parquet", _metrics(helpful, safety, scores), METRICS)
    job.summary(
        responses=len(responses), without_answer=sum(r.answer is None for r in responses),
        pairs=len(pairs.kept), pairs_small_margin=pairs.small_margin,
        pairs_unbalanced_length=pairs.unbalanced_length, pairs_unjudged=pairs.unjudged,
        length_gap_words=round(length_gap(pairs.kept), 2),
        safety_labels=len(labels), safe_share=round(sum(x.safe for x in labels) / len(labels), 3),
        **{name: round(value, 3) for name, value in scores.items()},
    )  # fmt: skip


def _leave_funnel(job: Job, responses: Sequence[Response], pairs: Pairs, labels: Sequence[Labelled]) -> None:
    funnel, kept = Funnel(), len(pairs.kept)
    helpful = [r for r in responses if r.problem.verifier_args["set"] == "helpfulness"]
    missing = sum(not r.answer for r in helpful)
    funnel.add("final answers", len(helpful) - missing, {"without-answer": missing})
    dropped = {"judge-unreadable": pairs.unjudged, "small-margin": pairs.small_margin}
    funnel.add("preference pairs", kept + pairs.unbalanced_length, dropped)
    funnel.add("lengths balanced", kept, {"unbalanced-length": pairs.unbalanced_length})
    funnel.add("safety labels", len(labels), {"duplicate": len(responses) - len(helpful) - len(labels)})
    funnel.write(job.draft)


def general_problems(problems: Sequence[Problem], config: RewardModelsConfig) -> list[Problem]:
    """The training problems with a rubric of either set; where there are too many, `prompts` at random.

    Raises:
        ValueError: a set has none.
    """
    general = [p for p in select(problems, "train") if p.verifier_args.get("set") in RUBRIC_SETS]
    missing = [name for name in RUBRIC_SETS if not any(p.verifier_args["set"] == name for p in general)]
    if missing:
        raise ValueError(
            f"the problems hold no training rows with a rubric of set {' or '.join(missing)}: add general "
            "problems with verifier_args.set"
        )
    return random.Random(config.seed).sample(general, min(config.prompts, len(general)))


def sample_responses(config: RewardModelsConfig, job: Job, problems: Sequence[Problem]) -> list[Response]:
    """`samples_per_prompt` responses of the checkpoint to each problem."""
    checkpoint = job.inputs["checkpoint"]
    with closing(open_sampler(config.engine, checkpoint.path / "model")) as sampler:
        table = sample_problems(
            sampler, problems, config.template, config.sampling, config.samples_per_prompt, config.seed,
            checkpoint.ref.digest, job,
        )  # fmt: skip
    by_id = {p.id: p for p in problems}
    rows = table.select(["problem_id", "prompt", "completion"]).to_pylist()
    return [
        Response(
            by_id[row["problem_id"]],
            row["prompt"],
            row["completion"],
            parse_completion(row["completion"]).answer,
        )
        for row in rows
    ]


class Trained:
    """A reward model that finished training, and the Trainer's log."""

    def __init__(self, model: PreferenceModel, log: Sequence[Mapping[str, Any]]) -> None:
        self.model, self.log = model, log


def train_helpful(config: RewardModelsConfig, job: Job, pairs: Sequence[Pair]) -> Trained:
    """Pairwise training; the logits' mean and deviation over the training answers go into its config."""
    tokenizer = load_tokenizer(_source(job))
    codec = Codec(tokenizer)
    chosen, rejected = (
        encode(codec, [helpful_input(p.prompt, getattr(p, side)) for p in pairs])
        for side in ("chosen", "rejected")
    )
    rows = [{"chosen_ids": c, "rejected_ids": r} for c, r in zip(chosen, rejected, strict=True)]
    rows = _that_fit(rows, config)
    folder, order = job.state / "helpful", _order(rows, config)
    arguments = RewardConfig(**_arguments(config, folder, len(order)), max_length=None, disable_dropout=True)
    trainer = RewardTrainer(
        model=_classifier(_source(job), tokenizer), args=arguments,
        train_dataset=Dataset.from_list(rows).select(order), processing_class=tokenizer,
    )  # fmt: skip
    trained = _fit(trainer, tokenizer, job, folder, "helpful")
    answers = dict.fromkeys(helpful_input(p.prompt, a) for p in pairs for a in (p.chosen, p.rejected))
    logits = trained.model.logits(list(answers))
    set_score_range(trained.model.model, logits.mean(), logits.std().clamp(min=1e-3))
    save_model(trained.model.model, tokenizer, job.draft / "helpful")
    return trained


def train_safety(config: RewardModelsConfig, job: Job, labels: Sequence[Labelled]) -> Trained:
    """Point-wise training: the logit is that of the response being safe."""
    tokenizer = load_tokenizer(_source(job))
    read = encode(Codec(tokenizer), [(x.prompt, x.response) for x in labels])
    rows = [{"input_ids": ids, "labels": float(x.safe)} for ids, x in zip(read, labels, strict=True)]
    rows = _that_fit(rows, config)
    folder, order = job.state / "safety", _order(rows, config)
    tokenizer.padding_side = "right"
    trainer = Trainer(
        model=_classifier(_source(job), tokenizer),
        args=TrainingArguments(**_arguments(config, folder, len(order)), remove_unused_columns=False),
        train_dataset=Dataset.from_list(rows).select(order), processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer), compute_loss_func=_binary_cross_entropy,
    )  # fmt: skip
    trained = _fit(trainer, tokenizer, job, folder, "safety")
    save_model(trained.model.model, tokenizer, job.draft / "safety")
    return trained


def _binary_cross_entropy(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the whole update: `num_items_in_batch` labels, over all its micro-batches."""
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs.logits[:, 0].float(), labels.float(), reduction="sum"
    )
    return losses / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def _fit(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, job: Job, folder: Path, name: str) -> Trained:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(SealCheckpoints())
    trainer.add_callback(JobCallback(job, {f"{name}_loss": "loss"}))
    resume = newest_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    raise_if_stopped(job, trainer.state)
    model = trainer.accelerator.unwrap_model(trainer.model)
    return Trained(PreferenceModel(model, tokenizer), trainer.state.log_history)


def _arguments(config: RewardModelsConfig, folder: Path, rows: int) -> dict[str, Any]:
    micro = min(config.micro_batch_size, config.batch_size)
    return {
        "output_dir": str(folder),
        "max_steps": max(1, rows // config.batch_size),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": config.batch_size // micro,
        "train_sampling_strategy": "sequential",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "gradient_checkpointing": False,
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
    }


def _classifier(source: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The checkpoint with a fresh scalar head; the seed of the head is fixed."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, dtype=torch.float32, pad_token_id=tokenizer.pad_token_id, local_files_only=True
    )
    plain = model.forward

    def logits(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return plain(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits

    in_halves = halved(model, logits)

    @wraps(plain)
    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        return SequenceClassifierOutput(logits=in_halves(input_ids, attention_mask))

    model.forward = forward
    return model


def _source(job: Job) -> Path:
    return job.inputs["checkpoint"].path / "model"


def _that_fit(rows: list[dict[str, Any]], config: RewardModelsConfig) -> list[dict[str, Any]]:
    fitting = [row for row in rows if _length(row) <= config.max_length]
    if not fitting:
        raise ValueError(f"no response fits max_length {config.max_length}: raise it")
    return fitting


def _length(row: Mapping[str, Any]) -> int:
    return max(len(value) for value in row.values() if isinstance(value, list))


def _order(rows: Sequence[Mapping[str, Any]], config: RewardModelsConfig) -> list[int]:
    return row_order([_length(row) for row in rows], config.epochs, config.batch_size, config.seed)


def _require_enough(pairs: Sequence[Pair], labels: Sequence[Labelled], held_out: frozenset[str]) -> None:
    training_pairs = sum(p.problem.id not in held_out for p in pairs)
    if training_pairs < _FEWEST:
        raise ValueError(
            f"{training_pairs} helpfulness pairs to train on (at least {_FEWEST} needed): the checkpoint's "
            "answers differ too little or miss the answer tags; raise prompts, samples_per_prompt or the "
            "temperature"
        )
    training = [x.safe for x in labels if x.problem.id not in held_out]
    if len(training) < _FEWEST or len(set(training)) < 2:
        raise ValueError(
            f"{sum(training)} safe and {len(training) - sum(training)} unsafe responses to train on (both "
            f"kinds and {_FEWEST} in all needed): raise prompts, samples_per_prompt or the temperature"
        )


def _pair_accuracy(model: PreferenceModel, pairs: Sequence[Pair], held_out: frozenset[str]) -> float:
    tested = [p for p in pairs if p.problem.id in held_out]
    if not tested:
        return float("nan")
    chosen = model.logits([helpful_input(p.prompt, p.chosen) for p in tested])
    rejected = model.logits([helpful_input(p.prompt, p.rejected) for p in tested])
    return (chosen > rejected).float().mean().item()


def _label_accuracy(model: PreferenceModel, labels: Sequence[Labelled], held_out: frozenset[str]) -> float:
    tested = [x for x in labels if x.problem.id in held_out]
    if not tested:
        return float("nan")
    said = model.logits([(x.prompt, x.response) for x in tested]) > 0
    return (said == torch.tensor([x.safe for x in tested])).float().mean().item()


def _metrics(helpful: Trained, safety: Trained, scores: Mapping[str, float]) -> list[dict[str, Any]]:
    rows = [
        row | {"name": f"{name}_{row['name']}"}
        for name, trained in (("helpful", helpful), ("safety", safety))
        for row in metric_rows(trained.log)
    ]
    last = max((row["step"] for row in rows), default=0)
    return rows + [{"step": last, "name": n, "value": v} for n, v in scores.items() if v == v]


def _preference_rows(pairs: Sequence[Pair], labels: Sequence[Labelled]) -> list[dict[str, Any]]:
    empty = dict.fromkeys(("chosen", "rejected", "response", "safe", "margin"))
    helpful = [
        {"problem_id": p.problem.id, "set": "helpfulness", "prompt": p.prompt, **empty, "chosen": p.chosen,
         "rejected": p.rejected, "margin": p.margin}
        for p in pairs
    ]  # fmt: skip
    safety = [
        {"problem_id": x.problem.id, "set": "safety", "prompt": x.prompt, **empty, "response": x.response,
         "safe": x.safe}
        for x in labels
    ]  # fmt: skip
    return helpful + safety
