import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from artifacts import catalog
from artifacts.store import object_path
from flows import cli
from tests.artifacts.builders import publish, publish_recipe
from tests.test_export import publish_model


@pytest.fixture
def r1(store, monkeypatch):
    """Runs a command line on `store`; returns its result."""
    monkeypatch.setenv("R1_STORE", store.url)
    return lambda *words: CliRunner().invoke(cli.app, list(words))


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
    written = tmp_path / "written.csv"
    copy = f"COPY (SELECT 1 AS a) TO '{written}'"
    assert "use --unrestricted" in r1("sql", copy).stderr
    assert not written.exists()
    assert r1("sql", copy, "--unrestricted").exit_code == 0
    assert written.exists()


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


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("flows.cli", {"torch", "pyarrow", "duckdb", "prefect", "pydantic", "rich", "httpx", "yaml"}),
        ("artifacts.store", {"torch", "pyarrow", "duckdb"}),
    ],
)
def test_importing_the_commands_is_cheap(module, heavy):
    script = f"import sys, {module}; print(*set(sys.modules) & {heavy})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "flows.cli", "--help"], capture_output=True, text=True)
    names = {"up", "run", "down", "plan", "estimate", "doctor", "distill", "ls", "sql", "export"}
    assert names <= set(done.stdout.split())


HOSTILE = "\x1b]0;owned\x07\u202etxt\u2028\x9b2J"


def test_hostile_text_reaches_no_terminal(r1, store, tmp_path):
    """Names, settings, and rows of a table; every layout of `sql` and both drawings."""
    ref = publish(store, tmp_path, "dev9", config={"note": HOSTILE, HOSTILE: 1})
    store.set_ref("tiny/dev9", ref)
    query = "SELECT chr(27) || chr(8238) || chr(155) AS a, 'x' AS \"\x1b[2J\""
    for words in (
        ("ls",), ("show", "dev9"), ("show", HOSTILE), ("lineage", "dev9"), ("gc",), ("sql", query),
        ("sql", query, "--format", "json"), ("sql", f"SELECT '{HOSTILE}' FROM nothing"),
        ("gc", "--forget", HOSTILE), ("plan", "--preset", HOSTILE),
    ):  # fmt: skip
        shown = r1(*words).output
        assert shown, words
        assert not {c for c in shown if c != "\n" and not c.isprintable()}, words


def test_json_of_hostile_text_is_still_its_json(r1, store, tmp_path):
    publish_recipe(store, tmp_path)
    row = json.loads(r1("sql", "SELECT chr(27) || chr(8238) || '你好' AS a", "--format", "json").stdout)
    assert row == {"a": "\x1b\u202e你好"}


def test_what_a_command_writes_is_closed_to_others_but_an_export_is_not(r1, store, tmp_path):
    before = os.umask(0o022)
    try:
        store.set_ref("tiny/dev1", publish_model(store, tmp_path))
        assert r1("lineage", "dev1", "--out", str(tmp_path / "drawing")).exit_code == 0
        assert r1("export", "dev1", str(tmp_path / "out")).exit_code == 0
        assert os.umask(0o022) == 0o022, "the mask of the process is the user's again"
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "drawing", *(tmp_path / "out").iterdir())}
    assert modes.pop("drawing") == 0o600
    assert set(modes.values()) == {0o644}
