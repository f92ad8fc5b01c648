import base64
import json
import re
import shutil
import subprocess
import sys

from artifacts.manifest import Manifest, ManifestDraft
from artifacts.store import ArtifactStore
from flows.ui import (
    MAX_BYTES,
    artifact_key,
    data_uri,
    fitted,
    fitted_rows,
    headline_rows,
    one_line,
    report_page,
    sample_rows,
    stage_page,
    stage_rows,
)
from tasks.tables import TABLES
from tests.report.synthetic import HOSTILE


def manifest_of(folder) -> Manifest:
    return Manifest.parse((folder / "manifest.json").read_bytes(), str(folder))


def test_headline_rows_hold_the_summary_and_the_scores(report, r1_zero):
    rows = {r["metric"]: r["value"] for r in headline_rows(manifest_of(r1_zero), r1_zero)}
    assert rows["reward"] == 1.6
    assert rows["seconds"] == 96.0
    folder = report.inputs["evaluation.r1"].path
    scores = {r["metric"]: r["value"] for r in headline_rows(manifest_of(folder), folder)}
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", scores["pass_at_1, math"])


def test_samples_show_both_sides_on_one_line(r1_zero):
    rows = sample_rows(r1_zero)
    assert len(rows) == 10
    assert [row["verdict"] == "correct" for row in rows] == [True] * 5 + [False] * 5
    assert not any(re.search(r"[<>\[\]\n]", str(value)) for row in rows for value in row.values())


def test_an_artifact_without_samples_has_no_rows(report):
    assert sample_rows(report.inputs["reward_models.reward-models"].path) == []


def test_model_text_becomes_harmless_in_a_cell():
    cell = one_line(HOSTILE + "\n[a](javascript:x)")
    assert not set(cell) & set("<>[]`|\n")
    assert "‹script›alert" in cell
    assert "://" not in cell
    assert one_line("ab " * 400).endswith("… +599 characters")


def test_the_stage_page_holds_curves_and_lineage_within_the_limit(r1_zero, tmp_path, monkeypatch):
    monkeypatch.setenv("R1_STORE", str(tmp_path / "store"))
    store = ArtifactStore.open(str(tmp_path / "store"))
    draft = shutil.copytree(r1_zero, tmp_path / "draft", ignore=shutil.ignore_patterns("manifest.json"))
    given = manifest_of(r1_zero)
    fields = ManifestDraft(**{name: getattr(given, name) for name in ManifestDraft.model_fields})
    ref = store.publish(draft, fields, TABLES)
    page = stage_page(store.manifest(ref.digest), store.fetch(ref), ref)
    images = re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)\)", page)
    assert [base64.b64decode(image)[:4] for image in images] == [b"<svg", b"<svg"]
    assert "```mermaid\nflowchart LR" in page
    assert "missing" in page  # the base is not in this store
    assert len(page.encode()) <= MAX_BYTES


def test_the_report_page_embeds_figures_as_far_as_they_fit(report):
    page = report_page(report.draft)
    assert len(page.encode()) <= MAX_BYTES
    assert page.count("data:image/svg+xml") >= 2
    assert not re.search(r"\]\([\w-]+\.svg\)", page)


def test_too_large_a_page_loses_its_largest_part_and_says_so():
    page = fitted(["head", "x" * MAX_BYTES, "tail"])
    assert page.startswith("head\ntail\n*1 part(s) too large")


def test_too_many_rows_are_left_out_and_counted():
    rows = [{"question": f"{i}", "completion": "你" * 600} for i in range(100)]
    kept, left_out = fitted_rows(rows)
    assert len(json.dumps(kept).encode()) <= MAX_BYTES
    assert len(kept) + left_out == 100
    assert 0 < left_out < 100


def test_stage_rows_are_the_table_of_the_report(report, loaded):
    rows = stage_rows(report.draft)
    assert [row["Stage"] for row in rows] == [row.title for row in loaded.rows]
    assert {"Math", "Lang", "Time"} <= set(rows[0])


def test_keys_are_what_prefect_accepts():
    assert artifact_key("tiny", "evaluation.r1_zero", "metrics") == "tiny-evaluation-r1-zero-metrics"


def test_an_image_needs_no_other_file():
    assert data_uri("<svg/>", "a [b]") == "![a ［b］](data:image/svg+xml;base64,PHN2Zy8+)"


def test_the_flow_process_imports_nothing_heavy():
    code = (
        "import sys, flows.ui, tasks.report.tables; "
        "print([m for m in ('torch', 'transformers', 'trl', 'matplotlib', 'prefect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
