"""The settings of each stage of a run beside the published ones, those that differ first.

Published is what `configs/paper.yaml` sets for the same node, with the stage's defaults for the rest: so the
language reward of Dev2 is no difference from the paper, although R1-Zero has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from pydantic import ValidationError

from artifacts.manifest import Manifest
from tasks.preset_file import SettingsFileError, read_settings
from tasks.recipe import STAGES, STUDENT, section, title
from tasks.report.data import RunRecord
from tasks.settings import REPOSITORY

PUBLISHED_PRESET = REPOSITORY / "configs" / "paper.yaml"
MAX_VALUE = 240
"""Characters shown of a value."""


@dataclass(frozen=True)
class SettingLine:
    """One setting of a stage as the pages show it."""

    name: str
    """Nested ones with dots: `sampling.temperature`."""
    value: str
    published: str
    """The paper's value; empty where it has none."""


@dataclass(frozen=True)
class StageSettings:
    """All settings of one node."""

    title: str
    differing: list[SettingLine]
    """Those with another value than the published one."""
    same: list[SettingLine]
    compared: bool
    """Whether published settings of the node are known; otherwise all are in `same`."""


def settings_of(run: RunRecord) -> list[StageSettings]:
    """Every node's settings in the order of the recipe; evaluations with equal settings once."""
    evaluations: dict[str, tuple[str, Manifest]] = {}
    for name, part in run.evaluations.items():
        label = title("evaluation") if not evaluations else f"{title('evaluation')} of {title(name)}"
        evaluations.setdefault(str(part.manifest.config), (label, part.manifest))
    nodes = [_compared(title(name), name, part.manifest) for name, part in run.parts.items()]
    return nodes + [_compared(label, "evaluation", manifest) for label, manifest in evaluations.values()]


def _compared(label: str, node: str, manifest: Manifest) -> StageSettings:
    own, published = dict(flat(manifest.config)), _published(manifest.stage, section(node))
    lines = {
        name: SettingLine(name, shown_value(value), shown_value(published[name]) if name in published else "")
        for name, value in own.items()
    }
    differing = [name for name in own if published and published.get(name) != own[name]]
    same = [line for name, line in lines.items() if name not in differing]
    return StageSettings(label, [lines[name] for name in differing], same, bool(published))


@cache
def _published(stage: str, name: str) -> Mapping[str, Any]:
    """The paper's settings of a section of a preset, flat; empty where this release has none that fit."""
    try:
        preset = read_settings(PUBLISHED_PRESET)
        if name.startswith(f"{STUDENT}."):
            preset = read_settings(PUBLISHED_PRESET.parent / "students" / f"{preset[STUDENT]}.yaml")
        sections = {section.replace("-", "_"): given for section, given in preset.items()}
        given = sections.get(name.removeprefix(f"{STUDENT}.").replace("-", "_"), {})
        return dict(flat(STAGES[stage].config.model_validate(given).model_dump(mode="json")))
    except (SettingsFileError, ValidationError, KeyError):
        return {}


def flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name with dots, value) of every value of nested settings."""
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def shown_value(value: Any) -> str:
    """A value as a preset has it, on one line, without the settings of list entries that are not set."""
    if isinstance(value, str):
        text = value or '""'
    elif isinstance(value, float):
        text = f"{value:g}"
    else:
        dumped: str = yaml.safe_dump(_set(value), default_flow_style=True, sort_keys=False, width=10_000)
        text = dumped.removesuffix("...\n").strip()
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]} …"


def _set(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _set(item) for name, item in value.items() if item is not None}
    return [_set(item) for item in value] if isinstance(value, list) else value
