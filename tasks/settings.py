"""What every settings model of the project shares: frozen, checked, and what of it decides a result.

A stage's own settings stand in its `stage.py`. Defaults are the published values (Nature Methods,
arXiv 2501.12948v2 sections 2.1, 3.2, B.4) where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

REPOSITORY = Path(__file__).resolve().parents[1]
"""Relative paths in a preset start from here."""

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

VOLATILE = {"volatile": True}
"""`json_schema_extra` of fields that change how a result is computed but not what it is."""
NEUTRAL = {"neutral_default": True}
"""`json_schema_extra` of fields that decide nothing at their default: results made before them stay valid."""


@dataclass(frozen=True)
class KeyedBy:
    """Annotation of a field whose value stands for something else: the cache key holds `key(value)`."""

    key: Callable[[Any], Any]


class Settings(BaseModel):
    """Frozen; unknown keys are errors; finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def cache_document(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values (nested; volatile fields left out)."""
        dumped = self.model_dump(mode="json")
        return {
            name: self._keyed(name, _cache_value(getattr(self, name), dumped[name]))
            for name in dumped
            if not self._decides_nothing(name)
        }

    def files(self) -> dict[str, str]:
        """Setting -> path of a file or folder that the stage reads from outside the store.

        What lies there becomes part of the cache key: problems edited in place are another input under the
        same path. Nested settings are asked too.
        """
        found: dict[str, str] = {}
        for name in type(self).model_fields:
            for place, inner in _inner_settings(name, getattr(self, name)):
                found |= {f"{place}.{setting}": path for setting, path in inner.files().items()}
        return found

    def _keyed(self, name: str, value: Any) -> Any:
        marks = (m for m in type(self).model_fields[name].metadata if isinstance(m, KeyedBy))
        return next((mark.key(value) for mark in marks), value)

    def _decides_nothing(self, name: str) -> bool:
        field = type(self).model_fields[name]
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        at_default = getattr(self, name) == field.default
        return bool(marks.get("volatile") or (marks.get("neutral_default") and at_default))


class BuiltSettings(Settings):
    """Base of models that `pydantic.create_model` builds.

    To find the docstrings of attributes pydantic searches the source of every calling frame; for a model that
    has no source that takes most of a second and finds nothing.
    """

    model_config = ConfigDict(use_attribute_docstrings=False)


def _cache_value(value: Any, dumped: Any) -> Any:
    """The cache document of settings, alone or in a tuple; everything else as it was dumped."""
    if isinstance(value, Settings):
        return value.cache_document()
    if isinstance(value, tuple):
        return [_cache_value(item, plain) for item, plain in zip(value, dumped, strict=True)]
    return dumped


def _inner_settings(name: str, value: Any) -> Iterator[tuple[str, Settings]]:
    items = value if isinstance(value, tuple) else (value,)
    for number, item in enumerate(items):
        if isinstance(item, Settings):
            yield (f"{name}.{number}" if isinstance(value, tuple) else name), item
