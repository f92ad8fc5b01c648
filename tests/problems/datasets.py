"""Small data sets for tests, in the layout and with the columns of the hub's: `fixtures/MAP.json` by file."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FIXTURES = Path(__file__).parent / "fixtures"


def fixture(name: str) -> dict[str, list[dict[str, Any]]]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_dataset(folder: Path, name: str) -> Path:
    for file, rows in fixture(name).items():
        write_rows(folder / file, rows)
    return folder
