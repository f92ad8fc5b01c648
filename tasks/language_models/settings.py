"""Which language model a stage asks. Imports nothing heavy: `stage.py` files use it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from tasks.rendering import Template
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.settings import VOLATILE, Count, Positive, Settings

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
Price = Annotated[float, Field(ge=0, json_schema_extra=VOLATILE)]


def host_of(url: str) -> str:
    """The host that a client connects to; empty where the address is no plain http or https one."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and "@" not in parts.netloc and "\\" not in url
        return (parts.hostname or "") if plain and not (parts.query or parts.fragment) else ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _safe_address(url: str) -> str:
    host = host_of(url)
    if not host or (url.startswith("http:") and not is_loopback(host)):
        raise ValueError(
            "url must be https://HOST/v1, or http:// on this machine, without a user, password or query"
        )
    return url.rstrip("/")


def _variable_name(name: str) -> str:
    # The value is not repeated: whoever pastes the key itself must not find it in a log.
    if name and not _VARIABLE.fullmatch(name):
        raise ValueError(
            "key must be the NAME of the environment variable that holds the API key (capitals, digits and "
            "_), not the key itself"
        )
    return name


def _digest(text: str) -> str:
    if text and not _DIGEST.fullmatch(text):
        raise ValueError(f"artifact = {text[:20]!r} must be a whole digest of 64 hex digits: see `r1 show`")
    return text


class _Model(Settings):
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95, max_new_tokens=8_192)


class Endpoint(_Model):
    """A server that speaks OpenAI's chat completions: a hosted model, `vllm serve`, `transformers serve`."""

    name: Literal["endpoint"] = "endpoint"
    url: Annotated[str, AfterValidator(_safe_address)]
    """Its base address, usually ending in `/v1`. https, or http on this machine."""
    model: Annotated[str, Field(min_length=1, max_length=200)]
    """The model as the server calls it."""
    key: Annotated[str, AfterValidator(_variable_name)] = ""
    """Name of the environment variable that holds the API key. The key itself is written nowhere."""
    concurrency: Annotated[int, Field(ge=1, le=1_024, json_schema_extra=VOLATILE)] = 16
    """Requests in flight."""
    requests_per_minute: Annotated[Count, Field(json_schema_extra=VOLATILE)] = 0
    """The provider's limit; 0: none."""
    timeout_seconds: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 600
    """Longest wait for one answer."""
    attempts: Annotated[Positive, Field(json_schema_extra=VOLATILE)] = 6
    """How often a request is sent before it counts as failed."""
    price_prompt: Price = 0
    """Per million prompt tokens, in any currency; for the cost in the summary."""
    price_completion: Price = 0
    """Per million completion tokens."""


class Checkpoint(_Model):
    """A checkpoint of the store, through a rollout engine of this job."""

    name: Literal["checkpoint"] = "checkpoint"
    artifact: Annotated[str, AfterValidator(_digest)] = ""
    """Digest of a checkpoint of the store; empty: the checkpoint that the stage samples from."""
    template: Template = "r1"
    """How it is asked."""
    engine: EngineSettings = EngineSettings()


class StandIn(Settings):
    """A rule that takes a language model's place, by name."""

    name: str


def _as_mapping(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _tag(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    return name if name in ("endpoint", "checkpoint") else "rule"


ModelSettings = Annotated[
    Annotated[Endpoint, Tag("endpoint")]
    | Annotated[Checkpoint, Tag("checkpoint")]
    | Annotated[StandIn, Tag("rule")],
    Discriminator(_tag),
    BeforeValidator(_as_mapping),
]
"""A setting `refiner`, `judge` or the like; a plain name stands for a rule."""

NONE = StandIn(name="none")
"""No model is asked."""


def require_known(setting: str, chosen: Endpoint | Checkpoint | StandIn, rules: tuple[str, ...]) -> None:
    """Raises ValueError where `setting` names a rule that is not there."""
    if isinstance(chosen, StandIn) and chosen.name not in rules:
        known = ", ".join((*rules, "endpoint", "checkpoint"))
        raise ValueError(f"{setting} {chosen.name[:40]!r} is not known: use one of {known}")
