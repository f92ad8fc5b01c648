"""The committed result of one run, and what the README shows of it: table, claims, times and figure.

A result file (`docs/results/PRESET.json`) is written from a finished run in the store by
`python -m docs.generate PRESET`. The blocks of the README are made from the file alone, so that a test can
compare them without a run.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from artifacts.store import ArtifactStore
from tasks.presets import load_student, read_preset
from tasks.recipe import wiring
from tasks.report.claims import CLAIMS_FILE, ClaimResult, ClaimVerdict, claims_from_json
from tasks.report.data import ReportNode
from tasks.report.plot import to_svg
from tasks.report.recipe_figure import draw_recipe
from tasks.report.tables import COLUMNS, StageRow, duration, load_stage_rows, rows_from_json
from tasks.settings import REPOSITORY

RESULTS = REPOSITORY / "docs" / "results"
README = REPOSITORY / "README.md"
COLUMNS_SHOWN = [c for c in COLUMNS if c.metric in ("pass_at_1", "format", "language_consistency")]


@dataclass(frozen=True)
class RunResult:
    """What is published of a run."""

    preset: str
    made: str
    """Day on which the run ended."""
    wall_seconds: float
    """Of `r1 run` from nothing, by `python -m benchmarks.pipeline`; the store does not know it."""
    peak_gib: float
    """Of memory, by the same benchmark."""
    digests: dict[str, str]
    """Node -> the first characters of its artifact's digest."""
    rows: list[StageRow]
    claims: list[ClaimResult]


def read(preset: str) -> RunResult:
    """Return the committed result of a preset."""
    document = json.loads(_file(preset).read_text())
    return RunResult(
        **document
        | {
            "rows": rows_from_json(json.dumps(document["rows"])),
            "claims": claims_from_json(json.dumps(document["claims"])),
        }
    )


def write(result: RunResult) -> None:
    """Commit a result to its file: a line a row and a claim, so that a change can be read."""
    shown = {f"{column.domain}/{column.metric}" for column in COLUMNS_SHOWN}
    document = asdict(result)
    for row in document["rows"]:
        row["scores"] = {name: score for name, score in row["scores"].items() if name in shown}
    lines = [f'"{name}": {_value(value)}' for name, value in document.items()]
    _file(result.preset).write_text("{" + ",\n".join(lines) + "}\n")


def from_store(store: ArtifactStore, preset: str, wall_seconds: float, peak_gib: float) -> RunResult:
    """Return the result of the newest run of a preset.

    Raises:
        artifacts.errors.ArtifactError: the store holds no report of the preset.
    """
    report = store.resolve(f"{preset}/report")
    folder, manifest = store.fetch(report), store.manifest(report.digest)
    digests = {
        name.partition(".")[2]: ref.digest[:12]
        for name, ref in manifest.parents.items()
        if not name.startswith("evaluation.") and "." in name
    }
    rows = load_stage_rows({"report": folder})
    found = claims_from_json((folder / CLAIMS_FILE).read_text())
    day = f"{manifest.created_at:%Y-%m-%d}"
    return RunResult(preset, day, wall_seconds, peak_gib, digests, rows, found)


def blocks(result: RunResult) -> dict[str, Callable[[], str]]:
    """Return the marked blocks of the README by mark."""
    return {
        "result times": lambda: times(result),
        "result table": lambda: table(result),
        "result claims": lambda: claims(result),
    }


def times(result: RunResult) -> str:
    """Return the sentence on what the run took."""
    minutes, seconds = divmod(round(result.wall_seconds), 60)
    return (
        f"On two cores this takes {minutes} min {seconds} s and {result.peak_gib:g} GiB of memory "
        f"(`python -m benchmarks.pipeline`,\nwithout the installation; run of {result.made})."
    )


def table(result: RunResult) -> str:
    """Return the stage table in Markdown, margins instead of intervals."""
    head = ["stage", *(column.head for column in COLUMNS_SHOWN), "time"]
    lines = [head, ["---"] * len(head)]
    for row in result.rows:
        cells = [column.cell(row, compact=True) for column in COLUMNS_SHOWN]
        lines.append([row.title, *cells, duration(row.seconds)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def claims(result: RunResult) -> str:
    """Return how many claims of the paper reproduce, and which do not."""
    counts = Counter(claim.verdict for claim in result.claims)
    sentences = [
        f"The report checks {len(result.claims)} claims of the paper question by question: "
        f"{counts[ClaimVerdict.reproduces]} reproduce."
    ]
    for verdict in ClaimVerdict:
        if verdict is not ClaimVerdict.reproduces and counts[verdict]:
            names = "; ".join(_claim(claim) for claim in result.claims if claim.verdict is verdict)
            sentences.append(f"{verdict.capitalize()}: {names}.")
    return textwrap.fill(" ".join(sentences), 118)


def draw(result: RunResult) -> str:
    """Return the recipe figure with scores as SVG that follows the reader's light or dark theme."""
    preset = read_preset(result.preset)
    graph = wiring(preset, load_student(preset.student), preset.student)
    nodes = [
        ReportNode(name, result.digests.get(name, ""), tuple(inputs.values()))
        for name, inputs in graph.feeds.items()
        if name in graph.nodes  # an evaluation of a student would take the student's place
    ]
    figure = draw_recipe(nodes, {row.node: row for row in result.rows})
    assert figure is not None, result.preset
    return to_svg(figure, "The recipe with the pass@1 of every checkpoint").svg


def _claim(claim: ClaimResult) -> str:
    return f"{claim.says} ({claim.measured})" if claim.measured else claim.says


def _file(preset: str) -> Path:
    return RESULTS / f"{preset}.json"


def _value(value: Any) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return json.dumps(value)
    return "[\n " + ",\n ".join(json.dumps(entry, ensure_ascii=False) for entry in value) + "\n]"
