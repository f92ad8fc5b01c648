"""Reward models as reward terms (paper Eq. 5, 6, 9; Methods).

The helpful model reads the question and the final summary only, the safety model the whole response.
Both give a logit; what RL adds up must stay in the range of the rule rewards, so (not published):

    helpful   sigmoid((logit - mean) / std), mean and std of the logits on its own training responses,
              since pairwise training leaves scale and origin free; no readable answer scores 0
    safety    sigmoid(logit): the model's probability that the response is safe
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tasks.rewards.term import Scoring
from tasks.tokenizer import Codec, load_tokenizer

PromptAndResponse = tuple[str, str]
_ROWS_AT_ONCE, _TOKENS_AT_ONCE = 64, 16_384
"""Of a forward pass, padding included; a longer row has one of its own."""


def preference_scorer(folder: Path, name: str, template: str) -> Callable[[Sequence[Scoring]], list[float]]:
    """What scores rows with model `name` (`helpful` or `safety`) of a `reward_models` artifact, 0 to 1."""
    model = PreferenceModel.load(folder / name)

    def prompts(rows: Sequence[Scoring]) -> list[str]:
        return [model.codec.prompt(template, row.problem.prompt) for row in rows]

    def score_helpful(rows: Sequence[Scoring]) -> list[float]:
        answers = [row.parsed.answer for row in rows]
        read = [helpful_input(p, answer or "") for p, answer in zip(prompts(rows), answers, strict=True)]
        scores = model.probabilities(read)
        return [score if answer else 0.0 for score, answer in zip(scores, answers, strict=True)]

    def score_safety(rows: Sequence[Scoring]) -> list[float]:
        read = [(p, row.completion) for p, row in zip(prompts(rows), rows, strict=True)]
        return model.probabilities(read)

    return {"helpful": score_helpful, "safety": score_safety}[name]


def helpful_input(prompt: str, answer: str) -> PromptAndResponse:
    """What the helpful model reads of a response; the safety model reads all of it."""
    return prompt, f" {answer}"


class PreferenceModel:
    """A sequence classifier with one output, and the normalisation its config carries."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.codec = model.eval(), Codec(tokenizer)

    @classmethod
    def load(cls, folder: Path) -> PreferenceModel:
        """On a GPU in bfloat16, as the matrices were in training: a policy and an engine are there, too."""
        on_gpu = torch.cuda.is_available()
        dtype = torch.bfloat16 if on_gpu else torch.float32
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, local_files_only=True)
        return cls(model.to("cuda" if on_gpu else "cpu"), load_tokenizer(folder))

    @torch.no_grad()
    def logits(self, texts: Sequence[PromptAndResponse]) -> torch.Tensor:
        """One logit a text, shape (len(texts),); the end token is what is read out."""
        parts = [self._forward(rows) for rows in batches(encode(self.codec, texts))]
        return torch.cat(parts) if parts else torch.zeros(0)

    def probabilities(self, texts: Sequence[PromptAndResponse]) -> list[float]:
        """The sigmoid of the normalised logits."""
        mean, std = score_range(self.model)
        return ((self.logits(texts) - mean) / std).sigmoid().tolist()

    def _forward(self, rows: list[list[int]]) -> torch.Tensor:
        batch = self.codec.tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
        return self.model(**batch.to(self.model.device)).logits[:, 0].float().cpu()


def batches(rows: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """The rows in their order, as many together as a forward pass takes."""
    batch: list[list[int]] = []
    for row in rows:
        longest = max(map(len, [*batch, row]))
        if batch and (len(batch) == _ROWS_AT_ONCE or (len(batch) + 1) * longest > _TOKENS_AT_ONCE):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def encode(codec: Codec, texts: Sequence[PromptAndResponse]) -> list[list[int]]:
    """Token ids of prompt and response with the end token, as the policy reads and writes them."""
    prompts, responses = codec.tokens([p for p, _ in texts]), codec.completions([r for _, r in texts])
    return [prompt + response for prompt, response in zip(prompts, responses, strict=True)]


def keep_score_range(folder: Path, mean: float, std: float) -> None:
    """Write the normalisation into the config of a model's folder, so that it travels with the weights."""
    config = AutoConfig.from_pretrained(folder)
    config.score_mean, config.score_std = float(mean), float(std)
    config.save_pretrained(folder)


def score_range(model: PreTrainedModel) -> tuple[float, float]:
    """Mean and standard deviation that `probabilities` normalises by."""
    return getattr(model.config, "score_mean", 0.0), getattr(model.config, "score_std", 1.0)
