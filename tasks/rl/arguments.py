"""How the published settings reach TRL 1.16.0; what TRL lacks, `GroupTrainer` reads from the same `RLConfig`.

    group size G                       num_generations
    512 outputs an update              per_device_train_batch_size (one update, micro-batched by GroupTrainer)
    8,192 outputs -> 16 mini-batches   steps_per_generation, one inner epoch (num_iterations 1), random split
    reference := policy every 400      sync_ref_model, ref_model_mixup_alpha 1.0, ref_model_sync_steps
    KL coefficient 0.001               beta (above 0, TRL keeps a reference)
    temperature, no top-p or top-k     temperature, top_p 1, top_k 0 (a cut would bias the ratios)
    advantages, clipping, loss         not TRL's: `tasks.rl.objective`, called by `GroupTrainer`
    rollouts                           the engine of `tasks.rollout`, never TRL (also not with vLLM)

Two of TRL's defaults are not the paper's and are set here: its reference moves by 0.6 every 512 steps, and it
shuffles the prompts itself. Not published and chosen here: AdamW without weight decay, gradients clipped at
norm 1, constant learning rate.
"""

from __future__ import annotations

from pathlib import Path

import torch
from trl import GRPOConfig

from tasks.rl.stage import RLConfig
from tasks.training.launching import sharding_arguments


def grpo_arguments(config: RLConfig, folder: Path, recompute: bool) -> GRPOConfig:
    """The settings as TRL's arguments; checkpoints go to `folder`. With `recompute` each layer has its
    activations recomputed around it."""
    per_rollout = config.mini_batches_per_rollout
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size // config.launch.processes,
        gradient_accumulation_steps=1,
        steps_per_generation=per_rollout,
        num_generations=config.group_size,
        num_iterations=1,
        max_completion_length=config.longest_completion,
        temperature=config.temperature,
        top_p=1.0,
        top_k=0,
        use_vllm=False,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.warmup_steps,
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=config.kl_coef,
        sync_ref_model=config.kl_coef > 0 and config.lora is None,
        ref_model_mixup_alpha=1.0,
        ref_model_sync_steps=config.reference_sync_steps,
        disable_dropout=True,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        shuffle_dataset=False,
        logging_steps=1,
        # A rollout in the middle of its mini-batches is no place to resume from.
        save_steps=-(-config.checkpoint_every // per_rollout) * per_rollout,
        save_total_limit=2,  # a kill while one is written leaves the one before
        report_to=list(config.report_to),
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        **sharding_arguments(config.launch, recompute),
    )
