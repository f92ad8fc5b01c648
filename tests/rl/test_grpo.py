"""The trainer against the paper's equations, and against TRL's own whole-batch step."""

import copy
import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trl import GRPOTrainer

from tasks.problem import Problem
from tasks.rl import objective
from tasks.rl.arguments import grpo_arguments
from tasks.rl.canary import Canary
from tasks.rl.prompts import Prompts
from tasks.rl.stage import RLConfig
from tasks.rl.train import build_trainer
from tasks.rl.trainer import GroupTrainer
from tasks.rollout.engines import ENGINES, EngineEntry
from tasks.rollout.engines.transformers import TransformersEngine
from tasks.rollout.settings import EngineSettings
from tasks.tokenizer import load_tokenizer
from tasks.training.models import load_policy
from tests.rl import grpo_reference

QUESTIONS = [Problem(f"q{i}", "math", "en", f"what is {'1 + ' * i}2?", "", "math") for i in range(4)]
CONFIG = RLConfig(
    template="plain", steps=1, group_size=4, questions_per_step=4, mini_batches_per_rollout=1,
    micro_batch_tokens=128, learning_rate=1e-3, kl_coef=0.5, clip_epsilon=0.2, max_completion_length=12,
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


def build(config, folder, path, reward=count_of_commas, **kwargs):
    tokenizer, model = load_tokenizer(folder), load_policy(folder)
    model.generation_config.eos_token_id = ENDS
    prompts = Prompts.of(QUESTIONS, config, tokenizer)
    made = build_trainer(config, path, folder, model, tokenizer, prompts, reward, **kwargs)
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
    texts = trainer.codec.texts(c for _, c in sequences(batch))
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


@pytest.mark.parametrize("at_once", [1, 2])
def test_packs_add_up_to_trls_whole_batch(trainer, at_once, request):
    """Packs in which a prompt stands once leave the gradients of TRL's own step on the padded batch."""
    if at_once == 2:
        request.getfixturevalue("one_thread")
    batch = rollout(trainer)
    plain = copy.deepcopy(trainer.model)
    step_loss(trainer, batch)
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    trls_loss(trainer, batch).backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), trainer.model.parameters(), strict=True))


class Waits(TorchDispatchMode):
    """Notes operators whose result's size or value the processor needs, so that it waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masked or name in ("nonzero", "bincount", "masked_select", "_local_scalar_dense"):
            self.noted.append(name)
        return operator(*args, **(kwargs or {}))


def test_between_the_packs_of_an_update_nothing_waits_for_a_gpu(trainer, monkeypatch):
    """On a GPU TRL's head waits all the same, as it picks the labelled positions by a mask there."""
    batch, waits, backward = rollout(trainer), Waits(), trainer._backward

    def noted(*given):
        with waits:
            return backward(*given)

    monkeypatch.setattr("tasks.rl.trainer.parts_at_once", lambda: 1)
    monkeypatch.setattr(trainer, "_backward", noted)
    step_loss(trainer, batch)
    assert waits.noted == []


def trls_loss(trainer, batch) -> torch.Tensor:
    """TRL's own loss of the whole batch, with the settings that our objective has."""
    trainer.loss_type, trainer.epsilon_low = trainer.config.loss, trainer.config.clip_epsilon
    trainer.epsilon_high, trainer.args.use_bias_correction_kl = trainer.config.clip_epsilon, False
    plainly = GRPOTrainer._get_per_token_logps_and_entropies
    with mock.patch.object(GroupTrainer, "_get_per_token_logps_and_entropies", plainly):
        return GRPOTrainer._compute_loss(trainer, trainer.model, batch)


def step_loss(trainer, batch) -> float:
    """The loss of one update on a rollout that is already there."""
    trainer._prepare_inputs = lambda _: batch
    return trainer.training_step(trainer.model, None).item()


def test_a_rollout_repeats_for_the_same_step(tiny_model, tmp_path):
    first, second = (sequences(rollout(build(CONFIG, tiny_model, tmp_path / str(i)))) for i in range(2))
    assert first == second


# ---- groups without spread, rewards without a number ------------------------------------------


def one_group_agrees(completions, problem, **_):
    """Problem 1's outputs all get 0.3; of problem 2's one has no reward."""
    rewards = [float(len(text)) for text in completions]
    agreed = [0.3 if p == 1 else r for p, r in zip(problem, rewards, strict=True)]
    first = problem.index(2) if 2 in problem else -1  # groups lie together
    return [float("nan") if i == first else r for i, r in enumerate(agreed)]


def group_of(trainer, problem: int) -> slice:
    """Its rows in a rollout."""
    place = trainer.train_dataset["problem"].index(problem)
    return slice(4 * place, 4 * place + 4)


def test_a_reward_that_is_no_number_counts_nowhere(tiny_model, tmp_path):
    trainer = build(CONFIG, tiny_model, tmp_path, one_group_agrees)
    batch = rollout(trainer)
    texts = trainer.codec.texts(c for _, c in sequences(batch))
    advantages, group = batch["advantages"].numpy(), group_of(trainer, 2)
    others = np.array([[float(len(t)) for t in texts[group][1:]]])
    expected = [0.0, *grpo_reference.advantages(others)[0]]
    np.testing.assert_allclose(advantages[group], expected, rtol=1e-4, atol=1e-5)
    assert [i for i, idle in enumerate(batch["idle"].tolist()) if idle] == list(range(16))[
        group_of(trainer, 1)
    ]


def test_groups_without_spread_cost_no_pass_and_leave_the_gradient(tiny_model, tmp_path):
    """Without a KL term; with one their KL gradient is what is lost."""
    config = CONFIG.model_copy(update={"kl_coef": 0.0})
    trainer = build(config, tiny_model, tmp_path, one_group_agrees)
    batch = rollout(trainer)
    kept = trainer._kept(batch).tolist()
    assert set(range(16)) - set(kept) == set(range(16)[group_of(trainer, 1)])
    step_loss(trainer, batch)
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    trainer._skip_idle = False
    step_loss(trainer, batch)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_the_reference_scores_only_groups_with_spread(tiny_model, tmp_path):
    config = CONFIG.model_copy(update={"skip_zero_advantage": True})
    trainer = build(config, tiny_model, tmp_path, one_group_agrees)
    batch = rollout(trainer)
    assert not batch["ref_per_token_logps"].any()
    step_loss(trainer, batch)
    expected = scored(trainer.ref_model, batch)
    for row in trainer._kept(batch).tolist():
        found = batch["ref_per_token_logps"][row][: len(expected[row])]
        np.testing.assert_allclose(found, expected[row], atol=1e-4, rtol=1e-4)
    assert not batch["ref_per_token_logps"][group_of(trainer, 1)].any()


@pytest.mark.parametrize("rounds", [0, 3])
def test_groups_without_spread_are_drawn_again_at_most_so_often(tiny_model, tmp_path, rounds):
    config = CONFIG.model_copy(update={"refill_rounds": rounds})
    trainer = build(config, tiny_model, tmp_path, one_group_agrees)
    batch = rollout(trainer)
    idle = batch["idle"].reshape(4, 4)[:, 0]
    logged = trainer._metrics["train"]
    assert idle.any() == (rounds == 0)
    assert len(batch["advantages"]) == 16
    assert logged["r1/rollouts"][0] == 1 if rounds == 0 else 1 < logged["r1/rollouts"][0] <= 4
    assert float(batch["num_items_in_batch"]) == float(batch["completion_mask"].sum())
    expected = scored(trainer.ref_model, batch)
    for row, values in zip(batch["ref_per_token_logps"], expected, strict=True):
        np.testing.assert_allclose(row[: len(values)].numpy(), values, atol=2e-5)


def test_refilling_gives_up_after_its_rounds(tiny_model, tmp_path):
    config = CONFIG.model_copy(update={"refill_rounds": 2})
    trainer = build(config, tiny_model, tmp_path, lambda completions, **_: [1.0] * len(completions))
    batch = rollout(trainer)
    assert batch["idle"].all()
    assert trainer._metrics["train"]["r1/rollouts"] == [3.0]


@pytest.mark.parametrize("loss", ["dapo", "dr_grpo"])
def test_other_losses_are_trls_own_on_the_whole_batch(tiny_model, tmp_path, loss):
    trainer = build(CONFIG.model_copy(update={"loss": loss}), tiny_model, tmp_path)
    batch = rollout(trainer)
    ours = step_loss(trainer, batch)
    gradients = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    whole = trls_loss(trainer, batch)
    whole.backward()
    assert ours == pytest.approx(whole.item(), abs=1e-6)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-4)
    if loss == "dr_grpo":
        rewards = batch["advantages"].reshape(4, 4)
        assert rewards.abs().max() > 2


def ten_times(tokens, update):
    return 10 * objective.grpo(tokens, update)


def test_a_loss_of_ones_own_trains(tiny_model, tmp_path):
    gradients = []
    for number, name in enumerate(("grpo", f"{__name__}:ten_times")):
        trainer = build(CONFIG.model_copy(update={"loss": name}), tiny_model, tmp_path / str(number))
        step_loss(trainer, rollout(trainer))
        gradients.append(trainer.model.get_input_embeddings().weight.grad)
    torch.testing.assert_close(gradients[1], 10 * gradients[0], atol=1e-6, rtol=1e-4)


# ---- the sampler ------------------------------------------------------------------------------


def test_the_canary_passes_and_leaves_the_weights_alone(tiny_model, tmp_path):
    trainer = build(CONFIG, tiny_model, tmp_path)
    before = copy.deepcopy(trainer.model.state_dict())
    batch = rollout(trainer)
    logged = trainer._metrics["train"]
    assert logged["r1/canary_mismatch"][0] < 1e-4
    assert logged["r1/canary_stale"][0] > 5e-3
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    step_loss(trainer, batch)
    assert 0 <= trainer._metrics["train"]["r1/sampler_mismatch"][0] < 1e-4


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (Canary(mismatch=0.01, changed=0.11, stale=7.6), ""),  # SmolLM2 in bfloat16, on a GPU
        (Canary(mismatch=0.01, changed=3.1, stale=0.02), "did not take the new weights"),
        (Canary(mismatch=0.2, changed=0.3, stale=7.6), "computes something else than the trainer"),
    ],
)
def test_the_canary_complains_of_what_differs_beyond_rounding(found, complaint):
    assert complaint in found.complaint(0.1)
    assert bool(complaint) == bool(found.complaint(0.1))


class Copying(TransformersEngine):
    """Samples from a copy of its own, as an engine in another process does."""

    def __init__(self, settings, model):
        super().__init__(settings, dataclasses.replace(model, policy=None))


class Stale(Copying):
    """Loses the weights that it is given."""

    def load(self, weights):
        pass


class Cooler(Copying):
    """Draws at another temperature than it is asked for."""

    def generate(self, prompts, sampling, seeds, logprobs=False):
        return super().generate(
            prompts, sampling.model_copy(update={"temperature": 0.5}), seeds, logprobs=logprobs
        )


@pytest.fixture
def engine_of(monkeypatch):
    """Registers a class of this module and returns settings that use it."""

    def use(name):
        monkeypatch.setitem(ENGINES, name.lower(), EngineEntry(f"{__name__}:{name}", free_logprobs=True))
        return CONFIG.model_copy(update={"engine": EngineSettings(name=name.lower())})

    return use


def test_an_engine_with_a_copy_draws_what_the_policy_draws_after_an_update(tiny_model, tmp_path, engine_of):
    drawn = []
    for number, config in enumerate((CONFIG, engine_of("Copying"))):
        trainer = build(config, tiny_model, tmp_path / str(number))
        rollout(trainer)
        with torch.no_grad():
            trainer.model.get_input_embeddings().weight.add_(0.25)
        trainer.state.global_step = 1
        drawn.append(sequences(rollout(trainer)))
    assert drawn[0] == drawn[1]


def test_a_sampler_that_keeps_old_weights_is_refused(tiny_model, tmp_path, engine_of):
    with pytest.raises(RuntimeError, match="did not take the new weights"):
        rollout(build(engine_of("Stale"), tiny_model, tmp_path))


def test_a_sampler_at_another_temperature_is_refused(tiny_model, tmp_path, engine_of):
    with pytest.raises(RuntimeError, match="differ from the trainer's"):
        rollout(build(engine_of("Cooler"), tiny_model, tmp_path))


def test_log_probabilities_that_cost_are_asked_for_in_every_tenth_step(tiny_model, tmp_path, engine_of):
    config = engine_of("Copying")
    ENGINES["copying"] = dataclasses.replace(ENGINES["copying"], free_logprobs=False)
    trainer = build(config, tiny_model, tmp_path)
    for step in (0, 1, 10):
        trainer.state.global_step = step
        assert ("sampling_per_token_logps" in rollout(trainer)) == (step != 1)


def test_completions_are_told_as_they_end(tiny_model, tmp_path):
    told = []
    trainer = build(
        CONFIG, tiny_model, tmp_path,
        on_written=lambda rows, texts: told.extend(zip([r["problem"] for r in rows], texts, strict=True)),
    )  # fmt: skip
    batch = rollout(trainer)
    texts = trainer.codec.texts(c for _, c in sequences(batch))
    asked = trainer.train_dataset["problem"]
    expected = [(asked[i // 4], text) for i, text in enumerate(texts)]
    assert sorted(told) == sorted(expected)
    assert told != expected


def test_published_settings_reach_trl(tmp_path):
    """The paper's R1 stage 1: 8,192 outputs in 16 mini-batches of 512, KL 0.001, clip 10, sync every 400."""
    arguments = grpo_arguments(RLConfig(), tmp_path, recompute=True)
    assert arguments.generation_batch_size == 8_192
    assert (arguments.steps_per_generation, arguments.num_generations) == (16, 16)
    assert (arguments.beta, RLConfig().clip_epsilon) == (0.001, 10.0)
    assert (arguments.ref_model_mixup_alpha, arguments.ref_model_sync_steps) == (1.0, 400)
    assert (arguments.temperature, arguments.top_p, arguments.top_k) == (1.0, 1.0, 0)
    assert arguments.learning_rate == 3e-6
    assert arguments.save_steps % 16 == 0
    assert arguments.gradient_checkpointing


def test_the_reference_becomes_the_policy_at_step_400_and_not_at_399(tiny_model, tmp_path):
    trainer = build(RLConfig(template="plain"), tiny_model, tmp_path)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.add_(0.25)
    equal = []
    for step in (399, 400):
        trainer.state.global_step = step
        trainer.control = trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)
        pairs = zip(trainer.model.parameters(), trainer.ref_model.parameters(), strict=True)
        equal.append(all(torch.equal(ours, theirs) for ours, theirs in pairs))
    assert equal == [False, True]
