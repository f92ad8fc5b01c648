"""Settings of sampling: which rollout engine, and how it draws."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from tasks.rollout.engines import ENGINES, EngineEntry, known_engine
from tasks.settings import VOLATILE, Positive, Settings


class EngineSettings(Settings):
    """Which rollout engine samples."""

    name: Annotated[str, AfterValidator(known_engine), Field(json_schema_extra={"enum": [*ENGINES]})] = (
        "transformers"
    )
    """One of `tasks.rollout.engines.ENGINES`."""
    batch_size: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 256
    """Sequences decoded at once (transformers engine)."""
    gpu_memory_share: Annotated[float, Field(gt=0, le=0.95, json_schema_extra=VOLATILE)] = 0.45
    """Share of the GPU's memory that vLLM takes."""
    server_url: Annotated[str, Field(json_schema_extra=VOLATILE)] = ""
    """`vllm-server` only: its address (`tasks/rollout/engines/vllm_server.py` says how to start one)."""

    @property
    def entry(self) -> EngineEntry:
        """What the registry says about the engine."""
        return ENGINES[self.name]


class Sampling(Settings):
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive = 32_768
