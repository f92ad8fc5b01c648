"""A vLLM server over its OpenAI interface: one rollout fleet for several machines or stages.

    VLLM_SERVER_DEV_MODE=1 vllm serve BASE --weight-transfer-config '{"backend": "nccl"}' \\
        --logprobs-mode processed_logprobs --max-logprobs -1

The server keeps its architecture and gets each checkpoint's weights pushed over NCCL by TRL's
`VLLMClient` when it does not serve that folder already; that push needs a GPU here as well. One job
at a time may use a server. Requests and answers are tested against a local HTTP server that speaks
the same interface; a real vLLM server, and the push, were not run.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.config import EngineSettings, Sampling
from tasks.rollout.engine import Completion, EngineUnavailable, prompt_seeds

_IN_FLIGHT = 256
"""Requests at once; the server batches them."""
_SECONDS = 3_600
"""Longest wait for one completion."""


class VllmServerEngine:
    """A server at `settings.server_url` that holds the weights of one model folder."""

    def __init__(self, settings: EngineSettings, model_dir: Path) -> None:
        if not settings.server_url:
            raise EngineUnavailable(
                "engine.name is vllm-server: set engine.server_url to the server's address"
            )
        self._url = settings.server_url.rstrip("/")
        self.name = f"vllm-server {_request(f'{self._url}/version')['version']}"
        served = _request(f"{self._url}/v1/models")["data"][0]
        self._model = served["id"]
        if str(model_dir) not in (served["id"], served.get("root")):
            push_weights(self._url, model_dir)

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, seed: int | Sequence[int]
    ) -> list[Completion]:
        """See `Engine.generate`."""
        seeds = prompt_seeds(seed, len(prompts))
        bodies = [self._body(p, sampling, s) for p, s in zip(prompts, seeds, strict=True)]
        with ThreadPoolExecutor(_IN_FLIGHT) as threads:
            return list(threads.map(self._complete, bodies))

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

    def _complete(self, body: dict[str, Any]) -> Completion:
        answer = _request(f"{self._url}/v1/completions", body)
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
            f"the server at {url} serves another model and weights are pushed from a GPU, which is not here: "
            f"restart it with `vllm serve {model_dir}`"
        )
    from transformers import AutoModelForCausalLM
    from trl.generation.vllm_client import VLLMClient

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16, local_files_only=True).to(
        "cuda"
    )
    client = VLLMClient(base_url=url)
    client.init_communicator(device="cuda")
    client.update_model_params(model)
    client.reset_prefix_cache()
    client.close_communicator()


def _request(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON answer to a GET, or to a POST of `body`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise RuntimeError(
            f"{url} answered {error.code}: {error.read(500).decode(errors='replace')}"
        ) from error
    except OSError as error:
        raise EngineUnavailable(
            f"no vLLM server answers at {url} ({error}): start it with `vllm serve MODEL`, "
            "or mend engine.server_url"
        ) from error
