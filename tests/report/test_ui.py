import base64
import itertools
import json
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from artifacts.manifest import Manifest, ManifestDraft
from artifacts.store import ArtifactStore
from artifacts.tables import ROWS_IN_GROUP, conform, write_table
from flows.ui import (
    LAST_SAMPLES,
    MAX_BYTES,
    PIPELINE,
    artifact_key,
    data_uri,
    fitted,
    fitted_rows,
    funnel_rows,
    headline_rows,
    last_samples,
    one_line,
    report_page,
    samples_page,
    stage_page,
    stage_rows,
)
from tasks.tables import SAMPLES, TABLES
from tests.report.synthetic import HOSTILE, NODES


def manifest_of(folder) -> Manifest:
    return Manifest.parse((folder / "manifest.json").read_bytes(), str(folder))


def test_headline_rows_hold_the_summary_and_the_scores(report, r1_zero):
    rows = {r["metric"]: r["value"] for r in headline_rows(manifest_of(r1_zero), r1_zero)}
    assert rows["reward"] == 1.6
    assert rows["seconds"] == 96.0
    folder = report.inputs["evaluation.r1"].path
    scores = {r["metric"]: r["value"] for r in headline_rows(manifest_of(folder), folder)}
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]", scores["pass_at_1, math"])


def test_samples_show_both_sides_with_the_verdict_first(r1_zero):
    page = samples_page(last_samples(r1_zero), "R1-Zero of preset tiny")
    head, *blocks = page.split("\n\n**")
    assert head == "# R1-Zero of preset tiny: 10 of the last completions, correct ones first"
    verdicts = [block.partition("**")[0] for block in blocks]
    assert [verdict == "correct" for verdict in verdicts] == [True] * 5 + [False] * 5
    for block in blocks:
        assert re.fullmatch(
            r"[\w ]+\*\*, \d+ tokens\n\n> \*\*Question\*\* .+\n>\n> \*\*Completion\*\* .+\n?", block
        )
        assert not set(block.replace("\n>", "").replace("\n> ", "")) & set("<[]")


def test_where_all_are_correct_ten_correct_ones_are_shown(r1_zero):
    rows = [row | {"verdict": "correct", "reward": 1.5} for row in last_samples(r1_zero)]
    page = samples_page(rows, "R1")
    assert page.count("**correct**, reward 1.5, ") == 10
    assert samples_page(rows[:3], "R1").count("**correct**") == 3


def test_a_completion_cannot_leave_its_quotation(r1_zero):
    row = last_samples(r1_zero)[0] | {"completion": "# head\n\n- a\n\n" + HOSTILE, "verdict": "wrong"}
    page = samples_page([row], "R1")
    assert all(line.startswith(("> ", ">", "**wrong**", "# R1")) for line in page.splitlines() if line)


def test_an_artifact_without_samples_has_no_rows(report):
    assert last_samples(report.inputs["reward_models.reward-models"].path) == []


def test_a_funnel_becomes_a_table_of_its_steps(report, r1_zero):
    first, second = funnel_rows(report.inputs["dataset.cold-start"].path)
    assert first["in"] > first["kept"] == second["in"] == second["kept"] + 2
    assert second["dropped"] == "near duplicate 2"
    assert funnel_rows(r1_zero) == []


def sample(number: int, text: str = "") -> dict:
    given = {"completion_tokens": number, "completion": text, "verdict": "correct", "finish_reason": "stop"}
    empty = {field.name: None if field.nullable else 0 for field in SAMPLES}
    words = {field.name: "" for field in SAMPLES if field.type == "string" and not field.nullable}
    return empty | words | given


@pytest.mark.parametrize(
    "shards",
    [[5], [LAST_SAMPLES], [3 * LAST_SAMPLES + 7], [LAST_SAMPLES, 3], [700, 0, 700, 2], [0], [1, 0]],
)
def test_the_last_samples_are_the_last_rows_over_all_shards(tmp_path, shards):
    numbers = iter(range(sum(shards)))
    for shard, count in enumerate(shards):
        rows = [sample(next(numbers)) for _ in range(count)]
        write_table(tmp_path / "samples" / f"{shard:05d}.parquet", rows, SAMPLES)
    found = [row["completion_tokens"] for row in last_samples(tmp_path)]
    assert found == list(range(sum(shards)))[-LAST_SAMPLES:]


def test_what_is_written_can_be_read_from_its_end_alone(tmp_path):
    file = write_table(tmp_path / "samples.parquet", [sample(n) for n in range(20_000)], SAMPLES)
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(i).num_rows for i in range(3)] == [
        ROWS_IN_GROUP,
        ROWS_IN_GROUP,
        20_000 - 2 * ROWS_IN_GROUP,
    ]
    with pq.ParquetFile(file) as whole:
        damaged = whole.metadata.row_group(0).column(0).data_page_offset
    content = bytearray(file.read_bytes())
    content[damaged : damaged + 64] = bytes(64)  # what is not read cannot be missed
    file.write_bytes(content)
    assert [row["completion_tokens"] for row in last_samples(tmp_path)] == list(range(19_000, 20_000))


@pytest.mark.slow
def test_a_huge_row_group_is_not_held_in_memory(tmp_path):
    """160 MB of completions in one row group; what is shown of them fits in a tenth of that."""
    texts = [f"{n:08d}" * 1_000 for n in range(20_000)]
    table = conform([sample(n) for n in range(20_000)], SAMPLES)
    table = table.set_column(table.column_names.index("completion"), SAMPLES.field("completion"), [texts])
    pq.write_table(table, tmp_path / "samples.parquet", compression="zstd", row_group_size=20_000)
    code = (
        "import sys, pathlib, pyarrow as pa; from flows.ui import last_samples; "
        "rows = last_samples(pathlib.Path(sys.argv[1])); "
        "print(len(rows), rows[-1]['completion'][:8], pa.default_memory_pool().max_memory())"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    count, last, peak = done.stdout.split()
    assert (int(count), last) == (LAST_SAMPLES, "00019999")
    assert int(peak) < 48_000_000


def test_model_text_becomes_harmless_in_a_cell():
    cell = one_line(HOSTILE + "\n[a](javascript:x)")
    assert not set(cell) & set("<>[]`|\n")
    assert "‹script›alert" in cell
    assert "://" not in cell
    assert one_line("ab " * 800).endswith("… +1199 characters")


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
    assert page.startswith("# R1-Zero\n")
    assert "\n| reward | 1.6 |\n" in page
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
    from prefect.types.names import LOWERCASE_LETTERS_NUMBERS_AND_DASHES_ONLY_REGEX as PATTERN

    key = artifact_key("My Preset.v2", "evaluation.r1_zero", "samples")
    assert key == "my-preset-v2--14-evaluation-r1-zero-samples"
    assert re.fullmatch(PATTERN, key)


def test_sorted_keys_keep_presets_together_and_follow_the_recipe():
    recipe = [node if node != "evaluation" else "evaluation.base" for node in NODES]
    nodes = [PIPELINE, *recipe, "evaluation.r1", "of-a-user"]
    presets = ["tiny", "tiny-2", "tiny-0", "tinier"]
    keys = {artifact_key(p, n, *what): (p, n) for p in presets for n in nodes for what in ((), ("samples",))}
    assert len(keys) == 2 * len(presets) * len(nodes)
    order = [keys[key] for key in sorted(keys)]
    runs = [preset for preset, _ in itertools.groupby(preset for preset, _ in order)]
    assert sorted(runs) == sorted(presets)  # each in one piece
    of_tiny = [node for node, _ in itertools.groupby(node for preset, node in order if preset == "tiny")]
    assert of_tiny[0] == PIPELINE
    assert [n for n in of_tiny if n in recipe] == recipe
    assert of_tiny[-1] == "of-a-user"


def test_an_image_needs_no_other_file():
    assert data_uri("<svg/>", "a [b]") == "![a ［b］](data:image/svg+xml;base64,PHN2Zy8+)"


def test_the_flow_process_imports_nothing_heavy():
    code = (
        "import sys, flows.ui, tasks.report.tables; "
        "print([m for m in ('torch', 'transformers', 'trl', 'matplotlib', 'prefect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
