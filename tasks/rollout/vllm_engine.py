"""vLLM in this process: what a GPU preset samples with.

Written against vLLM 0.26 to 0.31 (`LLM`, `SamplingParams`). Not run by this project's tests: they have no
vLLM.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.rollout.engine import Completion, EngineUnavailable, prompt_seeds
from tasks.rollout.settings import EngineSettings, Sampling


class VllmEngine:
    """A model folder in vLLM, every request with a seed of its own."""

    def __init__(self, settings: EngineSettings, model_dir: Path) -> None:
        vllm = _import_vllm()
        self.name = f"vllm {vllm.__version__}"
        self._params = vllm.SamplingParams
        self._llm: Any = vllm.LLM(
            model=str(model_dir),
            gpu_memory_utilization=settings.gpu_memory_share,
            trust_remote_code=False,
            seed=0,
        )

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, seed: int | Sequence[int]
    ) -> list[Completion]:
        """See `Engine.generate`."""
        params = [
            self._params(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=s,
                skip_special_tokens=False,
            )
            for s in prompt_seeds(seed, len(prompts))
        ]
        return [_completion(o) for o in self._llm.generate(list(prompts), params, use_tqdm=False)]

    def close(self) -> None:
        """See `Engine.close`."""
        import torch

        self._llm = None
        gc.collect()
        torch.cuda.empty_cache()


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise EngineUnavailable(
            "engine.name is vllm but vLLM cannot be imported "
            f"({error}): install it with `pip install -e '.[gpu]'`, or set engine.name to transformers"
        ) from error
    return vllm


def _completion(output: Any) -> Completion:
    """A `vllm.RequestOutput` of one sample; its text ends before the end token."""
    sample = output.outputs[0]
    return Completion(
        text=sample.text,
        finish_reason="stop" if sample.finish_reason == "stop" else "length",
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(sample.token_ids),
    )
