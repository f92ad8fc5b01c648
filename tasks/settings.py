"""What every settings model of the project shares: frozen, checked, and what of it decides a result.

A stage's own settings stand in its `stage.py`. Defaults are the published values (Nature Methods,
arXiv 2501.12948v2 sections 2.1, 3.2, B.4) where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """Frozen; unknown keys are errors; finite numbers only; mappings in the order of their keys.

    The cache key does not see the order of a mapping, so no stage may see it either. YAML files, Prefect's
    parameters (jsonb on Postgres) and `--set` all give an order of their own.
    """

    # A validator is built when one is first used: building all at import took 0.3 s.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _is_plain_and_in_order(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        for name, value in values.items():
            if field := cls.model_fields.get(str(name)):
                _refuse_other_types(field.annotation, value, str(name))
        return {name: in_order(value) for name, value in values.items()}

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


def in_order(value: Any) -> Any:
    """`value` with every mapping in it, at any depth, in the order of its keys."""
    if isinstance(value, Mapping):
        return {name: in_order(value[name]) for name in sorted(value, key=str)}
    return type(value)(map(in_order, value)) if type(value) in (list, tuple) else value


def _refuse_other_types(kind: Any, value: Any, name: str) -> None:
    """Refuse what pydantic would convert although it is hardly meant: `true` for a number, 1 for `true`, text
    for an integer. Text for other numbers is read, because YAML takes `1e-5` for text.

    Raises:
        ValueError: one sentence.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        _refuse_other_types(arguments[0], value, name)
    elif origin in (Union, UnionType):
        kinds = [a for a in arguments if a is not type(None)]
        if value is not None and len(kinds) == 1:
            _refuse_other_types(kinds[0], value, name)
    elif origin is tuple and isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _refuse_other_types(arguments[0], item, f"{name}.{number}")
    elif origin is dict and isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_other_types(arguments[1], item, f"{name}.{key}")
    elif kind in (int, float) and isinstance(value, bool):
        raise ValueError(f"{name} = {str(value).lower()}: must be a number")
    elif kind is int and isinstance(value, str):
        raise ValueError(f"{name} = {value[:40]!r}: must be a valid integer")
    elif kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} = {str(value)[:40]!r}: must be true or false")


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
