"""The embedded engine: a torch model in this process, on a GPU where there is one.

Small models on few CPU cores are what it is for; a 7B model wants `vllm`. In RL it samples from the trainer's
own model, so it always has the present weights and `load` has nothing to do. Elsewhere it loads a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from tasks.rollout.decoding import ATTENTION, require_full_attention, write
from tasks.rollout.engine import Completion, SampledModel, TokenIds, Weights, finish_reason
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.weights import named_weights


class TransformersEngine:
    """Samples with `tasks.rollout.decoding`; bfloat16 on a GPU, else as stored in float32."""

    def __init__(self, settings: EngineSettings, model: SampledModel) -> None:
        self.name = f"transformers {transformers.__version__}"
        self._batch_size, self._end_tokens = settings.batch_size, model.end_tokens
        self._lent = model.policy
        self._own = None if model.policy else _load(model.folder)

    def generate(
        self,
        prompts: Sequence[TokenIds],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
        logprobs: bool = False,
    ) -> Iterator[Completion]:
        """See `Engine.generate`."""
        rows = [(prompt, sample) for prompt, group in enumerate(seeds) for sample in range(len(group))]
        if not rows:
            return
        with self._model() as model:
            drawn = write(
                model, [prompts[p] for p, _ in rows], sampling, [seeds[p][s] for p, s in rows],
                self._end_tokens, self._batch_size, logprobs,
            )  # fmt: skip
            for row, found in drawn:
                prompt, sample = rows[row]
                reason = finish_reason(found.tokens, self._end_tokens)
                yield Completion(prompt, sample, found.tokens, reason, found.logprobs if logprobs else None)

    def load(self, weights: Weights) -> None:
        """See `Engine.load`. A lent model has the trainer's weights already."""
        if self._own is None:
            return
        # A tied weight comes under one of its names only, so missing names are not an error here.
        own = dict(self._own.named_parameters())
        with torch.no_grad():
            for name, tensor in named_weights(weights):
                own[name].copy_(tensor)

    def close(self) -> None:
        """See `Engine.close`."""
        self._own = self._lent = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _model(self) -> AbstractContextManager[Any]:
        return self._lent() if self._lent else nullcontext(self._own)


def _load(folder: Path) -> Any:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    transformers.utils.logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True
    ).to(device)
    require_full_attention(model)
    return model.eval()
