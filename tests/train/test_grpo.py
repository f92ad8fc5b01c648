"""The trainer against the paper's equations, and against TRL's own whole-batch step."""

import copy

import numpy as np
import pytest
import torch
from trl import GRPOTrainer

from tasks.config import RLConfig
from tasks.problems.problem import Problem
from tasks.train.models import load_policy, load_tokenizer
from tasks.train.rl import Prompts, build_trainer, grpo_arguments
from tests.train import grpo_reference

QUESTIONS = [Problem(f"q{i}", "math", "en", f"what is {'1 + ' * i}2?", "", "math") for i in range(4)]
CONFIG = RLConfig(
    template="plain", steps=1, group_size=4, questions_per_step=4, mini_batches_per_rollout=1,
    micro_batch_size=4, learning_rate=1e-3, kl_coef=0.5, clip_epsilon=0.2, max_completion_length=12,
)  # fmt: skip
ENDS = list(range(10, 22))
"""Several words that end a completion, so that a random model's completions differ in length."""


def count_of_commas(completions, **_):
    """A reward that varies: anything will do here."""
    return [float(text.count(",") + 0.1 * len(text)) for text in completions]


@pytest.fixture
def trainer(tiny_model, tmp_path):
    """Set up, with a reference that differs from the policy."""
    trainer = build(CONFIG, tiny_model, tmp_path)
    torch.manual_seed(1)
    for parameter in trainer.ref_model.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    return trainer


def build(config, folder, path, reward=count_of_commas):
    tokenizer, model = load_tokenizer(folder), load_policy(folder)
    made = build_trainer(
        config, path, model, tokenizer, Prompts.of(QUESTIONS, config, tokenizer), reward
    )
    made.eos_token_ids = ENDS
    made.create_optimizer()
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def rollout(trainer):
    rows = [trainer.train_dataset[i] for i in range(len(QUESTIONS)) for _ in range(CONFIG.group_size)]
    return trainer._generate_and_score_completions(rows)


def sequences(batch) -> list[tuple[list[int], list[int]]]:
    return [
        (p[pm.bool()].tolist(), c[cm.bool()].tolist())
        for p, pm, c, cm in zip(
            batch["prompt_ids"], batch["prompt_mask"], batch["completion_ids"], batch["completion_mask"],
            strict=True,
        )
    ]  # fmt: skip


def scored(model, batch) -> list[np.ndarray]:
    return [grpo_reference.log_probabilities(model, p, c, CONFIG.temperature) for p, c in sequences(batch)]


def test_advantages_are_the_papers(trainer):
    batch = rollout(trainer)
    assert len(set(batch["completion_mask"].sum(dim=1).tolist())) > 3
    texts = trainer.processing_class.batch_decode([c for _, c in sequences(batch)], skip_special_tokens=True)
    rewards = np.array(count_of_commas(texts)).reshape(4, 4)
    expected = grpo_reference.advantages(rewards).ravel()
    np.testing.assert_allclose(batch["advantages"].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_reference_log_probabilities_are_the_reference_models(trainer):
    batch = rollout(trainer)
    for row, expected in zip(batch["ref_per_token_logps"], scored(trainer.ref_model, batch), strict=True):
        np.testing.assert_allclose(row[: len(expected)].numpy(), expected, atol=2e-5)


def test_the_loss_on_policy_is_the_papers(trainer):
    batch = rollout(trainer)
    policy = scored(trainer.model, batch)
    expected = grpo_reference.loss(
        policy, policy, scored(trainer.ref_model, batch), batch["advantages"].numpy(), 0.2, 0.5
    )
    assert step_loss(trainer, batch) == pytest.approx(expected, abs=1e-5)
    logged = trainer._metrics["train"]
    kl = np.concatenate(
        [grpo_reference.kl(*x) for x in zip(policy, scored(trainer.ref_model, batch), strict=True)]
    )
    assert logged["kl"] == [pytest.approx(kl.mean(), rel=1e-3)]


def test_the_loss_off_policy_clips_the_ratio(trainer):
    """The second mini-batch of a rollout: the policy has moved since it sampled."""
    batch = rollout(trainer)
    old = scored(trainer.model, batch)
    batch["old_per_token_logps"] = torch.zeros(batch["completion_ids"].shape)
    for row, values in zip(batch["old_per_token_logps"], old, strict=True):
        row[: len(values)] = torch.from_numpy(values)
    torch.manual_seed(2)
    for parameter in trainer.model.parameters():
        parameter.data += 0.03 * torch.randn_like(parameter)
    policy = scored(trainer.model, batch)
    ratios = np.exp(np.concatenate(policy) - np.concatenate(old))
    assert (ratios > 1.2).any()
    assert (ratios < 0.8).any()
    expected = grpo_reference.loss(
        policy, old, scored(trainer.ref_model, batch), batch["advantages"].numpy(), 0.2, 0.5
    )
    assert step_loss(trainer, batch) == pytest.approx(expected, abs=1e-5)
    assert trainer._metrics["train"]["clip_ratio/region_mean"][0] > 0


def test_micro_batches_add_up_to_trls_whole_batch(trainer):
    """Length-sorted, trimmed micro-batches leave the gradients of TRL's own step on the whole batch."""
    batch = rollout(trainer)
    plain = copy.deepcopy(trainer.model)
    step_loss(trainer, batch)
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    GRPOTrainer._compute_loss(trainer, trainer.model, batch).backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), trainer.model.parameters(), strict=True))


def step_loss(trainer, batch) -> float:
    """The loss of one update on a rollout that is already there."""
    trainer._prepare_inputs = lambda _: batch
    return trainer.training_step(trainer.model, None).item()


def test_a_rollout_repeats_for_the_same_step(tiny_model, tmp_path):
    first, second = (sequences(rollout(build(CONFIG, tiny_model, tmp_path / str(i)))) for i in range(2))
    assert first == second


def test_published_settings_reach_trl(tmp_path):
    """The paper's R1 stage 1: 8,192 outputs in 16 mini-batches of 512, KL 0.001, clip 10, sync every 400."""
    arguments = grpo_arguments(RLConfig(), tmp_path, parameters=10**12, longest_prompt=500)
    assert arguments.generation_batch_size == 8_192
    assert (arguments.steps_per_generation, arguments.num_generations) == (16, 16)
    assert (arguments.beta, arguments.epsilon, arguments.epsilon_high) == (0.001, 10.0, 10.0)
    assert (arguments.ref_model_mixup_alpha, arguments.ref_model_sync_steps) == (1.0, 400)
    assert (arguments.temperature, arguments.top_p, arguments.top_k) == (1.0, 1.0, 0)
    assert arguments.learning_rate == 3e-6
    assert arguments.save_steps % 16 == 0
    assert arguments.gradient_checkpointing
