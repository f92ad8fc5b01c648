"""What the Prefect UI shows of an artifact: a page of results, curves and lineage, and sample completions.

The UI lists the artifacts of all runs together, so a key is the preset, the node's place in the recipe and
the node: sorted from A to Z, what belongs together stands together.

The UI's list of artifacts downloads all of them, so each stays under `MAX_BYTES`; what does not fit is
left out and counted. Names and model text pass `for_markdown`, whatever the UI makes of Markdown in a cell.
"""

from __future__ import annotations

import base64
import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts.manifest import MANIFEST_NAME, Manifest
from artifacts.refs import Ref
from tasks.problem import group_name
from tasks.recipe import position, title
from tasks.text_safety import for_markdown

if TYPE_CHECKING:
    from artifacts.lineage import Lineage
    from tasks.report.plot import SvgFigure

MAX_BYTES = 100_000
MAX_TEXT = 1_200
"""Characters shown of a completion."""
SHOWN_SAMPLES = 10
LAST_SAMPLES = 1_000
"""Rows at the end of the samples that the shown ones are chosen from: in training, the last steps."""

PIPELINE = "pipeline"
"""Stands in the place of a node in the keys of what belongs to the whole run."""

Row = dict[str, str | float | int]

_IMAGE = re.compile(r"!\[([^\]]*)\]\(([\w-]+\.svg)\)")


def publish_stage_artifacts(node: str, preset: str, artifact_path: Path, ref: Ref) -> None:
    """Show a stage's artifact in the current flow run: its page, completions and funnel where it has some."""
    manifest = Manifest.parse((artifact_path / MANIFEST_NAME).read_bytes(), str(artifact_path))
    label = for_markdown(f"{node_label(node)} of preset {preset}")
    page = stage_page(manifest, artifact_path, ref)
    _markdown(artifact_key(preset, node), page, f"{label}: results, curves and lineage")
    if samples := last_samples(artifact_path):
        key = artifact_key(preset, node, "samples")
        _markdown(key, samples_page(samples, label), f"{label}: completions with their verdicts")
    if rows := funnel_rows(artifact_path):
        _table(artifact_key(preset, node, "funnel"), rows, f"{label}: rows in, dropped and kept by step")


def publish_review(node: str, preset: str, artifact_path: Path, ref: Ref, count: int) -> None:
    """Show sampled rows of a data set that a person is to review."""
    rows = review_rows(artifact_path, count)
    label = for_markdown(f"{node_label(node)} of preset {preset}")
    words = f"{label}, artifact {ref.short}: {len(rows)} rows for review"
    _table(artifact_key(preset, node, "review"), rows, words)


def review_rows(folder: Path, count: int) -> list[Row]:
    """Sampled rows as cells of a table; `row` is the number that an edit names."""
    from tasks.review import ROW, sampled

    return [
        {
            ROW: row[ROW], "domain": for_markdown(row["domain"]), "language": for_markdown(row["language"]),
            "question": one_line(row["question"] or row["prompt"], 300),
            "completion": one_line(row["completion"]), "source": one_line(row["source"], 40),
        }
        for row in sampled(folder, count)
    ]  # fmt: skip


def publish_pipeline_artifacts(report_path: Path) -> None:
    """Show the stage table and the report in the current flow run."""
    manifest = Manifest.parse((report_path / MANIFEST_NAME).read_bytes(), str(report_path))
    label = for_markdown(f"Pipeline of preset {manifest.preset}")
    key = artifact_key(manifest.preset, PIPELINE, "stages")
    _table(key, stage_rows(report_path), f"{label}: pass@1 and the rest by stage")
    key = artifact_key(manifest.preset, PIPELINE, "report")
    _markdown(key, report_page(report_path), f"{label}: the report")


def headline_rows(manifest: Manifest, folder: Path) -> list[Row]:
    """What the stage said of its work, and an evaluation's scores."""
    rows: list[Row] = [
        {"metric": for_markdown(name), "value": _shown(value)} for name, value in manifest.summary.items()
    ]
    rows += [{"metric": name, "value": value} for name, value in _scores(folder).items()]
    rows.append({"metric": "seconds", "value": round(manifest.seconds, 1)})
    rows.append({"metric": "accelerator_hours", "value": round(manifest.accelerator_hours, 4)})
    rows += [
        {"metric": for_markdown(f"rows of {name}"), "value": count}
        for name, count in manifest.tables().items()
    ]
    return rows


def samples_page(rows: Sequence[Mapping[str, Any]], label: str) -> str:
    """Markdown: `SHOWN_SAMPLES` of the rows at most, correct ones and others in turn, each with its verdict
    first. Paragraphs, because the UI cuts the cells of a table off and they wrap."""
    correct = [row for row in rows if row["verdict"] == "correct"]
    others = [row for row in rows if row["verdict"] != "correct"]
    half = SHOWN_SAMPLES // 2
    first = _spread(correct, max(half, SHOWN_SAMPLES - len(others)))
    chosen = [*first, *_spread(others, SHOWN_SAMPLES - len(first))]
    head = f"# {label}: {len(chosen)} of the last completions, correct ones first\n"
    return fitted([head, *(_sample(row) for row in chosen)])


def last_samples(folder: Path) -> list[dict[str, Any]]:
    """The last `LAST_SAMPLES` rows of the samples, and no more of the files than the row groups they are in.

    A row group is decoded in small batches of which only the last are kept: one written by an earlier release
    may hold a million completions.
    """
    import pyarrow.parquet as pq

    shards = sorted((folder / "samples").glob("*.parquet")) or [folder / "samples.parquet"]
    columns = ["prompt", "completion", "verdict", "reward", "completion_tokens"]
    found: list[dict[str, Any]] = []
    for shard in reversed([shard for shard in shards if shard.exists()]):
        with pq.ParquetFile(shard, buffer_size=2**20) as file:
            for group in reversed(range(file.num_row_groups)):
                missing = LAST_SAMPLES - len(found)
                if missing <= 0:
                    return found
                last: deque[dict[str, Any]] = deque(maxlen=missing)
                for batch in file.iter_batches(LAST_SAMPLES, [group], columns):
                    last.extend(batch.slice(max(0, batch.num_rows - missing)).to_pylist())
                found = [*last, *found]
    return found


def stage_page(manifest: Manifest, folder: Path, ref: Ref) -> str:
    """Markdown: results, the training curves and where the artifact comes from.

    The lineage comes twice: the first version of the UI draws images and not Mermaid, the second the reverse.
    """
    node, stage = for_markdown(manifest.node), for_markdown(manifest.stage)
    label = for_markdown(node_label(manifest.node))
    head = f"# {label}\n\n{manifest.kind} `{ref.digest}`, node {node}, stage {stage}\n"
    graph = _lineage(ref)
    diagram = f"```mermaid\n{graph.mermaid()}\n```\n"
    drawings = [*_curves(folder, manifest.node), _recipe(graph)]
    images = [data_uri(d.svg, d.label) + "\n" for d in drawings if d is not None]
    return fitted([head, _headline(headline_rows(manifest, folder)), *images, diagram])


def report_page(folder: Path) -> str:
    """`report.md` with its figures inside, as many as fit."""
    text = (folder / "report.md").read_text()
    room = MAX_BYTES - len(text.encode()) - 2_000

    def embed(match: re.Match[str]) -> str:
        nonlocal room
        image = data_uri((folder / match[2]).read_text(), match[1])
        if len(image) > room:
            return f"*{match[1]}: in report.html*"
        room -= len(image)
        return image

    return fitted([_IMAGE.sub(embed, text)])


def funnel_rows(folder: Path) -> list[Row]:
    """A dictionary for each step of the data funnel; none where the stage left no funnel."""
    from tasks.funnel import read_funnel

    return [
        {"step": for_markdown(step.name), "in": step.rows_in, "dropped": for_markdown(step.reasons),
         "kept": step.kept}
        for step in read_funnel(folder)
    ]  # fmt: skip


def stage_rows(folder: Path) -> list[Row]:
    """The stage table, a dictionary a row."""
    from tasks.report.tables import duration, load_stage_rows, shown_columns

    rows = load_stage_rows({"report": folder})
    columns = shown_columns(rows)
    return [
        {
            "Stage": for_markdown(r.title),
            **{c.head: c.cell(r, compact=True) for c in columns},
            "Time": duration(r.seconds),
        }
        for r in rows
    ]


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """Return model text for a cell: white space folded, cut with a count, safe in Markdown."""
    folded = " ".join(text.split())
    left_out = len(folded) - limit
    return for_markdown(folded[:limit]) + (f" … +{left_out} characters" if left_out > 0 else "")


def data_uri(svg: str, label: str) -> str:
    """An SVG as a Markdown image that needs no other file."""
    return f"![{for_markdown(label)}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def fitted(parts: Sequence[str]) -> str:
    """Join the parts of a page. If it exceeds `MAX_BYTES`, drop the largest parts and state how many."""
    kept = list(parts)
    while len("\n".join(kept).encode()) > MAX_BYTES - 200:
        kept.remove(max(kept, key=lambda part: len(part.encode())))
    left_out = len(parts) - len(kept)
    note = [f"*{left_out} part(s) too large for this page; `r1 show` has them.*"] if left_out else []
    return "\n".join([*kept, *note])


def fitted_rows(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """As many rows as fit, from the first on, and how many were left out."""
    kept = list(rows)
    while len(json.dumps(kept).encode()) > MAX_BYTES - 1_000:
        kept.pop()
    return kept, len(rows) - len(kept)


def artifact_key(preset: str, node: str, *what: str) -> str:
    """Lower-case letters, digits and dashes, as Prefect asks: `tiny--03-r1-zero-samples`.

    The two dashes, which nothing else has, keep the artifacts of `tiny` and those of `tiny-2` apart.
    """
    place = 0 if node == PIPELINE else 1 + position(node)
    parts = (preset, "-".join((f"{place:02d}", node, *what)))
    return "--".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)


def node_label(node: str) -> str:
    """What a person calls a node; `evaluation.r1` is the evaluation of R1."""
    stage, _, of = node.partition(".")
    return f"{title(stage)} of {title(of)}" if of else title(node)


def _table(key: str, rows: Sequence[Row], description: str) -> None:
    from prefect.artifacts import create_table_artifact

    kept, left_out = fitted_rows(rows)
    words = f"{description}; {left_out} rows left out" if left_out else description
    create_table_artifact(table=kept, key=key, description=words)


def _markdown(key: str, text: str, description: str) -> None:
    from prefect.artifacts import create_markdown_artifact

    assert len(text.encode()) <= MAX_BYTES, f"{key}: {len(text)} characters"
    create_markdown_artifact(markdown=text, key=key, description=description)


def _headline(rows: Sequence[Row]) -> str:
    lines = [f"| {row['metric']} | {row['value']} |" for row in rows]
    return "\n".join(["| Result | |", "| --- | --- |", *lines]) + "\n"


def _scores(folder: Path) -> dict[str, str]:
    if not (folder / "scores.parquet").exists():
        return {}
    from artifacts.tables import read_table

    return {
        for_markdown(
            f"{row['metric']}, {group_name(row['by'], row['group'])}"
        ): f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in read_table(folder / "scores.parquet").to_pylist()
    }


def _spread(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """`count` rows at equal distances."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def question_of(prompt: str) -> str:
    """The question in a prompt of the templates `r1` and `plain`; of another one the whole prompt."""
    return prompt.rpartition("User: ")[2].removesuffix(" Assistant:")


def _sample(row: Mapping[str, Any]) -> str:
    question = question_of(row["prompt"])
    reward = "" if row["reward"] is None else f", reward {row['reward']:.3g}"
    verdict = for_markdown(row["verdict"] or "no rule")
    return (
        f"**{verdict}**{reward}, {row['completion_tokens']} tokens\n\n"
        f"> **Question** {one_line(question, 300)}\n>\n> **Completion** {one_line(row['completion'])}\n"
    )


def _curves(folder: Path, node: str) -> list[SvgFigure | None]:
    if not (folder / "metrics.parquet").exists():
        return []
    from artifacts.tables import read_table
    from tasks.report.curves import one_stage
    from tasks.report.data import by_name

    evaluation = folder / "evaluation_metrics.parquet"
    held_out = by_name(read_table(evaluation)) if evaluation.exists() else None
    return [one_stage(node, by_name(read_table(folder / "metrics.parquet")), held_out)]


def _lineage(ref: Ref) -> Lineage:
    from artifacts.lineage import lineage
    from artifacts.store import ArtifactStore
    from flows.paths import absolute_store_url
    from tasks.review import note

    return lineage(ArtifactStore.open(absolute_store_url()), ref, note)


def _recipe(graph: Lineage) -> SvgFigure | None:
    """The artifacts at their places of the recipe."""
    from tasks.report.data import ReportNode
    from tasks.report.recipe_figure import recipe_svg

    parents: dict[str, list[str]] = {digest: [] for digest in graph.nodes}
    for edge in graph.edges:
        parents[edge.child].append(graph.nodes[edge.parent].name)
    nodes = [ReportNode(node.name, d, tuple(parents[d])) for d, node in graph.nodes.items()]
    return recipe_svg(nodes)


def _shown(value: float | int | str) -> str | float | int:
    return for_markdown(value) if isinstance(value, str) else round(value, 4)
