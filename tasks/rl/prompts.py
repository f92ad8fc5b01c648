"""The problems as prompts, in the order of the schedule: the trainer's data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tasks.problem import Problem
from tasks.rl.schedule import PromptPool, curriculum_stages, prompt_schedule, refill_problems
from tasks.rl.stage import RLConfig
from tasks.tokenizer import Codec


@dataclass(frozen=True)
class Prompts:
    """The problems as prompts, and the order in which they are asked."""

    texts: list[str]
    tokens: list[int]
    """Length of each prompt."""
    order: list[list[int]]
    """A step's problems (indices), as `prompt_schedule`."""
    stages: list[PromptPool]
    seed: int

    @classmethod
    def of(
        cls, problems: Sequence[Problem], config: RLConfig, tokenizer: PreTrainedTokenizerBase,
        rates: Sequence[float] | None = None,
    ) -> Prompts:  # fmt: skip
        codec = Codec(tokenizer)
        texts = [codec.prompt(config.template, p.prompt) for p in problems]
        tokens = [len(ids) for ids in codec.tokens(texts)]
        order = prompt_schedule(problems, config, rates)
        return cls(texts, tokens, order, curriculum_stages(problems, config, rates), config.seed)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(self.tokens)

    def row(self, problem: int) -> dict[str, Any]:
        return {
            "prompt": self.texts[problem],
            "problem": problem,
            "prompt_tokens": self.tokens[problem],
        }

    def dataset(self, mini_batches: int) -> Dataset:
        """The rows in order: columns prompt, problem (index), prompt_tokens."""
        return Dataset.from_list([self.row(i) for step in self._whole(mini_batches) for i in step])

    def rollout(self, step: int, mini_batches: int) -> list[int]:
        """The problems of the rollout that begins at a step, in the order of `dataset`."""
        return [i for asked in self._whole(mini_batches)[step : step + mini_batches] for i in asked]

    def _whole(self, mini_batches: int) -> list[list[int]]:
        """The order, with the last rollout filled up with the first step's prompts where `mini_batches` does
        not divide the steps; what is drawn for them beyond the last step is not trained on."""
        return self.order + self.order[:1] * (-len(self.order) % mini_batches)

    def fresh(self, step: int, draw: int, process: int, count: int) -> list[dict[str, Any]]:
        """Rows for groups to be drawn again."""
        chosen = refill_problems(self.stages, self.seed, step, draw, process, count)
        return [self.row(i) for i in chosen]
