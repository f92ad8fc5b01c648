"""GRPO from the paper's equations in NumPy: what the trainer is compared with (Eq. 1-3, 11-13)."""

from __future__ import annotations

import numpy as np


def advantages(rewards: np.ndarray) -> np.ndarray:
    """(questions, G) rewards -> (r - mean) / std of each group; TRL adds 1e-4 to the std and uses n - 1."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4)


def kl(policy: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Per-token estimate from log-probabilities: ref/policy - log(ref/policy) - 1."""
    ratio = np.exp(reference - policy)
    return ratio - np.log(ratio) - 1


def loss(
    policy: list[np.ndarray], old: list[np.ndarray], reference: list[np.ndarray],
    advantage: np.ndarray, epsilon: float, beta: float,
) -> float:  # fmt: skip
    """Minus the objective: responses' token log-probabilities in, each response weighs the same."""
    terms = []
    for pi, before, ref, a in zip(policy, old, reference, advantage, strict=True):
        rho = np.exp(pi - before)
        clipped = np.clip(rho, 1 - epsilon, 1 + epsilon)
        terms.append(np.mean(np.minimum(rho * a, clipped * a) - beta * kl(pi, ref)))
    return -float(np.mean(terms))


def log_probabilities(model, prompt: list[int], completion: list[int], temperature: float) -> np.ndarray:
    """Of each completion token, one sequence at a time, in double precision."""
    import torch

    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double() / temperature
    return logits.log_softmax(-1)[range(len(completion)), completion].numpy()
