"""One policy update's rollout: joined from parts, its idle rows, and its means."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from accelerate import Accelerator

from tasks.rl import objective
from tasks.training.metrics import OWN


class TokenMeans:
    """Figures of one update as means over its completion tokens, in all micro-batches and processes."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros(()))

    @torch.no_grad()
    def add(
        self, tokens: objective.Tokens, entropy: torch.Tensor, sampler: torch.Tensor | None, epsilon: float
    ) -> None:
        """One micro-batch; `entropy` and the sampler's log-probabilities have shape (T,)."""
        values = {
            "tokens": torch.ones_like(tokens.policy),
            "entropy": entropy,
            "clip_ratio/region_mean": objective.clipped(tokens, epsilon),
        }
        if tokens.reference is not None:
            values["kl"] = objective.kl(tokens.policy, tokens.reference)
        if sampler is not None:
            values[OWN + "sampler_mismatch"] = (tokens.old - sampler).abs().nan_to_num()
        for name, value in values.items():
            self._sums[name] = self._sums[name].to(value.device) + value.float().sum()

    def taken(self, accelerator: Accelerator) -> dict[str, float]:
        """The means, which are then forgotten. Every process must call it, with the same names."""
        names, sums = list(self._sums), torch.stack(list(self._sums.values()))
        totals = dict(zip(names, accelerator.reduce(sums, reduction="sum").tolist(), strict=True))
        self._sums.clear()
        count = max(totals.pop("tokens"), 1.0)
        return {name: total / count for name, total in totals.items()}


def idle_rows(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """Rows (booleans) of groups whose rewards are all the same; NaN rewards do not count. Exact equality."""
    groups = rewards.view(-1, group_size)
    unknown = groups.isnan()
    highest = groups.masked_fill(unknown, -torch.inf).amax(dim=1)
    lowest = groups.masked_fill(unknown, torch.inf).amin(dim=1)
    return (highest <= lowest).repeat_interleave(group_size)


def refilled(batch: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """`batch` with idle rows replaced by rows of `fresh` that are not idle, in order, as many as there are.

    Both hold whole groups of one size, so whole groups are replaced. `num_items_in_batch` is left as it was.
    """
    away = batch["idle"].nonzero().squeeze(1)
    taken = (~fresh["idle"]).nonzero().squeeze(1)[: len(away)]
    away = away[: len(taken)]
    out: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.ndim > 0:
            left = name in ("prompt_ids", "prompt_mask")
            out[name], new = _same_width(value, fresh[name], left)
            out[name][away] = new[taken]
        else:
            out[name] = value
    return out


def _same_width(a: torch.Tensor, b: torch.Tensor, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of equal width, padded with zeros; masks say that the zeros are padding."""
    if a.ndim < 2:
        return a.clone(), b
    width = max(a.shape[1], b.shape[1])
    a, b = (torch.nn.functional.pad(x, _padding(width - x.shape[1], left)) for x in (a, b))
    return a.clone(), b


def _padding(missing: int, left: bool) -> tuple[int, int]:
    return (missing, 0) if left else (0, missing)
