"""Samples in the formats of other tools, from a made-up evaluation of the report's tests."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest

from artifacts.manifest import MANIFEST_NAME, Manifest
from artifacts.tables import read_table
from tasks.samples_export import write_lighteval, write_lm_eval
from tests.report.synthetic import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    inputs = write_run(tmp_path_factory.mktemp("run"), questions=2, count=3, steps=2)
    folder = inputs["evaluation.r1"].path
    manifest = Manifest.parse((folder / MANIFEST_NAME).read_bytes(), str(folder))
    return folder, inputs["problems"].path, manifest


def tasks(problems):
    """Source of the questions -> how many there are."""
    return Counter(read_table(problems / "problems")["source"].to_pylist())


def expected(folder):
    """Problem id -> (completions, metrics)."""
    found = {}
    for row in read_table(folder / "samples").to_pylist():
        found.setdefault(row["problem_id"], ([], {}))[0].append(row["completion"])
    for row in read_table(folder / "question_scores").to_pylist():
        found[row["problem_id"]][1][row["metric"]] = row["value"]
    return found


def test_lm_eval(run, tmp_path):
    folder, problems, manifest = run
    names = write_lm_eval(tmp_path, "owner/model", folder, problems, manifest)
    date = manifest.created_at.replace(tzinfo=None).isoformat().replace(":", "-")
    files = {task: f"owner__model/samples_{task or 'questions'}_{date}.jsonl" for task in tasks(problems)}
    assert names == sorted([f"owner__model/results_{date}.json", *files.values()])
    samples = []
    for task, file in files.items():
        of_task = [json.loads(line) for line in (tmp_path / file).read_text().splitlines()]
        assert [s["doc_id"] for s in of_task] == list(range(tasks(problems)[task]))
        samples += of_task
    for sample in samples:
        completions, metrics = expected(folder)[sample["doc"]["id"]]
        assert sample["resps"] == [completions]
        assert len(sample["filtered_resps"][0]) == 3
        assert sample["arguments"]["gen_args_0"]["arg_0"].startswith("User: ")
        assert sample["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] == 96
        assert {name: sample[name] for name in sample["metrics"]} == metrics
        assert {"target", "filter", "doc_hash", "prompt_hash", "target_hash"} <= set(sample)
    results = json.loads((tmp_path / f"owner__model/results_{date}.json").read_text())
    assert set(results) >= {"results", "configs", "versions", "n-shot", "n-samples", "model_name"}


def test_lighteval(run, tmp_path):
    folder, problems, manifest = run
    names = write_lighteval(tmp_path, "owner/model", folder, problems, manifest)
    date = manifest.created_at.replace(tzinfo=None).isoformat().replace(":", "-")
    result = f"results/owner/model/results_{date}.json"
    folders = f"details/owner/model/{date}"
    files = {task: f"{folders}/details_{task or 'questions'}|0_{date}.parquet" for task in tasks(problems)}
    assert names == sorted([result, *files.values()])
    rows = []
    for task, file in files.items():
        table = pq.ParquetFile(tmp_path / file).read()
        assert table.column_names == ["doc", "metric", "model_response"]
        assert table.num_rows == tasks(problems)[task]
        rows += table.to_pylist()
    for row in rows:
        completions, metrics = expected(folder)[row["doc"]["id"]]
        assert row["model_response"]["text"] == completions
        assert dict(row["metric"]) == metrics
        assert row["doc"]["num_samples"] == 3
        assert row["doc"]["gold_index"] == [0]
    assert set(json.loads((tmp_path / result).read_text())) == {
        "config_general", "results", "versions", "config_tasks",
    }  # fmt: skip
