"""The objective against the equations in NumPy, and what must not change it."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tasks.rl import objective
from tasks.rl.stage import LOSSES, RLConfig
from tests.rl import grpo_reference

LENGTHS = [5, 1, 3, 8]
UPDATE = objective.Update(responses=4, tokens=17.0, length_limit=8, epsilon=0.2, beta=0.5)


@pytest.fixture
def rows():
    """Per response: log-probabilities of policy, old policy and reference; and the advantages."""
    rng = np.random.default_rng(0)
    logps = [[-rng.exponential(1, n) for n in LENGTHS] for _ in range(3)]
    return (*logps, rng.normal(size=4))


def flat(rows, order=None, chosen=(0, 1, 2, 3)) -> objective.Tokens:
    """The chosen responses on one axis, in any order of tokens."""
    *logps, advantages = rows
    parts = [torch.tensor(np.concatenate([of[i] for i in chosen])) for of in logps]
    response = torch.repeat_interleave(torch.arange(len(chosen)), torch.tensor([LENGTHS[i] for i in chosen]))
    if order is not None:
        parts, response = [p[order] for p in parts], response[order]
    return objective.Tokens(
        parts[0].requires_grad_(), *parts[1:], torch.tensor([advantages[i] for i in chosen]), response
    )


def test_advantages_are_equation_3():
    rewards = np.array([[1.0, 0.0, 0.0, 2.0], [0.5, 0.5, 0.5, 0.5], [3.0, 1.0, 2.0, 0.0]])
    found = objective.advantages(torch.tensor(rewards))
    np.testing.assert_allclose(found.numpy(), grpo_reference.advantages(rewards), atol=1e-12)
    assert not found[1].any()
    unscaled = objective.advantages(torch.tensor(rewards), scaled=False)
    np.testing.assert_allclose(unscaled.numpy(), rewards - rewards.mean(axis=1, keepdims=True))


def test_a_reward_that_is_no_number_counts_nowhere():
    found = objective.advantages(torch.tensor([[1.0, float("nan"), 0.0, 2.0], [float("nan")] * 4]))
    others = grpo_reference.advantages(np.array([[1.0, 0.0, 2.0]]))[0]
    np.testing.assert_allclose(found[0].numpy(), [others[0], 0, others[1], others[2]], rtol=1e-5)
    assert not found[1].any()


def test_the_loss_is_minus_equation_1(rows):
    policy, old, reference, advantages = rows
    expected = grpo_reference.loss(policy, old, reference, advantages, epsilon=0.2, beta=0.5)
    assert objective.grpo(flat(rows), UPDATE).item() == pytest.approx(expected, rel=1e-12)
    tokens = flat(rows)
    kl = np.concatenate([grpo_reference.kl(p, r) for p, r in zip(policy, reference, strict=True)])
    np.testing.assert_allclose(objective.kl(tokens.policy, tokens.reference).detach().numpy(), kl)
    rho = np.exp(np.concatenate(policy) - np.concatenate(old))
    a = np.repeat(advantages, LENGTHS)
    assert objective.clipped(tokens, 0.2).tolist() == (rho * a > np.clip(rho, 0.8, 1.2) * a).tolist()


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_tokens_and_micro_batches_do_not_matter(rows, name):
    """Padded, packed and prefix-shared layouts hold the same tokens in other orders."""
    loss = objective.LOSSES[name]
    whole = loss(flat(rows), UPDATE)
    shuffled = loss(flat(rows, order=torch.randperm(17, generator=torch.Generator().manual_seed(0))), UPDATE)
    parts = [loss(flat(rows, chosen=chosen), UPDATE) for chosen in ([1, 2], [0, 3])]
    assert shuffled.item() == pytest.approx(whole.item(), rel=1e-12)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_the_finite_differences(rows, name):
    tokens = flat(rows)
    objective.LOSSES[name](tokens, UPDATE).backward()
    policy, step = tokens.policy.detach(), 1e-6
    for t in range(len(policy)):
        shifted = []
        for sign in (1, -1):
            moved = policy.clone()
            moved[t] += sign * step
            moved_tokens = objective.Tokens(
                moved, tokens.old, tokens.reference, tokens.advantages, tokens.response
            )
            shifted.append(objective.LOSSES[name](moved_tokens, UPDATE).item())
        assert tokens.policy.grad[t].item() == pytest.approx((shifted[0] - shifted[1]) / (2 * step), abs=1e-6)


def test_the_names_that_a_preset_may_use_are_the_losses():
    assert tuple(objective.LOSSES) == LOSSES


def twice(tokens, update):
    """A loss of one's own."""
    return 2 * objective.grpo(tokens, update)


def test_a_loss_of_ones_own_is_checked_without_importing_it_and_found_by_its_path(rows):
    name = f"{__name__}:twice"
    assert RLConfig(loss=name).loss == name
    loss = objective.loss_named(name)
    assert loss(flat(rows), UPDATE).item() == pytest.approx(2 * objective.grpo(flat(rows), UPDATE).item())
    for wrong, reason in (
        ("gpro", "none of grpo, dapo, dr_grpo"),
        ("no_such_module:loss", "no module no_such_module"),
        ("no.such:loss", "no module no.such"),
        (f"{__name__}:thrice", "defines no function thrice"),
    ):
        with pytest.raises(ValidationError, match=reason):
            RLConfig(loss=wrong)
