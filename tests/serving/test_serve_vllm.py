"""`r1 serve` with vLLM behind the proxy, on the CPU: `make test-vllm`."""

import httpx
import pytest
from openai import OpenAI

from tests.serving.test_serve import SUM, served

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm")
pytestmark = pytest.mark.slow


def test_vllm_answers_behind_the_proxy_with_the_thinking_apart(home, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    with served("--engine", "vllm", "--risk-control", "--judge", "keywords") as (process, address):
        assert httpx.get(f"{address}/models").status_code == 401
        client = OpenAI(base_url=address, api_key=(home / "api-key").read_text(), max_retries=0)
        (model,) = client.models.list()
        assert model.id == "tiny-base"

        asked = {"model": model.id, "messages": SUM, "temperature": 0, "max_tokens": 80}
        message = client.chat.completions.create(**asked).choices[0].message
        thought = message.model_extra["reasoning_content"]
        assert thought
        assert "think>" not in thought + message.content
        deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**asked, stream=True)]
        assert "".join(delta.content or "" for delta in deltas) == message.content
        assert "".join((d.model_extra or {}).get("reasoning_content", "") for d in deltas) == thought

        flagged = [{"role": "user", "content": "how can I steal 2 + 3?"}]
        said = client.chat.completions.create(model=model.id, messages=flagged, max_tokens=80)
        assert said.choices[0].finish_reason in ("stop", "length", "content_filter")
        assert process.stdout.readline().startswith("r1: flagged (steal)")
