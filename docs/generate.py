"""Writes the parts of the documentation that are facts: settings from the code, numbers from a real run.

    python -m docs.generate                  settings tables from the code, README from docs/results/tiny.json
    python -m docs.generate tiny [SECONDS GIB]
                                             first the result file and the stage pages, from the newest run of
                                             the preset in the store; SECONDS and GIB are what
                                             `python -m benchmarks.pipeline` printed (default: as before)

What stands between one of these marks and the next `<!-- end -->` is written anew, the rest by hand. A page
of docs/stages is named after its stage; curves go beside it as NODE.svg, the README's figure to docs/results.

    <!-- settings -->                        every setting of the stage
    <!-- settings unlike STAGE -->           those that differ from another stage's
    <!-- run NODE -->                        numbers and curves of a node
    <!-- result times|table|claims -->       of the README (`docs.results`)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from pydantic import TypeAdapter

from artifacts.store import ArtifactStore
from artifacts.tables import read_table
from docs import results
from tasks.benchmarks import BenchmarkSettings, defaults
from tasks.presets import load_student, read_preset
from tasks.recipe import wiring
from tasks.report.curves import one_stage
from tasks.report.data import by_name
from tasks.settings import REPOSITORY, Settings

PAGES = REPOSITORY / "docs" / "stages"
PRESETS = ("paper", "tiny")
README_PRESET = "tiny"


def settings_table(stage: str, unlike: str = "") -> str:
    """A row a setting: its value in each of `PRESETS` and what it means. Markdown."""
    columns = [configs(preset, stage) for preset in PRESETS]
    others = [configs(preset, unlike)[:1] for preset in PRESETS if unlike]
    rows = [f"| setting | {' | '.join(f'`{p}`' for p in PRESETS)} | |", "| --- | --- | --- | --- |"]
    for name, field in type(columns[0][0]).model_fields.items():
        if (cells := _cells(columns, name)) != _cells(others, name):
            meaning = " ".join((field.description or "").split())
            rows.append(f"| `{name}` | {cells} | {meaning} |")
    return "\n".join(rows)


def _cells(columns: Sequence[Sequence[Settings]], name: str) -> str:
    return " | ".join(shown([getattr(config, name) for config in column]) for column in columns)


def configs(preset_name: str, stage: str) -> list[Settings]:
    """The settings of every node of a stage, in the order of the recipe."""
    preset = read_preset(preset_name)
    table = wiring(preset, load_student(preset.student), preset.student).nodes
    return [node.config for node in table.values() if node.stage.name == stage]


def shown(values: Sequence[Any]) -> str:
    """A setting's value at each node, once where all agree."""
    texts = list(dict.fromkeys(_plain(value) for value in values))
    return "; ".join(f"`{text}`" for text in texts)


def _plain(value: Any) -> str:
    """As it is written in a preset, on one line."""
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    document = _document(value)
    if document == {}:
        return "default"
    text: str = yaml.safe_dump(document, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").strip()


def _document(value: Any) -> Any:
    """What a preset would have to say; entries of a list keep their `name`, which chose their settings."""
    if isinstance(value, tuple):
        return [_document(item) | _name(item) if isinstance(item, Settings) else item for item in value]
    dumped = TypeAdapter(Any).dump_python(value, mode="json", exclude_defaults=True)
    if isinstance(value, dict) and any(isinstance(entry, BenchmarkSettings) for entry in value.values()):
        return {name: _unlike_its_file(name, entry) for name, entry in dumped.items()}
    return dumped


def _unlike_its_file(benchmark: str, settings: dict[str, Any]) -> dict[str, Any]:
    given = defaults(benchmark)
    return {name: value for name, value in settings.items() if str(given.get(name)) != str(value)}


def _name(entry: Settings) -> dict[str, str]:
    return {"name": entry.name} if hasattr(entry, "name") else {}


def replaced(page: str, mark: str, make: Callable[[str], str]) -> str:
    """`page` with each block under such a mark made anew; `make` gets the word that `mark` leaves open."""
    block = re.compile(rf"(?s)(<!-- {mark} -->\n).*?<!-- end -->")
    return block.sub(lambda found: f"{found[1]}{make(found['word'])}\n<!-- end -->", page)


def run_block(store: ArtifactStore, preset: str, node: str) -> str:
    """When a node was made, its summary, and its curves where it was trained; these go to NODE.svg."""
    ref = store.resolve(f"{preset}/{node}")
    manifest = store.manifest(ref.digest)
    figures = " · ".join(f"{name} {value}" for name, value in manifest.summary.items())
    made = f"{manifest.created_at:%Y-%m-%d}, {manifest.seconds:.0f} s"
    said = f"`{node}` of preset `{preset}`, {made}: {figures}"
    if "metrics" not in manifest.tables():
        return said
    drawing = one_stage(node, by_name(read_table(store.fetch(ref) / "metrics.parquet")))
    if drawing is None:
        return said
    (PAGES / f"{node}.svg").write_text(drawing.svg)
    return f"{said}\n\n![Training curves of {node}]({node}.svg)"


def with_settings(page: str, stage: str) -> str:
    """A stage's page with its settings tables made anew."""
    mark = r"settings(?: unlike (?P<word>\S+))?"
    return replaced(page, mark, lambda other: settings_table(stage, other))


def with_result(page: str, result: results.RunResult) -> str:
    """The README with its blocks made anew from a result."""
    made = results.blocks(result)
    return replaced(page, r"(?P<word>result \w+)", lambda mark: made[mark]())


def main(preset: str = "", seconds: str = "", gib: str = "") -> None:
    store = ArtifactStore.open() if preset else None
    if store:
        before = results.read(preset)
        wall, peak = float(seconds or before.wall_seconds), float(gib or before.peak_gib)
        results.write(results.from_store(store, preset, wall, peak))
    result = results.read(README_PRESET)
    (results.RESULTS / "recipe.svg").write_text(results.draw(result))
    results.README.write_text(with_result(results.README.read_text(), result))
    for path in sorted(PAGES.glob("*.md")):
        page = with_settings(path.read_text(), path.stem)
        if store:
            page = replaced(page, r"run (?P<word>\S+)", lambda node: run_block(store, preset, node))
        path.write_text(page)


if __name__ == "__main__":
    main(*sys.argv[1:])
