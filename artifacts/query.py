"""Questions about data are SQL: DuckDB over every table of a store.

One view per table name (`samples`, `metrics`, …) over all artifacts, with the columns `digest`, `node`
and `preset` added; `artifacts` has a row per manifest, `refs` a row per name. Files are not hashed here:
`r1 verify` does that.

A query comes from a shell, a notebook or a colleague, and a stored text can end up in one. By default it can
therefore read the tables of the store and nothing else: one SELECT, no other file, no network, no extension,
and no setting that would lift this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from artifacts.backends import ObjectBackend
from artifacts.errors import CorruptArtifact, StoreError, StoreUnavailable
from artifacts.integrity import misfit
from artifacts.manifest import Manifest
from artifacts.store import ArtifactStore, Report, object_path, skip_silently
from artifacts.tables import Tables

if TYPE_CHECKING:
    import duckdb

_TEXT = pa.string()
_ARTIFACTS = pa.schema(
    {
        "digest": _TEXT, "kind": _TEXT, "stage": _TEXT, "stage_version": pa.int64(), "node": _TEXT,
        "preset": _TEXT, "key": _TEXT, "created_at": pa.timestamp("us", "UTC"), "code_revision": _TEXT,
        "seconds": pa.float64(), "accelerator_hours": pa.float64(), "bytes": pa.int64(), "files": pa.int64(),
        "config": _TEXT, "parents": _TEXT, "versions": _TEXT, "summary": _TEXT,
    }
)  # fmt: skip
_REFS = pa.schema({"name": _TEXT, "digest": _TEXT, "kind": _TEXT, "updated_at": pa.timestamp("us", "UTC")})
_FILES = pa.schema({"table_name": _TEXT, "file": _TEXT, "digest": _TEXT, "node": _TEXT, "preset": _TEXT})


def sql(
    store: ArtifactStore,
    query: str,
    tables: Tables,
    report: Report = skip_silently,
    unrestricted: bool = False,
) -> pa.Table:
    """Return the rows of `query`, with a view for each of `tables` over all artifacts.

    `unrestricted` lifts every limit: the query may then read and write any file that the user may, attach
    databases and load extensions. Damaged manifests, names and table files are left out, and `report` is told
    of them. A file is read in search of damage only after a query failed.

    Raises:
        StoreError: the query is not allowed, or DuckDB refuses it; one line.
    """
    return first_rows(store, query, tables, None, report, unrestricted)[0]


def first_rows(
    store: ArtifactStore,
    query: str,
    tables: Tables,
    limit: int | None,
    report: Report = skip_silently,
    unrestricted: bool = False,
) -> tuple[pa.Table, int]:
    """As `sql`, the first `limit` rows only (None: all), and how many rows the answer has.

    Raises:
        StoreError: as `sql`.
    """
    if not unrestricted:
        _refuse_all_but_select(query)
    try:
        return _answer(store, query, tables, report, frozenset(), unrestricted, limit)
    except StoreError:
        damaged = _unreadable_files(store, tables, report)
        if not damaged:
            raise
        return _answer(store, query, tables, skip_silently, damaged, unrestricted, limit)


def _answer(
    store: ArtifactStore,
    query: str,
    tables: Tables,
    report: Report,
    without: frozenset[str],
    unrestricted: bool,
    limit: int | None,
) -> tuple[pa.Table, int]:
    import duckdb

    try:
        with connect(store, tables, report, without) as connection:
            if not unrestricted:
                _confine(connection)
            relation = connection.sql(query)
            if relation is None:
                return pa.table({}), 0
            # In batches, so that a result of gigabytes is counted and not held.
            reader = relation.to_arrow_reader(4_096)
            kept: list[pa.RecordBatch] = []
            total = 0
            for batch in reader:
                left = batch.num_rows if limit is None else max(0, limit - total)
                kept.append(batch.slice(0, left))
                total += batch.num_rows
            return pa.Table.from_batches(kept, schema=reader.schema), total
    except duckdb.Error as error:
        raise StoreError(f"the query failed: {' '.join(str(error).split())}") from error


def _unreadable_files(store: ArtifactStore, tables: Tables, report: Report) -> frozenset[str]:
    """The table files that cannot be read from end to end as what they should be."""
    found = set()
    for row in (row for manifest in store.objects() for row in _files(store, manifest)):
        if fault := _fault(store, row, tables):
            report(CorruptArtifact(f"{row['file']} is left out: {fault}"))
            found.add(row["file"])
    return frozenset(found)


def _fault(store: ArtifactStore, row: dict[str, str], tables: Tables) -> str | None:
    try:
        schema = tables.get(row["table_name"])
        with store.backend.open(row["path"]) as file, pq.ParquetFile(file) as table:
            types = {field.name: field.type for field in table.schema_arrow}
            odd = [f.name for f in schema or () if f.name in types and types[f.name] != f.type]
            for _ in table.iter_batches(batch_size=1_024):
                pass
    except StoreUnavailable:
        raise
    except (StoreError, OSError, ValueError, pa.ArrowException) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return f"column {odd[0]} has another type" if odd else None


def connect(
    store: ArtifactStore,
    tables: Tables,
    report: Report = skip_silently,
    without: frozenset[str] = frozenset(),
) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB connection with the views, but for the files in `without`.

    No extension is fetched from the network.
    """
    import duckdb

    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    connection.execute("SET TimeZone = 'UTC'")
    if isinstance(store.backend, ObjectBackend):
        connection.register_filesystem(store.backend.fs.fs)
    manifests = list(store.objects(report))
    connection.register("artifacts", pa.Table.from_pylist([_row(m) for m in manifests], schema=_ARTIFACTS))
    connection.register("refs", pa.Table.from_pylist(_refs(store, report), schema=_REFS))
    files = [
        row for manifest in manifests for row in _files(store, manifest, report) if row["file"] not in without
    ]
    connection.register("table_files", pa.Table.from_pylist(files, schema=_FILES))
    for name, schema in tables.items():
        _create_view(connection, name, schema, [row["file"] for row in files if row["table_name"] == name])
    return connection


def _refuse_all_but_select(query: str) -> None:
    """Raise a `StoreError` unless `query` is exactly one SELECT (also written WITH, FROM, VALUES, SHOW …).

    `_confine` cannot replace this check: DuckDB lets COPY and EXPORT write to every path that may be read,
    so a query could overwrite the store's own tables. `EXPLAIN ANALYZE COPY` and `PREPARE` write as well.
    """
    import duckdb

    try:
        kinds = [statement.type for statement in duckdb.connect().extract_statements(query)]
    except duckdb.Error as error:
        raise StoreError(f"the query failed: {' '.join(str(error).split())}") from error
    if kinds != [duckdb.StatementType.SELECT]:
        found = ", ".join(kind.name for kind in kinds) or "nothing"
        raise StoreError(
            f"the query must be one SELECT, and this is {found}: ask one question at a time, "
            "or use --unrestricted to let the query write files and load extensions"
        )


def _confine(connection: duckdb.DuckDBPyConnection) -> None:
    """Close everything but the tables of the store, for good. The order matters: the lock comes last."""
    files = connection.sql("SELECT DISTINCT file FROM table_files").fetchall()
    connection.execute("SET allowed_paths = ?", [[file for (file,) in files]])
    # Otherwise a table name in the query could name a variable of this Python process.
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _create_view(
    connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, paths: list[str]
) -> None:
    if not paths:
        extra = [pa.field(column, _TEXT) for column in ("digest", "node", "preset")]
        connection.register(name, pa.schema([*schema, *extra]).empty_table())
        return
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    connection.execute(
        f"CREATE VIEW {name} AS SELECT t.* EXCLUDE (filename), f.digest, f.node, f.preset "
        f"FROM read_parquet([{listed}], filename = true, union_by_name = true) t "
        "JOIN table_files f ON t.filename = f.file"
    )


def _row(manifest: Manifest) -> dict[str, Any]:
    fields = manifest.model_dump(mode="json") | {
        "digest": manifest.digest,
        "created_at": manifest.created_at,
        "bytes": manifest.size,
        "files": len(manifest.files),
    }
    for name in ("config", "parents", "versions", "summary"):
        fields[name] = json.dumps(fields[name], ensure_ascii=False)
    return {name: fields[name] for name in _ARTIFACTS.names}


def _refs(store: ArtifactStore, report: Report) -> list[dict[str, Any]]:
    return [
        {"name": n.name, "digest": n.ref.digest, "kind": n.ref.kind, "updated_at": n.updated_at}
        for n in store.refs(report).values()
    ]


def _files(
    store: ArtifactStore, manifest: Manifest, report: Report = skip_silently
) -> Iterator[dict[str, str]]:
    """A row for each table file that is there in its size. DuckDB would wait for ever for a FIFO's writer."""
    folder = object_path(manifest.digest)
    tables = [file for file in manifest.files if file.table is not None]
    found = store.backend.listing(folder) if tables else {}
    for file in tables:
        where = store.backend.address(f"{folder}/{file.path}")
        if damage := misfit(found, file):
            report(CorruptArtifact(f"{where} is left out: it {damage.what}"))
            continue
        yield {
            "table_name": file.table or "",
            "file": where,
            "path": f"{folder}/{file.path}",
            "digest": manifest.digest,
            "node": manifest.node,
            "preset": manifest.preset,
        }
