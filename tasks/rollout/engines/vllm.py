"""vLLM in this process: what a preset for a GPU samples with, in RL beside the trainer on the same GPU.

Written against vLLM 0.26 to 0.31, with the same arguments for all. `make test-vllm` drives it with 0.31 on
the CPU (`tests/rollout/test_vllm.py`). `benchmarks/gpu_engines.py` and `benchmarks/gpu_rl.py` do on a GPU,
with 0.26. vLLM's CPU build differs in this:

- `gpu_memory_share` is a share of the machine's memory, unless the environment variable
  `VLLM_CPU_KVCACHE_SPACE` says how many GiB the keys and values get.
- No graphs are captured, and torch works with one thread in this process, the trainer's part of it too
  (`OMP_NUM_THREADS` changes that).
- A linear layer may hold its weights packed for the processor, so `load` reloads the layers one by one.
"""

from __future__ import annotations

import gc
import itertools
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tasks.rollout.engine import (
    Completion,
    EngineUnavailable,
    SampledModel,
    TokenIds,
    Weights,
    finish_reason,
)
from tasks.rollout.engines import INSTALL_GPU
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.weights import buckets, named_weights

_SEQUENCES = 512
"""Sequences decoded at once. More have no captured CUDA graph (1,024: half the tokens a second)."""
_COMPILATION = {
    "mode": 0,
    "cudagraph_mode": "FULL_DECODE_ONLY",
    "cudagraph_capture_sizes": [1, 8, 64, 128, 256, _SEQUENCES],
}
"""No torch.compile and few graphs: on one H100 the engine starts in 7 to 11 s where vLLM's default takes 53
to 75, and a small model writes faster with 256 sequences (50,000 tokens/s, not 40,000), as decoding is all
graphs."""

_ENTER_EVERY = 32
"""Steps between two times at which sequences enter, unless half of the places are free. A step that reads
a prompt has no graph (20 ms for 135M parameters where one that only decodes takes 5), and if a new sequence
took the place of each one that ends, nearly every step of short completions would read a prompt."""


class VllmEngine:
    """A model folder in vLLM, every completion with a seed of its own."""

    def __init__(self, settings: EngineSettings, model: SampledModel) -> None:
        self._vllm = _import_vllm()
        self.name = f"vllm {self._vllm.__version__}"
        self._end_tokens = model.end_tokens
        self._found_processes = torch.distributed.is_initialized()
        on_cpu = self._vllm.platforms.current_platform.is_cpu()
        # torch collects garbage before each graph that it captures and vLLM around what it measures: 14 times
        # a start, 0.28 s each on an H200 for all objects of the imported packages. Frozen ones are left out,
        # until `close`: vLLM unfreezes them as it shuts down.
        gc.collect()
        gc.freeze()
        with _launched_variables():
            self._llm: Any = self._vllm.LLM(
                model=str(model.folder),
                # Tokens in, tokens out: the texts are made by `tasks.tokenizer`.
                skip_tokenizer_init=True,
                gpu_memory_utilization=settings.gpu_memory_share,
                max_model_len=model.longest,
                max_num_seqs=_SEQUENCES,
                # Prompt tokens read in one step. vLLM sets memory aside for its default (16,384 on an H100),
                # which a share of the GPU beside a trainer does not have; TRL 1.16 takes the same number.
                # The CPU build reads prompts whole: it cannot take back the draw after a part of one, as it
                # does for requests with a seed ("CPU Generator does not use offset").
                max_num_batched_tokens=None if on_cpu else 4_096,
                enable_chunked_prefill=not on_cpu,
                compilation_config=_COMPILATION,
                # Keeps the model in this process, where `load` reaches it; each process of a multi-process
                # trainer has an engine of its own. It also lets vLLM use the process group that the trainer
                # made.
                distributed_executor_backend="external_launcher",
                # Log-probabilities after the temperature: those of the distribution that was drawn from.
                logprobs_mode="processed_logprobs",
                trust_remote_code=False,
                seed=0,
            )

    def generate(
        self,
        prompts: Sequence[TokenIds],
        sampling: Sampling,
        seeds: Sequence[Sequence[int]],
        logprobs: bool = False,
    ) -> Iterator[Completion]:
        """See `Engine.generate`.

        Each completion is a request of its own: vLLM's `n` would give the samples of a group the seeds
        seed + 0, seed + 1, ... (`v1/engine/parallel_sampling.py`) and hold them back until the last one ends.
        The prefix cache reads the group's prompt once all the same; 16 requests are as fast as n = 16.
        """
        places = [(prompt, sample) for prompt, group in enumerate(seeds) for sample in range(len(group))]
        later, writing, engine = places[::-1], dict[str, tuple[int, int]](), self._llm.llm_engine

        def enter() -> None:
            entering = [later.pop() for _ in range(min(len(later), _SEQUENCES - len(writing)))]
            requests = self._llm.enqueue(
                [{"prompt_token_ids": list(prompts[prompt])} for prompt, _ in entering],
                [self._params(sampling, seeds[prompt][sample], logprobs) for prompt, sample in entering],
                use_tqdm=False,
            )
            # Returned are internal names, `NUMBER-RANDOM`; outputs and `abort_request` use NUMBER.
            writing.update(zip((name.partition("-")[0] for name in requests), entering, strict=True))

        try:
            for step in itertools.count():
                if later and (step % _ENTER_EVERY == 0 or len(writing) <= _SEQUENCES // 2):
                    enter()
                if not writing:
                    return
                for output in engine.step():
                    if output.finished:
                        prompt, sample = writing.pop(output.request_id)
                        yield self._completion(prompt, sample, output.outputs[0])
        finally:
            if writing:  # the caller gave up half way
                engine.abort_request(list(writing))

    def load(self, weights: Weights) -> None:
        """See `Engine.load`. As TRL 1.16 does it colocated, but a bucket at a time.

        `load_weights` is vLLM's own loader: it takes Hugging Face names and fuses and casts the tensors.
        """
        runner = self._llm.llm_engine.model_executor.driver_worker.model_runner
        if self._vllm.platforms.current_platform.is_cpu():
            runner.reload_weights(weights_iterator=named_weights(weights))
        else:
            for bucket in buckets(named_weights(weights)):
                runner.model.load_weights(bucket)
        # Keys and values that the old weights made for a prompt would be taken for the new ones'.
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        """See `Engine.close`."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        if not self._found_processes:
            # Only if the process group was made by vLLM: the trainer's must live on.
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _params(self, sampling: Sampling, seed: int, logprobs: bool) -> Any:
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            # The end tokens are ours to name; vLLM would add the one of the model's configuration.
            ignore_eos=True,
            stop_token_ids=sorted(self._end_tokens),
            detokenize=False,
            logprobs=0 if logprobs else None,  # 0: of the drawn token only
        )

    def _completion(self, prompt: int, sample: int, output: Any) -> Completion:
        tokens = list(output.token_ids)
        logprobs = None
        if output.logprobs is not None:
            logprobs = [at[token].logprob for at, token in zip(output.logprobs, tokens, strict=True)]
        return Completion(prompt, sample, tokens, finish_reason(tokens, self._end_tokens), logprobs)


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise EngineUnavailable(
            f"engine.name vllm needs vLLM, which cannot be imported ({error}): install it with "
            f"`{INSTALL_GPU}` on a GPU machine, or set engine.name to transformers"
        ) from error
    return vllm


@contextmanager
def _launched_variables() -> Iterator[None]:
    """What an external launcher sets. Taken back afterwards: Accelerate would read it as a launch too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    missing = {name: value for name, value in alone.items() if name not in os.environ}
    os.environ |= missing
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]
