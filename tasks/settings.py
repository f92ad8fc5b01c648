"""What every settings model of the project shares: frozen, checked, and what of it decides a result.

A stage's own settings stand in its `stage.py`. Defaults are the published values (Nature Methods,
arXiv 2501.12948v2 sections 2.1, 3.2, B.4) where there are any.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

VOLATILE = {"volatile": True}
"""`json_schema_extra` of fields that change how a result is computed but not what it is."""
NEUTRAL = {"neutral_default": True}
"""`json_schema_extra` of fields that decide nothing at their default: results made before them stay valid."""


class Settings(BaseModel):
    """Frozen; unknown keys are errors; finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def cache_document(self) -> dict[str, Any]:
        """The settings that decide the result, as plain JSON values (nested; volatile fields left out)."""
        return {
            name: value.cache_document() if isinstance(value := getattr(self, name), Settings) else dumped
            for name, dumped in self.model_dump(mode="json").items()
            if not self._decides_nothing(name)
        }

    def _decides_nothing(self, name: str) -> bool:
        field = type(self).model_fields[name]
        marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        at_default = getattr(self, name) == field.default
        return bool(marks.get("volatile") or (marks.get("neutral_default") and at_default))
