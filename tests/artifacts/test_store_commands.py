import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from artifacts import catalog
from artifacts.store import object_path
from flows.store_commands import register
from tests.artifacts.builders import publish, publish_recipe
from tests.test_export import publish_model


@pytest.fixture
def r1(store, monkeypatch):
    """Runs a command line on `store`; returns its result."""
    monkeypatch.setenv("R1_STORE", store.url)
    app = typer.Typer()
    register(app)
    return lambda *words: CliRunner().invoke(app, list(words))


def test_ls_and_show(r1, store, tmp_path):
    refs = publish_recipe(store, tmp_path)
    listed = r1("ls")
    assert listed.exit_code == 0
    assert f"tiny/dev1  checkpoint  {refs['dev1'].short}" in listed.stdout
    assert "3 more without a name" in listed.stdout
    assert refs["zero"].short in r1("ls", "--all").stdout
    shown = r1("show", "dev1").stdout
    for part in (
        refs["dev1"].digest,
        "model/model.safetensors",
        "tiny/dev1",
        f"dataset: checkpoint {refs['zero'].short}",
    ):
        assert part in shown


@pytest.mark.parametrize(("draw", "begins"), [("tree", "dev1 ("), ("mermaid", "flowchart LR")])
def test_lineage(r1, store, tmp_path, draw, begins):
    publish_recipe(store, tmp_path)
    assert r1("lineage", "dev1", "--draw", draw).stdout.startswith(begins)
    assert r1("lineage", "dev1", "--draw", draw, "--out", str(tmp_path / "drawing")).exit_code == 0
    assert (tmp_path / "drawing").read_text().startswith(begins)


def test_verify_exits_with_1_on_damage_and_repairs(r1, store, tmp_path):
    refs = publish_recipe(store, tmp_path)
    assert r1("verify").exit_code == 0
    weights = store.backend.root / object_path(refs["dev1"].digest) / "model" / "model.safetensors"
    weights.write_bytes(b"")
    found = r1("verify")
    assert found.exit_code == 1
    assert f"{weights} has 0 bytes instead of 2048" in found.stdout
    assert f"moved artifact {refs['dev1'].short}" in r1("verify", "--repair").stdout
    assert [f.what for f in catalog.verify(store)] == ["names an artifact that is gone"]


def test_gc_shows_first_and_deletes_with_yes(r1, store, tmp_path):
    publish_recipe(store, tmp_path)
    loose = publish(store, tmp_path, "loose")
    shown = r1("gc")
    assert loose.short in shown.stdout
    assert "would be deleted" in shown.stdout
    assert loose.digest in store.digests()
    assert r1("gc", "--yes").exit_code == 0
    assert loose.digest not in store.digests()
    assert "4 artifacts" in r1("gc", "--forget", "tiny").stdout
    r1("gc", "--forget", "tiny", "--yes")
    assert store.digests() == []


def test_sql(r1, store, tmp_path):
    publish_recipe(store, tmp_path)
    query = "SELECT node, name, value FROM metrics WHERE node = 'base' AND step = 0"
    assert "loss  0.5" in r1("sql", query).stdout
    assert r1("sql", query, "--format", "csv").stdout.splitlines() == ["node,name,value", "base,loss,0.5"]
    assert json.loads(r1("sql", query, "--format", "json").stdout) == {
        "node": "base",
        "name": "loss",
        "value": 0.5,
    }


def test_export(r1, store, tmp_path):
    store.set_ref("tiny/dev1", publish_model(store, tmp_path))
    assert r1("export", "dev1", str(tmp_path / "out")).exit_code == 0
    assert '"User: "' in (tmp_path / "out" / "chat_template.jinja").read_text()
    assert r1("export", "dev1", str(tmp_path / "out")).exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("show", "dev2"), ("lineage", "0000"), ("sql", "SELEC 1"), ("export", "nothing", "out"),
        ("gc", "--forget", "nothing"), ("lineage", "dev1", "--draw", "png"), ("show",),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(r1, store, tmp_path, words):
    publish_recipe(store, tmp_path)
    result = r1(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    if result.stderr.startswith("r1:"):
        assert len(result.stderr.strip().splitlines()) == 1


def test_importing_the_commands_is_cheap():
    heavy = "[m for m in ('torch', 'pyarrow', 'duckdb') if m in sys.modules]"
    script = f"import sys, flows.store_commands, artifacts.store; print({heavy})"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
