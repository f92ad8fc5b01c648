"""A query reads the tables of the store and nothing else; `unrestricted` lifts that."""

from pathlib import Path

import pytest

from artifacts.errors import StoreError
from artifacts.query import sql
from tasks.tables import TABLES
from tests.artifacts.builders import publish_recipe

ATTACKS = {
    "read a file": "FROM read_text('{outside}/secret.txt')",
    "read a file by its name": "FROM '{outside}/secret.csv'",
    "read a file of the store that is no table": "FROM read_text('{store}/refs/tiny/dev1.json')",
    "climb out of a table's path": "FROM read_text('{table}/../../../../../../outside/secret.txt')",
    "list files": "FROM glob('{outside}/*')",
    "read the environment": "FROM read_blob('/proc/self/environ')",
    "sniff a file": "FROM sniff_csv('{outside}/secret.csv')",
    "write a file": "COPY (SELECT 1) TO '{outside}/new.csv'",
    "overwrite a table": "COPY (SELECT 1 AS a) TO '{table}'",
    "write while explaining": "EXPLAIN ANALYZE COPY (SELECT 1 AS a) TO '{table}'",
    "write with a second statement": "SELECT 1; COPY (SELECT 1 AS a) TO '{table}'",
    "prepare a write": "PREPARE p AS COPY (SELECT 1 AS a) TO '{table}'",
    "write from inside a query": "FROM query('COPY (SELECT 1 AS a) TO ''{table}''')",
    "write in a common table": "WITH w AS (COPY (SELECT 1 AS a) TO '{table}') SELECT * FROM w",
    "export": "EXPORT DATABASE '{outside}/new'",
    "import": "IMPORT DATABASE '{outside}'",
    "attach": "ATTACH '{outside}/new.db' AS other",
    "install an extension": "INSTALL httpfs",
    "load an extension": "LOAD httpfs",
    "reach the network": "FROM read_parquet('http://127.0.0.1:1/x.parquet')",
    "unlock": "SET enable_external_access = true",
    "reset": "RESET lock_configuration",
    "log to a file": "FROM enable_logging(storage = 'file', storage_config = {{'path': '{outside}/new'}})",
    "read a variable of this process": "FROM manifests",
    "create": "CREATE TABLE t AS SELECT 1",
    "nothing": "",
}


@pytest.fixture
def outside(tmp_path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    (folder / "secret.csv").write_text("word\nsecret\n")
    return folder


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_query_reads_nothing_else_and_writes_nothing(attack, store, tmp_path, outside):
    publish_recipe(store, tmp_path)
    before = contents(tmp_path)
    tables = sorted(path for path in before if path.endswith("metrics.parquet") and "store" in path)
    query = ATTACKS[attack].format(outside=outside, store=store.backend.root, table=tables[0])
    with pytest.raises(StoreError) as refused:
        sql(store, query, TABLES)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path) == before


def test_unrestricted_opens_all_of_that(store, tmp_path, outside):
    publish_recipe(store, tmp_path)
    found = sql(store, f"FROM read_text('{outside}/secret.txt')", TABLES, unrestricted=True)
    assert found["content"].to_pylist() == ["secret"]
    sql(store, f"COPY (SELECT 1 AS a) TO '{outside}/new.csv'", TABLES, unrestricted=True)
    assert (outside / "new.csv").read_text().split() == ["a", "1"]


@pytest.mark.parametrize(
    "query",
    [
        "WITH m AS (FROM metrics) SELECT count(*) FROM m",
        "VALUES (12)",
        "FROM metrics SELECT count(*)",
        "SELECT count(*) FROM metrics -- and no more;",
    ],
)
def test_every_way_to_write_a_select_is_fine(query, store, tmp_path):
    publish_recipe(store, tmp_path)
    assert sql(store, query, TABLES)[0].to_pylist() == [12]
    assert sql(store, "DESCRIBE metrics", TABLES).num_rows > 3
    assert "metrics" in sql(store, "SHOW TABLES", TABLES)[0].to_pylist()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
