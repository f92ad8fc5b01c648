import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import TableError
from artifacts.tables import conform, inspect, read_table, schema_name, write_table
from tasks.tables import METRICS, PREFERENCES, SCORES, TABLES

METRIC = {"step": 1, "name": "loss", "value": 0.5}
VALUES = {
    pa.string(): st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
}


def rows_of(schema: pa.Schema):
    columns = {f.name: VALUES[f.type] | st.none() if f.nullable else VALUES[f.type] for f in schema}
    return st.lists(st.fixed_dictionaries(columns), max_size=4)


@pytest.mark.parametrize("name", TABLES)
def test_rows_come_back_as_they_went_in(name, tmp_path):
    @settings(max_examples=15, deadline=None)
    @given(rows_of(TABLES[name]))
    def round_trip(rows):
        path = write_table(tmp_path / f"{name}.parquet", rows, TABLES[name])
        assert read_table(path).to_pylist() == rows
        assert inspect(path, path.name, TABLES) == (name, len(rows))

    round_trip()


def test_shards_are_read_in_order_and_by_either_name(tmp_path):
    for number in (2, 0, 1):
        write_table(tmp_path / "metrics" / f"{number:05d}.parquet", [METRIC | {"step": number}], METRICS)
    write_table(tmp_path / "scores.parquet", [], SCORES)
    assert read_table(tmp_path / "metrics")["step"].to_pylist() == [0, 1, 2]
    assert read_table(tmp_path / "scores").num_rows == 0
    assert read_table(tmp_path / "metrics", columns=["name"]).column_names == ["name"]


def test_absent_nullable_columns_become_null_and_order_does_not_matter():
    row = {"safe": True, "prompt": "p", "set": "safety", "problem_id": "1"}
    assert conform([row], PREFERENCES).to_pylist() == [
        row | {"chosen": None, "rejected": None, "response": None, "margin": None}
    ]


def test_arrow_tables_are_cast_without_loss():
    table = pa.table({"name": ["loss"], "value": pa.array([1], pa.int64()), "step": pa.array([3.0])})
    assert conform(table, METRICS).to_pylist() == [{"step": 3, "name": "loss", "value": 1.0}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([METRIC, METRIC | {"name": None}], "column name, row 1 is null"),
        ([METRIC, METRIC | {"step": 1.5}], "column step, row 1"),
        ([METRIC, METRIC | {"step": 2**40}], "column step, row 1"),
        ([METRIC | {"value": "0.5"}], "column value, row 0: string does not become double"),
        ([METRIC, METRIC | {"value": "x"}], "column value, row"),
        ([METRIC | {"name": "\ud800"}], "column name, row 0"),
        ([METRIC | {"extra": 1}], "unknown column extra"),
        ([{"step": 1, "name": "loss"}], "column value is missing"),
        ([METRIC, {"step": 1}], "row 1 has other columns than row 0"),
        (pa.table({"step": [1], "name": ["a"], "value": ["1"]}), "column value, row 0"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(rows, message, tmp_path):
    with pytest.raises(TableError, match=message):
        write_table(tmp_path / "metrics.parquet", rows, METRICS)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_table(tmp_path / "metrics.parquet", [METRIC], METRICS)
    with pytest.raises(TableError):
        write_table(path, [{"step": "x"}], METRICS)
    assert read_table(path).to_pylist() == [METRIC]


def test_a_table_is_named_by_its_file_or_its_folder():
    with pytest.raises(TableError, match=r"model/x.parquet names no table schema"):
        schema_name("model/x.parquet", TABLES)
    assert schema_name("samples/00001.parquet", TABLES) == "samples"


def test_foreign_files_are_inspected(tmp_path):
    path = tmp_path / "metrics.parquet"
    pq.write_table(pa.table({"step": pa.array([1], pa.int32()), "name": ["a"]}), path)
    with pytest.raises(TableError, match="column value is missing"):
        inspect(path, "metrics.parquet", TABLES)
    columns = {"step": pa.array([1, None], pa.int32()), "name": ["a", "b"], "value": [0.1, 0.2]}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(TableError, match="column step, row 1 is null"):
        inspect(path, "metrics.parquet", TABLES)
    pq.write_table(pa.table(columns | {"step": [1, 2]}), path)
    with pytest.raises(TableError, match="column step is int64, it must be int32"):
        inspect(path, "metrics.parquet", TABLES)


def test_a_truncated_file_is_named(tmp_path):
    path = write_table(tmp_path / "metrics.parquet", [METRIC] * 50, METRICS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TableError, match="is not a whole Parquet file"):
        read_table(path)
    with pytest.raises(TableError, match="holds no Parquet file"):
        read_table(tmp_path / "nothing")
