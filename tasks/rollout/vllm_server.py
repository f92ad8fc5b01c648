"""A vLLM server over its OpenAI interface: one rollout fleet for several machines or stages.

    VLLM_SERVER_DEV_MODE=1 vllm serve BASE --weight-transfer-config '{"backend": "nccl"}' \\
        --logprobs-mode processed_logprobs --max-logprobs -1

A server that was started so keeps its architecture and gets each checkpoint's weights over NCCL from TRL's
`VLLMClient`, which needs a GPU here as well. It gets them always: what it holds from before cannot be told.
One without `--weight-transfer-config` must serve the checkpoint's own folder. One job at a time may use a
server. Requests, answers and a server that vanishes are tested against a local HTTP server that speaks the
same interface; `benchmarks/gpu_engines.py` runs a real one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.rollout.engine import Completion, EngineUnavailable, prompt_seeds
from tasks.rollout.server import Server, ServerGone, stay_on_loopback
from tasks.rollout.settings import EngineSettings, Sampling

log = logging.getLogger(__name__)

_IN_FLIGHT = 256
"""Requests at once; the server batches them."""
_TRIES = 3
"""How often one call of `generate` asks a server that keeps vanishing and coming back."""


class VllmServerEngine:
    """A server at `settings.server_url` that holds the weights of one model folder.

    A server that vanishes is waited for, is given the weights again where it does not serve them by itself,
    and is asked the same again: a completion depends on its prompt, the sampling and its seed alone.
    """

    def __init__(self, settings: EngineSettings, model_dir: Path) -> None:
        if not settings.server_url:
            raise EngineUnavailable(
                "engine.name is vllm-server: set engine.server_url to the server's address"
            )
        self._server, self._model_dir = Server(settings.server_url.rstrip("/")), model_dir
        self.name = f"vllm-server {self._server.get('/version')['version']}"
        self._load()

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, seed: int | Sequence[int]
    ) -> list[Completion]:
        """See `Engine.generate`."""
        seeds = prompt_seeds(seed, len(prompts))
        bodies = [self._body(p, sampling, s) for p, s in zip(prompts, seeds, strict=True)]
        for _ in range(_TRIES):
            try:
                completions = self._complete_all(bodies)
                if self._still_loaded():
                    return completions
                log.warning("the vLLM server at %s was restarted: sampling again", self._server.url)
            except ServerGone as error:
                log.warning("%s; waiting for it", error)
                self._server.wait()
            self._load()
        raise EngineUnavailable(
            f"the vLLM server at {self._server.url} vanished {_TRIES} times while it was asked the same "
            f"{len(bodies)} prompts: its own log says why"
        )

    def _load(self) -> None:
        """See to it that the server has the model's weights.

        Raises:
            EngineUnavailable: it serves another model and takes no weights, or there is no GPU to push from.
        """
        served = self._server.get("/v1/models")["data"][0]
        self._model, self._pushed_to = served["id"], ""
        if self._server.takes_weights():
            push_weights(self._server.url, self._model_dir)
            self._pushed_to = self._server.instance()
        elif str(self._model_dir) not in (served["id"], served.get("root")):
            raise EngineUnavailable(
                f"the server at {self._server.url} serves another model: restart it with "
                f"`vllm serve {self._model_dir}`, or so that it takes weights (VLLM_SERVER_DEV_MODE=1 and "
                "--weight-transfer-config)"
            )

    def _still_loaded(self) -> bool:
        """False where the weights were pushed and another process answers now."""
        return not self._pushed_to or self._server.instance() == self._pushed_to

    def close(self) -> None:
        """The server lives on."""

    def _body(self, prompt: str, sampling: Sampling, seed: int) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
            "skip_special_tokens": False,
        }

    def _complete_all(self, bodies: Sequence[dict[str, Any]]) -> list[Completion]:
        with ThreadPoolExecutor(_IN_FLIGHT) as threads:
            return list(threads.map(self._complete, bodies))

    def _complete(self, body: dict[str, Any]) -> Completion:
        answer = self._server.post("/v1/completions", body)
        choice, usage = answer["choices"][0], answer["usage"]
        return Completion(
            text=choice["text"],
            finish_reason="stop" if choice["finish_reason"] == "stop" else "length",
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
        )


def push_weights(url: str, model_dir: Path) -> None:
    """Give the server at `url` the weights of `model_dir`; same architecture, CUDA here and there."""
    import torch

    if not torch.cuda.is_available():
        raise EngineUnavailable(
            f"the server at {url} takes weights, so it may hold any, and they are pushed from a GPU, which is"
            f" not here: start one without --weight-transfer-config by `vllm serve {model_dir}`"
        )
    from transformers import AutoModelForCausalLM
    from trl.generation.vllm_client import VLLMClient

    stay_on_loopback(url)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16, local_files_only=True).to(
        "cuda"
    )
    client = VLLMClient(base_url=url)
    client.init_communicator(device="cuda")
    client.update_model_params(model)
    client.reset_prefix_cache()
    client.close_communicator()
