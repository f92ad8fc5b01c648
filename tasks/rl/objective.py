"""The objective of GRPO (paper Eq. 1 to 3; arXiv 2501.12948v2 section 2.1 and Eq. 11 to 13).

    A_i   = (r_i - mean(r)) / std(r)                                Eq. 3, over the G outputs of a question
    rho_t = pi(o_t) / pi_old(o_t)                                   Eq. 1
    KL_t  = pi_ref(o_t) / pi(o_t) - log(pi_ref(o_t) / pi(o_t)) - 1  Eq. 2, at least 0, zero if equal
    J     = 1/G sum_i 1/|o_i| sum_t [ min(rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i) - beta KL_t ]

The loss is -J. What differs from the paper: 1e-4 is added to the standard deviation (with n - 1), so that a
group of equal rewards gets advantages of 0; a reward that is no number counts nowhere; the ratio is taken per
token, as published code and TRL do, where Eq. 1 prints it per output. `dapo` and `dr_grpo` weigh the tokens
otherwise.

Everything per token lies on one flat axis of T tokens with the response that each belongs to, so padded,
packed and prefix-shared layouts call the same functions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tokens:
    """The completion tokens of R responses: a whole policy update or a micro-batch of it."""

    policy: torch.Tensor
    """(T,) log pi(o_t); the gradient flows through it."""
    old: torch.Tensor
    """(T,) log pi_old(o_t): the policy that the responses were drawn from."""
    reference: torch.Tensor | None
    """(T,) log pi_ref(o_t); None where beta is 0."""
    advantages: torch.Tensor
    """(R,)"""
    response: torch.Tensor
    """(T,) integers 0 .. R-1: the response of each token."""

    @property
    def lengths(self) -> torch.Tensor:
        """(R,) tokens of each response. (`bincount` would wait for the GPU.)"""
        ones = self.advantages.new_ones(len(self.response))
        return torch.zeros_like(self.advantages).index_add(0, self.response, ones)


@dataclass(frozen=True)
class Update:
    """What a loss needs to know of the whole policy update that its tokens are part of."""

    responses: int
    """Number of responses in it (in this process)."""
    tokens: float
    """Number of their tokens (mean over the processes)."""
    length_limit: int
    epsilon: float
    beta: float


Loss = Callable[[Tokens, Update], torch.Tensor]
"""Returns these tokens' share of the loss, a scalar; the shares of an update's micro-batches add up to it."""


def advantages(rewards: torch.Tensor, scaled: bool = True) -> torch.Tensor:
    """Eq. 3: rewards (questions, G) to advantages (questions, G). NaN rewards count nowhere and get 0."""
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    known = (~rewards.isnan()).sum(dim=1, keepdim=True)
    variance = centred.square().nanmean(dim=1, keepdim=True) * (known / (known - 1))
    return (centred / (variance.sqrt() + 1e-4) if scaled else centred).nan_to_num(nan=0.0)


def ratio(tokens: Tokens) -> torch.Tensor:
    """(T,) rho_t of Eq. 1."""
    return (tokens.policy - tokens.old).exp()


def kl(policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(T,) Eq. 2, from log-probabilities (T,): unbiased and never negative."""
    log_ratio = reference - policy
    return log_ratio.exp() - log_ratio - 1


def clipped(tokens: Tokens, epsilon: float) -> torch.Tensor:
    """(T,) booleans: the clipped ratio is the smaller term, so the token has no gradient but the KL's."""
    rho, advantage = ratio(tokens), tokens.advantages[tokens.response]
    return ((rho < 1 - epsilon) & (advantage < 0)) | ((rho > 1 + epsilon) & (advantage > 0))


def token_losses(tokens: Tokens, update: Update) -> torch.Tensor:
    """(T,) minus the bracket of Eq. 1."""
    rho, advantage = ratio(tokens), tokens.advantages[tokens.response]
    bounded = rho.clamp(1 - update.epsilon, 1 + update.epsilon)
    losses = -torch.min(rho * advantage, bounded * advantage)
    if tokens.reference is not None:
        losses = losses + update.beta * kl(tokens.policy, tokens.reference)
    return losses


def grpo(tokens: Tokens, update: Update) -> torch.Tensor:
    """Eq. 1: mean over a response's tokens, then over the responses."""
    return (token_losses(tokens, update) / tokens.lengths[tokens.response]).sum() / update.responses


def dapo(tokens: Tokens, update: Update) -> torch.Tensor:
    """Mean over all tokens of the update: long responses weigh more (DAPO, arXiv 2503.14476)."""
    return token_losses(tokens, update).sum() / update.tokens


def dr_grpo(tokens: Tokens, update: Update) -> torch.Tensor:
    """A response's sum over the length limit; its advantages are not scaled (Dr. GRPO, arXiv 2503.20783)."""
    return token_losses(tokens, update).sum() / (update.responses * update.length_limit)


LOSSES: dict[str, Loss] = {"grpo": grpo, "dapo": dapo, "dr_grpo": dr_grpo}
"""Keep the names in step with `tasks.rl.stage.LOSSES`."""


def loss_named(name: str) -> Loss:
    """One of `LOSSES`, or what an import path `module:function` names."""
    if name in LOSSES:
        return LOSSES[name]
    module, _, function = name.partition(":")
    loss: Loss = getattr(importlib.import_module(module), function)
    return loss
