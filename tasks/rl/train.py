"""GRPO: R1-Zero, reasoning RL, final RL and the RL-only student (paper 2.1-2.3, Methods; Eq. 1-10).

A setting's way from the preset: `tasks.rl.stage` declares it with its source in the paper,
`tasks.rl.arguments` gives TRL what TRL has, and `GroupTrainer`, the schedule, the reward and the engine read
the rest from the same `RLConfig`. Run one by itself: `prefect deployment run rl-zero --param preset=tiny`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.integrations import TensorBoardCallback

from tasks.job import Job
from tasks.problem import Problem, from_table
from tasks.rewards.health import RewardHealth
from tasks.rewards.pool import VerifierPool
from tasks.rewards.score import RewardFunction
from tasks.rewards.term import Resources
from tasks.rl.arguments import grpo_arguments
from tasks.rl.continuation import adopt, keep
from tasks.rl.curriculum import pass_rates
from tasks.rl.early_rewards import EarlyVerifier
from tasks.rl.evaluation import PeriodicEvaluation
from tasks.rl.health import HealthCallback
from tasks.rl.memory import check_memory
from tasks.rl.prompts import Prompts
from tasks.rl.recorder import RecordedReward, drop_from, finish
from tasks.rl.schedule import phase_begins, training_problems
from tasks.rl.stage import RLConfig
from tasks.rl.trainer import GroupTrainer
from tasks.rollout.engines import open_engine
from tasks.tables import METRICS, SAMPLES
from tasks.tokenizer import Codec, load_tokenizer
from tasks.training.callbacks import JobCallback, raise_if_stopped
from tasks.training.checkpoints import (
    SealCheckpoints,
    best_checkpoint,
    checkpoint_step,
    newest_checkpoint,
    resume_point,
)
from tasks.training.launching import lost_note, process_number, train_in_processes
from tasks.training.metrics import last_mean, write_metrics
from tasks.training.models import adapters, end_token_ids, load_policy, save_model
from tasks.training.settings import recomputes
from tasks.training.sharding import is_sharded

_SHOWN = {"reward": "reward", "pass_rate": "r1/pass_rate", "length": "completions/mean_length"}


def run(config: RLConfig, job: Job) -> None:
    """Trains `checkpoint` on `problems`; leaves `model/`, `samples.parquet` and `metrics.parquet`, and with
    `evaluate_every` the two tables of `tasks.rl.evaluation`.

    Raises:
        ValueError: settings that the inputs or the machine cannot serve, before anything is trained.
        RuntimeError: the reward is broken (constant, too many verifier errors, or nothing right or well
            formed for `futile_rollouts` rollouts), or the sampler does not follow the trainer's weights.
        ServiceLost: the vLLM server vanished or was restarted; the next run goes on from the checkpoint.
        StopRequested: asked to stop, or `budget_hours` are spent; the next run goes on from the checkpoint.
    """
    job.progress(0, config.steps, "loading the model")
    adopt(config, job)
    resume = resume_point(job.state / "trainer", config.launch)
    for shards in _tables(config):
        (job.state / shards).mkdir(exist_ok=True)
        drop_from(job.state / shards, checkpoint_step(resume) if resume else 0)
    if config.launch.processes > 1:
        train_in_processes("tasks.rl.train:train", config, config.launch, job)
    else:
        train(config, job)
    for shards, schema in _tables(config).items():
        finish(job.state / shards, job.draft / f"{shards}.parquet", schema)
    keep(config, job)


def _tables(config: RLConfig) -> dict[str, pa.Schema]:
    """Folders of the state in which steps leave shards; each becomes a table of the artifact."""
    if config.evaluate_every == 0:
        return {"samples": SAMPLES}
    return {"samples": SAMPLES, "evaluation_samples": SAMPLES, "evaluation_metrics": METRICS}


def train(config: RLConfig, job: Job) -> None:
    """What each process of a run does; the first leaves `model/` and `metrics.parquet`. Raises as `run`."""
    source = job.inputs["checkpoint"].path / "model"
    given = from_table(job.inputs["problems"].table("problems"))
    problems = training_problems(given, config)
    tokenizer, model = load_tokenizer(source), load_policy(source)
    resume = newest_checkpoint(job.state / "trainer")
    with _pool(config) as pool, EarlyVerifier(pool) as verifier:
        pool.warm(problems)
        rates = pass_rates(problems, config, source, verifier, job.state / "pass-rates.json")
        prompts = Prompts.of(problems, config, tokenizer, rates)
        ends = end_token_ids(model, tokenizer)
        evaluation = _evaluation(config, given, Codec(tokenizer, ends), pool, job)
        longest = max(prompts.longest, evaluation.longest if evaluation else 0)
        _check_lengths(longest, config, model)
        reward = _recorded_reward(config, problems, verifier, ends, job)
        check_memory(model, config, longest)  # with the reward models where they will be
        trainer = build_trainer(
            config, job.state / "trainer", source, model, tokenizer, prompts, reward,
            on_written=reward.early(verifier), lost_note=lost_note(job), evaluation=evaluation,
        )  # fmt: skip
        reward.engine = trainer.sampler.engine.name
        _name_run(trainer, job)
        health = HealthCallback(config.mismatch_limit, partial(phase_begins, config))
        trainer.add_callback(health)
        shown = evaluation.latest if evaluation else {}
        progress = JobCallback(job, _SHOWN, config.mini_batches_per_rollout, config.budget_hours, shown)
        trainer.add_callback(progress)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        trainer.sampler.finish(trainer.state.global_step)
        if config.engine.entry.own_device or config.launch.processes > 1:
            trainer.sampler.engine.close()  # another ends with this process (`Engine.close`)
    raise_if_stopped(job, trainer.state, config.budget_hours)
    _leave(trainer, tokenizer, config, job)
    if trainer.accelerator.is_main_process:
        job.summary(**_headline(config, trainer.state.log_history), health=health.lines())


def build_trainer(
    config: RLConfig,
    folder: Path,
    source: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts,
    reward: Callable[..., list[float | None]],
    on_written: Callable[[list[dict[str, Any]], list[str]], None] | None = None,
    lost_note: Path | None = None,
    evaluation: PeriodicEvaluation | None = None,
) -> GroupTrainer:
    """The trainer with its engine, its checkpoints in `folder`; nothing runs yet.

    `source` is the folder that `model` was loaded from; an engine with a copy of the model starts from it.
    """
    recompute = recomputes(config.recompute, model.num_parameters())
    trainer = GroupTrainer(
        config=config,
        prompts=prompts,
        open_engine=partial(open_engine, config.engine),
        folder=source,
        on_written=on_written,
        lost_note=lost_note,
        evaluation=evaluation,
        model=model,
        reward_funcs=reward,
        args=grpo_arguments(config, folder, recompute and not config.compile_layers),
        processing_class=tokenizer,
        peft_config=adapters(config.lora) if config.lora else None,
        callbacks=[SealCheckpoints(partial(_comparable, config) if config.publish == "best" else None)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _comparable(config: RLConfig, updates: int) -> int:
    """After how many updates rewards are those of the phase in which the last of `updates` was made."""
    return phase_begins(config, updates - 1)


def _name_run(trainer: GroupTrainer, job: Job) -> None:
    """For `report_to`; TensorBoard's files go beside the work folder, which publication removes."""
    trainer.args.run_name = f"{job.node}-{job.folder.name[:12]}"
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(job.work_root / "tensorboard" / trainer.args.run_name)


def _leave(trainer: GroupTrainer, tokenizer: PreTrainedTokenizerBase, config: RLConfig, job: Job) -> None:
    """The trained model, adapters merged, and the metrics; every process takes part in gathering weights."""
    log, best = trainer.state.log_history, None
    if config.publish == "best":
        best = best_checkpoint(job.state / "trainer", log, _comparable(config, trainer.state.global_step))
    if best is not None:
        trainer._load_from_checkpoint(str(best))
        job.summary(published_step=checkpoint_step(best))
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = trainer.accelerator.get_state_dict(trainer.model) if is_sharded(model) else None
    if trainer.accelerator.is_main_process:
        merged = model.merge_and_unload() if config.lora else model
        save_model(merged, tokenizer, job.draft / "model", config.template, weights)
        write_metrics(job.draft, log)


def _headline(config: RLConfig, log: Sequence[Mapping[str, Any]]) -> dict[str, float | int]:
    shown = (*_SHOWN.items(), ("kl", "kl"))
    spent = sum(last_mean(log, f"r1/{part}") for part in ("generate_s", "update_s"))
    return {
        "steps": config.steps,
        **{f"last_{name}": round(last_mean(log, key), 4) for name, key in shown},
        "seconds_per_step": round(spent, 2),
    }


def _check_lengths(longest: int, config: RLConfig, model: PreTrainedModel) -> None:
    room = model.config.max_position_embeddings
    if longest + config.longest_completion > room:
        raise ValueError(
            f"a prompt of {longest} tokens and a completion of {config.longest_completion} do not fit the "
            f"model's {room} positions: lower max_completion_length to {room - longest} or less"
        )


def _pool(config: RLConfig) -> VerifierPool:
    every_case = any(term.every_case for term in config.rewards)
    return VerifierPool(partial_credit=every_case, allow_weak_sandbox=config.allow_weak_sandbox)


def _evaluation(
    config: RLConfig, problems: Sequence[Problem], codec: Codec, pool: VerifierPool, job: Job
) -> PeriodicEvaluation | None:
    if config.evaluate_every == 0:
        return None
    return PeriodicEvaluation(
        config, problems, codec, pool, job.state / "evaluation_samples", job.state / "evaluation_metrics",
        job.inputs["checkpoint"].ref.digest,
    )  # fmt: skip


def _recorded_reward(
    config: RLConfig, problems: Sequence[Problem], verifier: EarlyVerifier, ends: Sequence[int], job: Job
) -> RecordedReward:
    models = job.inputs.get("reward_models")
    resources = Resources(models.path if models else None, config.template)
    return RecordedReward(
        config, problems, RewardFunction(config.rewards, verifier, resources),
        RewardHealth(futile_rollouts=config.futile_rollouts),
        job.state / "samples", job.inputs["checkpoint"].ref.digest, ends, process_number(),
    )  # fmt: skip
