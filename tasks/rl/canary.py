"""The start-up canary: does the sampler sample from the weights that the trainer trains?

A weight is changed, the sampler is given the new weights, and draws a few tokens; the trainer scores them
with the changed weight and with the old one. A sampler that kept its old weights agrees with the latter.
Then the weight is put back, and the sampler draws once more: one that computes something else than the
trainer (another attention, mask or temperature) does not agree. This is not read off the changed model: a
weight of twice its size makes logits so large that rounding alone, in bfloat16, comes to 0.1 nats a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from tasks.rollout.engine import Completion

PROMPTS, TOKENS = 4, 16
_SCALE, _SHIFT = 2.0, 0.05


@dataclass(frozen=True)
class Canary:
    """Mean differences of log-probabilities, in nats a token."""

    mismatch: float
    """Between the sampler and the trainer."""
    changed: float
    """The same with the changed weight on both sides."""
    stale: float
    """Between the sampler with the changed weight and the trainer with the weight as it is."""

    def complaint(self, limit: float) -> str:
        """Why training must not start; empty where it may."""
        if self.stale < self.changed:
            gap, cause = self.changed, f"it did not take the new weights (old ones: {self.stale:.4f})"
        elif self.mismatch > limit:
            gap = self.mismatch
            cause = f"more than mismatch_limit {limit:g}: it computes something else than the trainer"
        else:
            return ""
        return (
            f"the sampler's log-probabilities differ from the trainer's by {gap:.4f} a token, {cause}; check "
            "the engine's version and precision, or set engine.name to transformers"
        )


def measure(
    model: torch.nn.Module,
    prompts: list[list[int]],
    give_weights: Callable[[], None],
    sample: Callable[[list[list[int]]], list[Completion]],
    score: Callable[[list[list[int]], list[list[int]]], list[list[float]]],
) -> Canary:
    """Tries a few of the prompts. Afterwards model and sampler are as before.

    `sample` draws `TOKENS` tokens with log-probabilities; `score` gives the trainer's for the same tokens.
    """
    few = prompts[:: max(1, len(prompts) // PROMPTS)][:PROMPTS]

    def drawn() -> tuple[list[list[int]], list[list[float]]]:
        give_weights()
        done = sample(few)
        return [c.tokens for c in done], [c.logprobs or [] for c in done]

    with changed_weight(model):
        tokens, theirs = drawn()
        changed = mean_gap(theirs, score(few, tokens))
    stale = mean_gap(theirs, score(few, tokens))
    tokens, theirs = drawn()
    return Canary(mean_gap(theirs, score(few, tokens)), changed, stale)


@contextmanager
def changed_weight(model: torch.nn.Module) -> Iterator[None]:
    """The last trainable matrix of the model scaled (shifted where it is zero), then put back exactly."""
    weight = [p for p in model.parameters() if p.requires_grad and p.ndim > 1][-1]
    before = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(_SCALE).add_((before == 0) * _SHIFT)
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)


def mean_gap(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Mean absolute difference over all tokens; tokens that either could not score (NaN) left out."""
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    gaps = [abs(a - b) for a, b in pairs if a == a and b == b]
    return sum(gaps) / len(gaps) if gaps else float("nan")
