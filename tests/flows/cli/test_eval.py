"""`r1 eval`: bad input in one line before any work; a folder on a local copy, kept in the store."""

import json

import pytest
from typer.testing import CliRunner

from artifacts.store import ArtifactStore
from flows.cli import app
from tasks.protocol import Protocol
from tests.problems.datasets import fixture, write_rows

BASE = "tasks/tiny_world/weights/tiny-base"


def evaluate(*arguments: str):
    return CliRunner().invoke(app, ["eval", *arguments])


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name, folder in (("R1_HOME", ""), ("R1_STORE", "store"), ("R1_WORK", "work")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--on", "aime42"], "there is no benchmark 'aime42': use one of aime24,"),
        (["--on", "gsm8k=nowhere.jsonl"], "does not exist"),
        (["--on", "gsm8k", "--samples", "2", "--pass-at", "8"], "pass@8 needs at least 8 samples a question"),
        (["--on", "gsm8k", "--by", "colour"], "use one of domain, level, language, source"),
        (["--on", "gsm8k", "--format", "lm-eval"], "--format and --out need each other"),
        (["--on", "gsm8k", "--template", "plian"], "did you mean plain"),
        (["--on", "gsm8k", "--engine", "vlm"], "vlm"),
        (["--on", "gsm8k"], "no artifact, model folder or hub name"),
    ],
)
def test_bad_input_is_one_line(home, arguments, said):
    done = evaluate("not-there", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (home / "work").exists()


@pytest.mark.slow
def test_a_folder_on_a_local_copy_is_evaluated_once(home):
    rows = fixture("gsm8k")["main/test-00000-of-00001.parquet"]
    copy = write_rows(
        home / "mine.jsonl", [row | {"question": f"{i} + 1 = ?"} for i, row in enumerate(rows * 3)]
    )
    asked = [
        BASE, "--on", f"gsm8k={copy}", "--samples", "2", "--template", "plain", "--max-new-tokens", "8",
        "--allow-weak-sandbox",
    ]  # fmt: skip
    first = evaluate(*asked)
    assert first.exit_code == 0, first.stderr
    table = {
        line.split()[2]: line.split()[3:] for line in first.stdout.splitlines() if "source gsm8k" in line
    }
    assert set(table) >= {"pass_at_1", "pass_at_2", "cons_at_2", "length"}
    assert table["pass_at_1"][-2:] == ["3", "2"]
    store = ArtifactStore.open()
    manifest = store.manifest(store.resolve("eval/evaluation.tasks-tiny_world-weights-tiny-base").digest)
    assert Protocol.of(manifest).engine.startswith("transformers ")
    assert 0 <= manifest.summary["gsm8k_pass_at_1"] <= 1
    jobs = len(list((home / "work" / "jobs").iterdir()))
    again = evaluate(*asked, "--format", "lm-eval", "--out", str(home / "out"))
    assert again.exit_code == 0, again.stderr
    assert len(list((home / "work" / "jobs").iterdir())) == jobs
    (samples,) = (home / "out").rglob("samples_gsm8k_*.jsonl")
    assert [len(json.loads(line)["resps"][0]) for line in samples.read_text().splitlines()] == [2, 2, 2]
