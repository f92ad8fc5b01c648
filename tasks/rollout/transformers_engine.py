"""The embedded engine: transformers in this process, on a GPU where there is one.

Small models on few CPU cores are what it is for; a 7B model wants `vllm`. The fixed cost is one
import of torch and transformers and the reading of the weights; several engines in one process share
the import.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.rollout.decoding import ATTENTION, decode, require_full_attention
from tasks.rollout.engine import Completion, prompt_seeds
from tasks.rollout.settings import EngineSettings, Sampling


class TransformersEngine:
    """A model folder, its tokenizer and its end tokens; bfloat16 on a GPU, else as stored in float32."""

    def __init__(self, settings: EngineSettings, model_dir: Path) -> None:
        self.name = f"transformers {transformers.__version__}"
        self._batch_size = settings.batch_size
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        transformers.utils.logging.disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True
        ).to(device)
        self._model.eval()
        require_full_attention(self._model)
        self._tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        self._end_tokens = _end_tokens(self._model, self._tokenizer)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, seed: int | Sequence[int]
    ) -> list[Completion]:
        """See `Engine.generate`."""
        seeds = prompt_seeds(seed, len(prompts))
        if not prompts:
            return []
        ids = self._tokenizer(list(prompts)).input_ids
        written = decode(self._model, ids, sampling, seeds, self._end_tokens, self._batch_size)
        return [self._completion(p, w) for p, w in zip(ids, written, strict=True)]

    def close(self) -> None:
        """See `Engine.close`."""
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _completion(self, prompt: list[int], written: list[int]) -> Completion:
        stopped = written[-1] in self._end_tokens
        text = self._tokenizer.decode(
            written[:-1] if stopped else written,
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return Completion(text, "stop" if stopped else "length", len(prompt), len(written))


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """What the tokenizer and the generation settings call the end."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    found = frozenset(t for t in [tokenizer.eos_token_id, *listed] if t is not None)
    if not found:
        raise ValueError("the model folder names no end-of-sequence token: set eos_token in its tokenizer")
    return found
