"""What is committed of a run on other machines than CI's: report, raw metrics, versions, times.

    python -m docs.publish smollm2-135m FOLDER [WORDS...]

From the newest report of the preset in the store. WORDS say how the run was started. FOLDER gets

    report.html                 as the run made it
    scores.parquet              every score of every checkpoint, column `node`
    question_scores.parquet     the same by question, for paired comparisons
    metrics.parquet             the training curves, evaluation during training among them (`during` is true)
    artifacts.parquet           name, stage, digest, seconds, accelerator-hours
    run.json                    command, versions, sums
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.manifest import Manifest
from artifacts.store import ArtifactStore
from artifacts.tables import read_table

_TABLES = {
    "scores": ["scores"],
    "question_scores": ["question_scores"],
    "metrics": ["metrics", "evaluation_metrics"],
}


def publish(store: ArtifactStore, preset: str, folder: Path, command: Sequence[str]) -> None:
    """Write the files.

    Raises:
        artifacts.errors.ArtifactError: the store holds no report of the preset.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = store.resolve(f"{preset}/report")
    parents = store.manifest(report.digest).parents
    shutil.copyfile(store.fetch(report) / "report.html", folder / "report.html")
    for table, files in _TABLES.items():
        found = [
            rows
            for name, ref in parents.items()
            for file in files
            for rows in _rows(store.fetch(ref), name.partition(".")[2], file)
        ]
        if found:
            pq.write_table(pa.concat_tables(found), folder / f"{table}.parquet", compression="zstd")
    manifests = [(name, store.manifest(ref.digest)) for name, ref in parents.items()]
    pq.write_table(_artifacts(manifests), folder / "artifacts.parquet")
    (folder / "run.json").write_text(json.dumps(_summary(preset, manifests, command), indent=1) + "\n")


def _rows(folder: Path, node: str, file: str) -> list[pa.Table]:
    if not (folder / f"{file}.parquet").exists():
        return []
    table = read_table(folder / file)
    table = table.add_column(0, "node", pa.array([node] * table.num_rows))
    if not file.endswith("metrics"):
        return [table]
    during = [file == "evaluation_metrics"] * table.num_rows
    return [table.append_column("during", pa.array(during, pa.bool_()))]


def _artifacts(manifests: Sequence[tuple[str, Manifest]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"artifact": name, "stage": m.stage, "stage_version": m.stage_version, "digest": m.digest,
             "seconds": m.seconds, "accelerator_hours": m.accelerator_hours, "made": m.created_at.isoformat()}
            for name, m in manifests
        ]
    )  # fmt: skip


def _summary(
    preset: str, manifests: Sequence[tuple[str, Manifest]], command: Sequence[str]
) -> dict[str, object]:
    versions: dict[str, str] = {}
    for _, manifest in manifests:
        versions |= manifest.versions
    made = {m.digest: m for _, m in manifests}.values()  # two nodes may share an artifact
    return {
        "preset": preset,
        "command": " ".join(command),
        "made": f"{max(m.created_at for _, m in manifests):%Y-%m-%d}",
        "versions": dict(sorted(versions.items())),
        "code_revision": next((m.code_revision for _, m in manifests if m.code_revision), None),
        "job_seconds": round(sum(m.seconds for m in made), 1),
        "accelerator_hours": round(sum(m.accelerator_hours for m in made), 4),
    }


if __name__ == "__main__":
    publish(ArtifactStore.open(), sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
