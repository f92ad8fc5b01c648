"""What a newcomer meets first: empty stores, long results, folders that cannot be used. One sentence each."""
# ruff: noqa: E501  (long texts)

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artifacts.manifest import ManifestDraft
from artifacts.store import ArtifactStore
from artifacts.tables import write_table
from flows import cli
from tasks.kinds import Kind
from tasks.tables import METRICS, TABLES

ROWS = 31_000


@pytest.fixture
def r1(store, monkeypatch):
    monkeypatch.setenv("R1_STORE", store.url)
    return lambda *words: CliRunner().invoke(cli.app, list(words))


@pytest.fixture
def long_table(store: ArtifactStore, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    rows = [{"step": n, "name": "loss " + "x" * 300, "value": n / 2} for n in range(ROWS)]
    write_table(draft / "metrics.parquet", rows, METRICS)
    manifest = ManifestDraft(
        kind=Kind.checkpoint, stage="sft", stage_version=1, node="dev1", preset="tiny", key="0" * 64, parents={}, config={}
    )  # fmt: skip
    store.publish(draft, manifest, TABLES)


def test_a_long_result_shows_its_beginning_at_once(r1, long_table):
    started = time.process_time()
    shown = r1("sql", "SELECT step, name, value FROM metrics ORDER BY step")
    assert time.process_time() - started < 10
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["step", "name", "value"]
    assert lines[1].split()[0] == "0"
    assert lines[200].split()[0] == "199"
    assert lines[201:] == ["30,800 rows more: `--format csv` or `json` prints all, LIMIT asks for fewer"]


@pytest.mark.parametrize("layout", ["csv", "json"])
def test_the_other_layouts_print_every_row(r1, long_table, layout):
    lines = r1("sql", "SELECT step FROM metrics ORDER BY step", "--format", layout).stdout.splitlines()
    assert len(lines) == ROWS + (layout == "csv")
    assert lines[-1] in (str(ROWS - 1), json.dumps({"step": ROWS - 1}))


def test_a_result_that_fits_says_nothing_of_more(r1, long_table):
    shown = r1("sql", "SELECT step FROM metrics WHERE step < 200").stdout
    assert len(shown.splitlines()) == 201
    assert "more" not in shown


def test_an_empty_result_shows_its_columns(r1, long_table):
    query = "SELECT step, value FROM metrics WHERE step < 0"
    assert r1("sql", query).stdout.splitlines()[0].split() == ["step", "value"]
    assert r1("sql", query).stdout.splitlines()[1] == "no rows"
    assert r1("sql", query, "--format", "csv").stdout.splitlines() == ["step,value"]


def test_a_cell_of_a_whole_completion_is_shortened(r1, long_table):
    shown = r1("sql", "SELECT repeat('a', 5000) AS a").stdout
    assert "a" * 2_000 + " … 3,000 more characters" in shown.replace("\n", "")


def test_an_empty_store_says_that_it_is_empty(r1, store):
    shown = r1("ls")
    assert shown.exit_code == 0
    assert (
        shown.stdout
        == f"{store.url} holds no artifacts yet: `r1 run` makes some (R1_STORE names another store)\n"
    )


def sentence(*words: str, cwd: Path | None = None, **environment: str) -> str:
    """The one line that `r1 WORDS` complains with, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        cwd=cwd, env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done
    assert done.stderr.startswith("r1: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("command", [("ls",), ("gc",), ("verify",), ("show", "r1"), ("sql", "SELECT 1")])
def test_a_store_that_is_a_file_is_said(command, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is no folder: set R1_STORE to one" in sentence(*command, R1_STORE=str(tmp_path / "file"))


def test_a_home_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for home in ("/proc/x", str(tmp_path / "file" / "home")):
        assert f"{home}" in sentence("up", R1_HOME=home)


def test_a_wrong_folder_stays_as_it_was(tmp_path):
    environment = {
        name: value for name, value in os.environ.items() if name not in ("R1_HOME", "PREFECT_API_URL")
    }
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "up"],
        cwd=tmp_path, env={**environment, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("r1: prefect.toml is not here: run this in the repository's folder")
    assert list(tmp_path.iterdir()) == []


def test_an_export_to_a_folder_that_cannot_be_written_is_said(store, tmp_path):
    from tests.test_export import publish_model

    store.set_ref("tiny/dev1", publish_model(store, tmp_path))
    said = sentence("export", "dev1", "/proc/x", R1_STORE=store.url)
    assert said.startswith("r1: /proc/x")
