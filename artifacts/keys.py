"""Cache keys: the SHA-256 of (stage name, stage version, config without volatile fields, input digests).

Same key, same result: reused across runs, machines and a lost Prefect database.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from artifacts.refs import Ref


def canonical(value: Any) -> Any:
    """`value` in the one form that is hashed: string keys, NFC text, integral floats as integers.

    Raises:
        ValueError: on NaN or infinity, which have no JSON form, and on two keys that become one.
        TypeError: on anything JSON cannot say.
    """
    if isinstance(value, Mapping):
        items = {canonical(str(k)): canonical(v) for k, v in value.items()}
        if len(items) != len(value):
            raise ValueError(f"two of the keys {', '.join(map(repr, value))} are the same text: rename one")
        return items
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, str):
        return unicodedata.normalize("NFC", str(value))
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of a cache key")
        return int(value) if value.is_integer() else value
    raise TypeError(f"{type(value).__name__} cannot be part of a cache key")


def canonical_json(value: Any) -> bytes:
    """The canonical JSON bytes of `value`: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def cache_key(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, Ref]) -> str:
    """64 hex digits. `config` is already without volatile fields (`StageConfig.cache_document`)."""
    document = {
        "stage": stage,
        "version": version,
        "config": config,
        "inputs": {name: ref.digest for name, ref in inputs.items()},
    }
    return hashlib.sha256(canonical_json(document)).hexdigest()
