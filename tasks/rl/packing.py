"""Completions of a policy update laid end to end, each question's prompt forwarded once.

    rows of the batch     p1 .. pm  c1 .. cn       (one group: the prompt is the same)
                          p1 .. pm  d1 .. dk
    a pack                [p1 .. pm-1] [pm c1 .. cn-1] [pm d1 .. dk-1] [next group] ...

There is no padding. A token sees the shared part of its own group and what lies before it in its own row, so
every log-probability is that of the row alone, to rounding. The prompt's last token is repeated for each row:
its successor differs from row to row, and so each position has one label.

The idea is that of TRL 1.16's `TreeRow` (experimental, `async_grpo.packing`), which folds any common prefix
into a tree, token by token in Python: 4.7 s for 512 rows of 1,024 tokens on a busy core, where this took
0.1 s, since in GRPO the shared prefix is the group's prompt. Its attention kernel is downloaded from a hub;
here it is PyTorch's own (`tasks.training.attention`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from tasks.training.attention import PackLayout, pack_inputs

_NO_LABEL = -100


@dataclass(frozen=True)
class Rows:
    """A batch without its padding. Rows with equal prompts are a group, wherever they stand: TRL shuffles the
    rows of a rollout before it cuts it into updates."""

    prompts: list[np.ndarray]
    completions: list[np.ndarray]
    groups: np.ndarray
    """(rows,) the number of each row's prompt, in the order in which the prompts appear."""

    @classmethod
    def from_lists(cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Rows:
        """From token ids."""
        asked, written = [np.asarray(p) for p in prompts], [np.asarray(c) for c in completions]
        numbers: dict[bytes, int] = {}
        groups = [numbers.setdefault(prompt.tobytes(), len(numbers)) for prompt in asked]
        return cls(asked, written, np.array(groups))

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, completion_width: int) -> Rows:
        """From (rows, width) tokens whose prompts are padded on the left, completions on the right."""
        tokens, used = ids.cpu().numpy(), mask.bool().cpu().numpy()
        left = tokens.shape[1] - completion_width
        prompts = [row[keep] for row, keep in zip(tokens[:, :left], used[:, :left], strict=True)]
        completions = [row[keep] for row, keep in zip(tokens[:, left:], used[:, left:], strict=True)]
        return cls.from_lists(prompts, completions)

    def some(self, chosen: Sequence[int]) -> Rows:
        """The chosen rows."""
        pairs = [self.prompts[i] for i in chosen], [self.completions[i] for i in chosen]
        return Rows(*pairs, self.groups[list(chosen)])

    def tokens(self, row: int) -> int:
        """What a row adds to a pack that holds its group's prompt."""
        return len(self.completions[row])

    def shared(self, row: int) -> int:
        """Tokens of the prompt that the group shares."""
        return len(self.prompts[row]) - 1


@dataclass(frozen=True)
class Pack:
    """One forward pass. N tokens, of which T have a label: the completions of `rows`, one after another."""

    rows: list[int]
    input_ids: np.ndarray
    """(N,)"""
    labels: np.ndarray
    """(N,) the next token, or `_NO_LABEL`."""
    labelled: np.ndarray
    """(T,) the places of the labels."""
    layout: PackLayout


def plan(rows: Rows, chosen: Sequence[int], budget: int, at_least: int = 1) -> list[list[int]]:
    """The chosen rows in packs of at most `budget` tokens; a longer row has a pack of its own.

    Packs are about equally long. A group stands in more than one pack only where it does not fit, and its
    prompt is then computed in each. `at_least`: so many packs, as processes must make equally many passes.
    """
    chosen = sorted(chosen, key=lambda i: (rows.groups[i], i))
    total = sum(rows.tokens(i) for i in chosen)
    total += sum(rows.shared(next(g)) for _, g in groupby(chosen, key=lambda i: rows.groups[i]))
    aim = max(1, -(-total // max(1, -(-total // budget))))
    packs: list[list[int]] = []
    used = 0
    for i in chosen:
        fresh = not packs or rows.groups[packs[-1][-1]] != rows.groups[i]
        need = rows.tokens(i) + rows.shared(i) * fresh
        # Once a pack is as long as the mean, the next one begins where a group does.
        if not packs or used + need > budget or (fresh and used + need // 2 > aim):
            packs.append([])
            used, need = 0, rows.tokens(i) + rows.shared(i)
        packs[-1].append(i)
        used += need
    while len(packs) < min(at_least, len(chosen)):
        longest = max(range(len(packs)), key=lambda k: len(packs[k]))
        half = len(packs[longest]) // 2
        packs[longest : longest + 1] = [packs[longest][:half], packs[longest][half:]]
    return packs


def pack(rows: Rows, chosen: Sequence[int]) -> Pack:
    """Lay the chosen rows end to end. A row without completion and shared prompt takes no place."""
    ids, positions, labels, group, own = [], [], [], [], []

    def add(tokens: np.ndarray, start: int, targets: np.ndarray, number: int, row: int) -> None:
        ids.append(tokens)
        positions.append(np.arange(start, start + len(tokens)))
        labels.append(targets)
        group.append(np.full(len(tokens), number))
        own.append(np.full(len(tokens), row))

    for number, (_, members) in enumerate(groupby(chosen, key=lambda i: rows.groups[i])):
        for row, i in enumerate(members, 1):
            prompt, completion = rows.prompts[i], rows.completions[i]
            shared = len(prompt) - 1
            if row == 1:
                add(prompt[:-1], 0, np.full(shared, _NO_LABEL), number, 0)
            if len(completion):
                add(np.append(prompt[-1], completion[:-1]), shared, completion, number, row)
    tokens_of, labels_of, *places = (np.concatenate(x) for x in (ids, labels, group, own, positions))
    return Pack(
        list(chosen), tokens_of, labels_of, np.flatnonzero(labels_of != _NO_LABEL), PackLayout(*places)
    )


def score(model: Any, packed: Pack, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(T,) log-probabilities of the pack's completion tokens, and their entropies where the model's head
    makes them. `model` has TRL's fused head (`add_fused_lm_head`): no logits are kept.

    A mask of booleans on the GPU would have the processor wait for it before the next kernel is started.
    """

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)[None]

    out = model(
        input_ids=tensor(packed.input_ids), position_ids=tensor(packed.layout.positions),
        shift_labels=tensor(packed.labels), fused_lm_head=True,
        **pack_inputs(packed.layout, _configured(model), device),
    )  # fmt: skip
    labelled = tensor(packed.labelled)[0]
    return out.log_probs[0, labelled], None if out.entropy is None else out.entropy[0, labelled]


def _configured(model: Any) -> Any:
    """The settings of the model inside what Accelerate, DDP and PEFT put around it."""
    inner = getattr(model, "module", model)
    return inner.config.get_text_config()
