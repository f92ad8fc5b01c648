"""Problem files from strangers: what would fill the memory is refused while it is small."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tasks.presets import CONFIGS, PresetError, load_preset
from tasks.problem import Problem, from_table, to_table
from tasks.problems.reading import UnusableProblems, check_files, read_problems
from tasks.problems.sources.parquet import ParquetFile
from tasks.tables import PROBLEMS
from tests.timing import at_most

GOOD = {
    "domain": "math",
    "language": "en",
    "verifier": "math",
    "verifier_args": "{}",
    "split": "train",
    "metadata": "{}",
}


def table(rows: int, **columns) -> pa.Table:
    """`rows` equal problems; `columns` replace some of theirs."""
    one = dict.fromkeys(PROBLEMS.names, "x") | GOOD
    del one["level"]
    given = {name: pa.array([value] * rows) for name, value in one.items()}
    return pa.table(given | columns)


def repeated(text: str, rows: int) -> pa.DictionaryArray:
    """One text in every row, stored once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))


def drawn(path: Path) -> list[Problem]:
    return ParquetFile(path=str(path)).draw(0).problems


def write(path: Path, data: pa.Table, **options) -> Path:
    pq.write_table(data, path, compression="zstd", **options)
    return path


def test_good_files_and_shards_come_back_as_they_were(tmp_path):
    problems = [Problem(f"p{n}", "math", "en", f"{n}+1?", str(n + 1), "math") for n in range(9000)]
    shards = tmp_path / "shards"
    shards.mkdir()
    write(shards / "00001.parquet", to_table(problems[5000:]))
    write(shards / "00000.parquet", to_table(problems[:5000]))
    assert from_table(read_problems(shards)) == problems
    assert drawn(write(tmp_path / "all.parquet", to_table(problems))) == problems


def test_large_text_types_and_dictionaries_are_text(tmp_path):
    data = table(3, prompt=pa.array(["好"] * 3, pa.large_string()), source=repeated("s", 3))
    read = read_problems(write(tmp_path / "p.parquet", data))
    assert read.schema == PROBLEMS
    assert read["prompt"].to_pylist() == ["好"] * 3


@pytest.mark.slow
def test_a_small_file_of_gigabytes_is_refused_by_its_footer(tmp_path):
    """4 GiB of text in less than 4 MB, each text written out."""
    path = tmp_path / "bomb.parquet"
    data = table(64, prompt=pa.array(["a" * 2**20] * 64))
    with pq.ParquetWriter(path, data.schema, compression="zstd", use_dictionary=False) as writer:
        for _ in range(64):
            writer.write_table(data)
    assert path.stat().st_size < 4 * 2**20
    with at_most(1), pytest.raises(UnusableProblems, match=r"takes more than 2 GiB uncompressed"):
        check_files(path)


BOMB = """
import resource, sys
from pathlib import Path
from tasks.problems.reading import UnusableProblems, read_problems
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_problems(Path(sys.argv[1]))
except UnusableProblems as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_text_stored_once_and_repeated_is_refused_in_little_memory(tmp_path):
    """The footer sees 1 MiB; 7 GB are what the rows stand for."""
    path = write(tmp_path / "bomb.parquet", table(7000, prompt=repeated("a" * 2**20, 7000)))
    check_files(path)
    assert path.stat().st_size < 2**20
    done = subprocess.run([sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True)
    said, grown = done.stdout.splitlines()
    assert said.startswith("its text takes more than 2 GiB uncompressed")
    assert int(grown) < 300, "MiB"


def test_rows_and_cells_are_bounded(tmp_path):
    many = write(tmp_path / "many.parquet", table(2_000_001))
    with pytest.raises(UnusableProblems, match=r"more than 2,000,000 rows"):
        check_files(many)
    long = write(tmp_path / "long.parquet", table(1, answer=pa.array(["a" * (2**24 + 1)])))
    with pytest.raises(UnusableProblems, match=r"column answer has a value of 16,777,217 bytes"):
        read_problems(long)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.drop_columns(["prompt"]), "has no column prompt: add it"),
        (lambda t: t.set_column(0, "id", pa.array([1])), "column id is int64, it must be text"),
        (lambda t: t.set_column(0, "id", pa.array([["x"]])), "column id is list<"),
        (lambda t: t.set_column(0, "id", pa.array([None], pa.string())), "column id has empty cells"),
    ],
)
def test_other_columns_are_named(change, sentence, tmp_path):
    path = write(tmp_path / "p.parquet", change(table(1)))
    with pytest.raises(UnusableProblems) as refused:
        read_problems(path)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("args", ["{", "[" * 100_000, "9" * 5000])
def test_arguments_that_are_no_json_are_one_sentence(args, tmp_path):
    path = write(tmp_path / "p.parquet", table(1, verifier_args=pa.array([args])))
    with pytest.raises(ValueError, match="column verifier_args is not JSON"):
        drawn(path)


def test_damaged_files_and_odd_folders_are_one_sentence(tmp_path):
    path = write(tmp_path / "p.parquet", table(1))
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UnusableProblems, match="not a whole Parquet file"):
        check_files(tmp_path / "cut.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnusableProblems, match="holds 0 Parquet files"):
        check_files(tmp_path / "empty")
    (tmp_path / "empty" / "link.parquet").symlink_to(path)
    with pytest.raises(UnusableProblems, match=r"link.parquet is no regular file"):
        check_files(tmp_path / "empty")


def test_a_preset_with_a_refused_file_stops_at_once(tmp_path):
    path = write(tmp_path / "p.parquet", table(1).drop_columns(["prompt"]))
    document = yaml.safe_load((CONFIGS / "tiny.yaml").read_text())
    document["problems"] = {"sources": [{"name": "parquet", "path": str(path)}]}
    preset = tmp_path / "mine.yaml"
    preset.write_text(json.dumps(document))
    with pytest.raises(PresetError, match=r"mine.yaml: problems.parquet: p.parquet has no column prompt"):
        load_preset(str(preset))


def test_a_level_is_a_number_from_1_to_5_and_anything_else_is_kept_as_metadata(tmp_path):
    leveled = [Problem(f"p{n}", "math", "en", "1+1?", "2", "math", level=n or None) for n in range(6)]
    assert from_table(read_problems(write(tmp_path / "own.parquet", to_table(leveled)))) == leveled

    grades = table(3).append_column("level", pa.array([2, 9, None], pa.int64()))  # of a set with ten grades
    found = from_table(read_problems(write(tmp_path / "grades.parquet", grades)))
    assert [p.level for p in found] == [2, None, None]
    assert [p.metadata.get("level") for p in found] == [2, 9, None]

    names = table(1, level=pa.array(["Level 3"]))
    (named,) = from_table(read_problems(write(tmp_path / "names.parquet", names)))
    assert (named.level, named.metadata) == (None, {"level": "Level 3"})
