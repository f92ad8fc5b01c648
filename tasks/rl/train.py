"""GRPO: R1-Zero, reasoning RL, final RL and the RL-only student (paper 2.1-2.3, Methods; Eq. 1-10).

How the published settings reach TRL 1.16.0:

    group size G                       num_generations
    512 outputs an update              per_device_train_batch_size (one update, micro-batched by GroupTrainer)
    8,192 outputs -> 16 mini-batches   steps_per_generation, one inner epoch (num_iterations 1), random split
    A = (r - mean) / std of the group  scale_rewards="group" (TRL divides by std + 1e-4, with n - 1)
    KL in the loss, coefficient 0.001  beta, use_bias_correction_kl=False (TRL would weight it by the ratio)
    clip epsilon (10 in stage 1)       epsilon, epsilon_high
    reference := policy every 400      sync_ref_model, ref_model_mixup_alpha 1.0, ref_model_sync_steps
    per-response objective (Eq. 1)     loss_type="grpo": per-token ratios, mean over a response's tokens
                                       (options: "dapo", and "dr_grpo" with scale_rewards="none")
    temperature, no top-p or top-k     temperature, top_p 1, top_k 0 (a cut would bias the ratios)
    length 32,768, then 65,536         GroupTrainer(length_at=...)
    reward terms and prompts by step   tasks.rewards.RewardFunction, tasks.rl.schedule

Not published and chosen here: AdamW without weight decay, gradients clipped at norm 1, constant rate.
Run one by itself: `prefect deployment run rl-zero --param preset=tiny`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from transformers.integrations import TensorBoardCallback
from trl import GRPOConfig

from tasks.job import Job
from tasks.problem import Problem, from_table
from tasks.rendering import render_prompt
from tasks.rewards.functions import RewardFunction
from tasks.rewards.health import RewardHealth
from tasks.rewards.pool import VerifierPool
from tasks.rl.curriculum import pass_rates
from tasks.rl.early_rewards import EarlyVerifier
from tasks.rl.health import HealthCallback
from tasks.rl.memory import check_memory
from tasks.rl.recorder import RecordedReward, drop_from, finish
from tasks.rl.schedule import (
    Stage,
    curriculum_stages,
    max_completion_length,
    prompt_schedule,
    refill_problems,
    training_problems,
)
from tasks.rl.stage import RLConfig
from tasks.rl.trainer import GroupTrainer
from tasks.rollout.server import ServerWatch, stay_on_loopback
from tasks.training.callbacks import JobCallback, raise_if_stopped
from tasks.training.checkpoints import SealCheckpoints, best_checkpoint, checkpoint_step, newest_checkpoint
from tasks.training.launching import lost_note, process_number, sharding_arguments, train_in_processes
from tasks.training.metrics import last_mean, write_metrics
from tasks.training.models import CHECKPOINTING_FROM, end_token_ids, load_policy, load_tokenizer, save_model
from tasks.training.sharding import is_sharded

_SHOWN = {"reward": "reward", "pass_rate": "r1/pass_rate", "length": "completions/mean_length"}


def run(config: RLConfig, job: Job) -> None:
    """Trains `checkpoint` on `problems`; leaves `model/`, `samples.parquet` and `metrics.parquet`.

    Raises:
        ValueError: settings that the inputs or the machine cannot serve, before anything is trained.
        RuntimeError: the reward is broken (constant, or too many verifier errors), or the sampler does not
            follow the trainer's weights.
        ServiceLost: the vLLM server vanished or was restarted; the next run goes on from the checkpoint.
        StopRequested: asked to stop; the next run goes on from the checkpoint.
    """
    job.progress(0, config.steps, "loading the model")
    resume = newest_checkpoint(job.state / "trainer")
    shards = job.state / "samples"
    shards.mkdir(exist_ok=True)
    drop_from(shards, checkpoint_step(resume) if resume else 0)
    if config.launch.processes > 1:
        train_in_processes("tasks.rl.train:train", config, config.launch, job)
    else:
        train(config, job)
    finish(shards, job.draft / "samples.parquet")


def train(config: RLConfig, job: Job) -> None:
    """What each process of a run does; the first leaves `model/` and `metrics.parquet`. Raises as `run`."""
    source = job.inputs["checkpoint"].path / "model"
    problems = training_problems(from_table(job.inputs["problems"].table("problems")), config)
    tokenizer, model = load_tokenizer(source), load_policy(source)
    resume = newest_checkpoint(job.state / "trainer")
    engine = _engine_name(config)
    with _pool(config) as pool, EarlyVerifier(pool) as verifier:
        rates = pass_rates(problems, config, source, verifier, job.state / "pass-rates.json")
        prompts = Prompts.of(problems, config, tokenizer, rates)
        _check_lengths(prompts, config, model)
        check_memory(model, config, prompts.longest)
        reward = RecordedReward(
            config, problems, _reward_function(config, verifier, job), RewardHealth(),
            job.state / "samples", job.inputs["checkpoint"].ref.digest, engine,
            end_token_ids(model, tokenizer), process_number(),
        )  # fmt: skip
        trainer = build_trainer(config, job.state / "trainer", model, tokenizer, prompts, reward, verifier)
        _watch_server(trainer, config, job)
        _name_run(trainer, job)
        health = HealthCallback(config.mismatch_limit)
        trainer.add_callback(health)
        trainer.add_callback(JobCallback(job, _SHOWN, config.mini_batches_per_rollout))
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    raise_if_stopped(job, trainer.state)
    _leave(trainer, tokenizer, config, job)
    if trainer.accelerator.is_main_process:
        job.summary(**_headline(config, trainer.state.log_history), health=health.lines())


def _name_run(trainer: GroupTrainer, job: Job) -> None:
    """For `report_to`; TensorBoard's files go beside the work folder, which publication removes."""
    trainer.args.run_name = f"{job.node}-{job.folder.name[:12]}"
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(job.work_root / "tensorboard" / trainer.args.run_name)


def _watch_server(trainer: GroupTrainer, config: RLConfig, job: Job) -> None:
    if config.engine.name == "vllm-server" and trainer.accelerator.is_main_process:
        trainer.watch_server(ServerWatch(config.engine.server_url, lost_note(job)))


def _leave(trainer: GroupTrainer, tokenizer: PreTrainedTokenizerBase, config: RLConfig, job: Job) -> None:
    """The trained model, adapters merged, and the metrics; every process takes part in gathering weights."""
    log, best = trainer.state.log_history, None
    if config.publish == "best":
        best = best_checkpoint(job.state / "trainer", log)
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


@dataclass(frozen=True)
class Prompts:
    """The problems as prompts, and the order in which they are asked."""

    texts: list[str]
    tokens: list[int]
    order: list[list[int]]
    """A step's problems (indices), as `prompt_schedule`."""
    stages: list[Stage]
    seed: int

    @classmethod
    def of(
        cls, problems: Sequence[Problem], config: RLConfig, tokenizer: PreTrainedTokenizerBase,
        rates: Sequence[float] | None = None,
    ) -> Prompts:  # fmt: skip
        texts = [render_prompt(config.template, p.prompt) for p in problems]
        tokens = [len(ids) for ids in tokenizer(texts)["input_ids"]]
        order = prompt_schedule(problems, config, rates)
        return cls(texts, tokens, order, curriculum_stages(problems, config, rates), config.seed)

    @property
    def longest(self) -> int:
        """Tokens."""
        return max(self.tokens)

    def row(self, problem: int) -> dict[str, Any]:
        return {
            "prompt": self.texts[problem],
            "problem": problem,
            "prompt_tokens": self.tokens[problem],
        }

    def dataset(self, mini_batches: int) -> Dataset:
        """The rows in order: columns prompt, problem (index), prompt_tokens.

        The last rollout is filled up with the first step's prompts where `mini_batches` does not divide the
        steps; what is drawn for them beyond the last step is not trained on.
        """
        missing = -len(self.order) % mini_batches
        return Dataset.from_list(
            [self.row(i) for step in self.order + self.order[:1] * missing for i in step]
        )

    def fresh(self, step: int, draw: int, process: int, count: int) -> list[dict[str, Any]]:
        """Rows for groups to be drawn again."""
        chosen = refill_problems(self.stages, self.seed, step, draw, process, count)
        return [self.row(i) for i in chosen]


def build_trainer(
    config: RLConfig, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
    prompts: Prompts, reward: Callable[..., list[float | None]], verifier: EarlyVerifier | None = None,
) -> GroupTrainer:  # fmt: skip
    """The trainer, its checkpoints in `folder`; nothing runs yet, a vLLM server is waited for."""
    stay_on_loopback(config.engine.server_url)
    trainer = GroupTrainer(
        model=model,
        reward_funcs=reward,
        args=grpo_arguments(config, folder, model.num_parameters(), prompts.longest),
        train_dataset=prompts.dataset(config.mini_batches_per_rollout),
        processing_class=tokenizer,
        peft_config=_adapters(config),
        callbacks=[SealCheckpoints(keep_best=config.publish == "best")],
        micro_batch_size=config.micro_batch_size,
        decode_batch=config.engine.batch_size,
        length_at=lambda step: max_completion_length(config, step),
        skip_idle=config.skip_zero_advantage or config.kl_coef == 0,
        refill_rounds=config.refill_rounds,
        fresh_rows=prompts.fresh,
        on_written=reward.early(verifier) if verifier else None,
        mismatch_limit=config.mismatch_limit,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _adapters(config: RLConfig) -> LoraConfig | None:
    if config.lora is None:
        return None
    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        target_modules=config.lora.targets,
        task_type="CAUSAL_LM",
    )


def grpo_arguments(config: RLConfig, folder: Path, parameters: int, longest_prompt: int) -> GRPOConfig:
    """The settings as TRL's arguments; see the table above."""
    per_rollout = config.mini_batches_per_rollout
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size // config.launch.processes,
        gradient_accumulation_steps=1,
        steps_per_generation=per_rollout,
        num_generations=config.group_size,
        num_iterations=1,
        max_completion_length=_longest_completion(config),
        temperature=config.temperature,
        top_p=1.0,
        top_k=0,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        loss_type=config.loss,
        scale_rewards="none" if config.loss == "dr_grpo" else "group",
        beta=config.kl_coef,
        use_bias_correction_kl=False,
        epsilon=config.clip_epsilon,
        epsilon_high=config.clip_epsilon,
        sync_ref_model=config.kl_coef > 0 and config.lora is None,
        ref_model_mixup_alpha=1.0,
        ref_model_sync_steps=config.reference_sync_steps,
        disable_dropout=True,
        gradient_checkpointing=parameters >= CHECKPOINTING_FROM,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        shuffle_dataset=False,
        logging_steps=1,
        save_steps=-(-config.checkpoint_every // per_rollout) * per_rollout,
        save_total_limit=config.keep_checkpoints,
        report_to=list(config.report_to),
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        **sharding_arguments(config.launch),
        **_vllm_arguments(config, longest_prompt),
    )


def _vllm_arguments(config: RLConfig, longest_prompt: int) -> dict[str, object]:
    if config.engine.name == "transformers":
        return {"use_vllm": False}
    server = {"vllm_mode": "server", "vllm_server_base_url": config.engine.server_url}
    colocated = {
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": config.engine.gpu_memory_share,
        "vllm_max_model_length": longest_prompt + _longest_completion(config),
    }
    return {"use_vllm": True, **(server if config.engine.name == "vllm-server" else colocated)}


def _longest_completion(config: RLConfig) -> int:
    return max([config.max_completion_length, *(s.max_completion_length for s in config.length_schedule)])


def _check_lengths(prompts: Prompts, config: RLConfig, model: PreTrainedModel) -> None:
    longest, room = prompts.longest, model.config.max_position_embeddings
    if longest + _longest_completion(config) > room:
        raise ValueError(
            f"a prompt of {longest} tokens and a completion of {_longest_completion(config)} do not fit the "
            f"model's {room} positions: lower max_completion_length to {room - longest} or less"
        )


def _pool(config: RLConfig) -> VerifierPool:
    return VerifierPool(partial_credit=config.partial_credit, allow_weak_sandbox=config.allow_weak_sandbox)


def _reward_function(config: RLConfig, verifier: EarlyVerifier, job: Job) -> RewardFunction:
    return RewardFunction(
        config.rewards, verifier, _scorers(job, config), config.repetition_ngram, config.overlength_buffer
    )


def _scorers(job: Job, config: RLConfig) -> dict:
    wanted = {term.name for term in config.rewards} & {"helpful", "safety"}
    if not wanted:
        return {}
    if "reward_models" not in job.inputs:
        raise ValueError(
            f"rewards {', '.join(sorted(wanted))} need the input reward_models, which stage {job.stage} "
            "does not have: use final-rl, or leave them out"
        )
    from tasks.rewards.preference_models import preference_scorers

    return preference_scorers(job.inputs["reward_models"].path, config.template)


def _engine_name(config: RLConfig) -> str:
    """Name and version of what samples.

    Raises:
        ValueError: the preset asks for vLLM and it is not installed.
    """
    package = "transformers" if config.engine.name == "transformers" else "vllm"
    try:
        return f"{config.engine.name} {metadata.version(package)}"
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            f"engine.name {config.engine.name} needs vLLM, which is not installed: pip install "
            "'r1-pipeline[gpu]' on a GPU machine, or set engine.name to transformers"
        ) from error
