"""Rows of problem files: bad ones are named at once, odd ones read, repeated ones dropped."""

# ruff: noqa: E501 (whole sentences)
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artifacts.tables import write_table
from tasks.problem import Problem, from_table, to_table
from tasks.problems.draw import draw
from tasks.problems.reading import UnusableProblems
from tasks.problems.sources.parquet import ParquetFile
from tasks.problems.stage import ProblemsConfig
from tasks.tables import PROBLEMS

GOOD = Problem("m1", "math", "en", "What is 6 * 7?", "42", "math", source="own")


def source(tmp_path: Path, *problems: Problem) -> ParquetFile:
    write_table(tmp_path / "p.parquet", to_table(problems), PROBLEMS)
    return ParquetFile(path=str(tmp_path / "p.parquet"))


def written(tmp_path: Path, table: pa.Table) -> ParquetFile:
    pq.write_table(table, tmp_path / "p.parquet")
    return ParquetFile(path=str(tmp_path / "p.parquet"))


def drawn(file: ParquetFile):
    return draw(ProblemsConfig(sources=(file,)))


ODD_VALUES = {
    "domain": (
        "Math",
        "domain is 'Math', it must be one of math, code, stem, logic, general (did you mean math?)",
    ),
    "language": ("English", "language is 'English', it must be one of en, zh"),
    "verifier": (
        "maths",
        "verifier is 'maths', it must be one of choice, code, exact, instructions, judge, math, reasoning_gym, rubric",
    ),
    "split": ("validation", "split is 'validation', it must be one of train, held_out"),
}


@pytest.mark.parametrize(("column", "value", "sentence"), [(c, *row) for c, row in ODD_VALUES.items()])
def test_values_that_are_not_allowed_are_seen_before_a_run(tmp_path, column, value, sentence):
    file = source(tmp_path, GOOD, replace(GOOD, id="m2", **{column: value}))
    with pytest.raises(UnusableProblems) as refused:
        file.check()
    assert str(refused.value).startswith(f"p.parquet, row 2: {sentence}")


UNUSABLE = {
    "empty prompt": ({"prompt": " "}, "prompt is empty"),
    "empty answer": ({"answer": ""}, "answer is empty"),
    "the word None": ({"answer": "None"}, "answer is 'None', which is no answer"),
    "no options": ({"verifier": "choice", "answer": "A"}, "verifier_args.options must be"),
    "no such option": (
        {"verifier": "choice", "answer": "C", "verifier_args": {"options": ["x", "y"]}},
        "answer 'C' names no option: give one of A, B",
    ),
    "no cases": ({"verifier": "code"}, "verifier_args.cases must be a list"),
    "cases of another project": (
        {"verifier": "code", "verifier_args": {"cases": [{"in": "1"}]}}, "cases[0].stdin is missing: the case has in",
    ),
    "no data set": ({"verifier": "reasoning_gym"}, "verifier_args must have `dataset`"),
    "no object": ({"verifier_args": [1]}, "verifier_args must be a JSON object"),
    "odd submissions": ({"verifier": "code", "verifier_args": {"submissions": ["x"]}}, "verifier_args.submissions"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), UNUSABLE.values(), ids=UNUSABLE)
def test_rows_that_no_verifier_can_judge_are_refused_with_their_place(tmp_path, change, sentence):
    file = source(tmp_path, GOOD, replace(GOOD, id="m2", **change))
    with pytest.raises(ValueError, match=r"^p.parquet, row 2, problem 'm2': ") as refused:
        file.draw(0)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_rows_are_counted_by_shard(tmp_path):
    for name, last in (("a", GOOD), ("b", replace(GOOD, id="m4", answer=" "))):
        first = replace(GOOD, id=f"{name}1")
        write_table(tmp_path / f"{name}.parquet", to_table([first, replace(last, id=f"{name}2")]), PROBLEMS)
    with pytest.raises(ValueError, match=r"^b.parquet, row 2, problem 'b2': answer is empty"):
        ParquetFile(path=str(tmp_path)).draw(0)


@pytest.mark.parametrize(("name", "kind"), [("p.jsonl", "JSON Lines"), ("p.csv", "CSV")])
def test_another_format_is_named(tmp_path, name, kind):
    (tmp_path / name).write_text('{"id": "a"}\n')
    with pytest.raises(
        UnusableProblems, match=rf"{name} is a {kind} file, not Parquet: read it with source `file`"
    ):
        ParquetFile(path=str(tmp_path / name)).check()


def test_numbers_as_answers_are_text(tmp_path):
    table = to_table([GOOD]).set_column(4, "answer", pa.array([42]))
    assert written(tmp_path, table).draw(0).problems == [GOOD]


def test_columns_are_read_by_name(tmp_path):
    problems = [replace(GOOD, id=f"m{n}", prompt=f"{n}?") for n in range(4)]
    pq.write_table(to_table(problems[:2]), tmp_path / "a.parquet")
    turned = to_table(problems[2:]).select(sorted(PROBLEMS.names))
    pq.write_table(turned.append_column("year", pa.array([1, 2])), tmp_path / "b.parquet")
    found = ParquetFile(path=str(tmp_path)).draw(0).problems
    assert [replace(p, metadata={}) for p in found] == problems
    assert [p.metadata for p in found] == [{}, {}, {"year": 1}, {"year": 2}]


def test_other_columns_are_kept_as_metadata(tmp_path):
    table = to_table([GOOD, replace(GOOD, id="m2", prompt="?")]).drop_columns(["metadata"])
    more = {
        "year": pa.array([3, None]),
        "tags": pa.array([["a", "b"], None]),
        "info": pa.array([{"split": "x", "n": 1}, None]),
        "rate": pa.array([0.5, None]),
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    first, second = written(tmp_path, table).draw(0).problems
    assert first.metadata == {"year": 3, "tags": ["a", "b"], "info": {"split": "x", "n": 1}, "rate": 0.5}
    assert second.metadata == {}
    assert from_table(to_table([first])) == [first]


def test_a_metadata_column_of_the_file_is_kept(tmp_path):
    texts = pa.array([json.dumps({"year": 2020}), "from a book"])
    table = to_table([GOOD, replace(GOOD, id="m2", prompt="?")])
    table = table.set_column(table.schema.get_field_index("metadata"), "metadata", texts)
    found = written(tmp_path, table).draw(0).problems
    assert [p.metadata for p in found] == [{"year": 2020}, {"metadata": "from a book"}]


def test_a_list_that_stands_for_gigabytes_is_refused(tmp_path):
    """A hundred bytes of the file; the rows stand for four gigabytes of text."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array(["a" * 2**20]))
    lists = pa.ListArray.from_arrays(pa.array([0, 4096], pa.int32()), words)
    table = to_table([GOOD]).append_column("tags", lists)
    with pytest.raises(UnusableProblems, match="takes more than 2 GiB"):
        written(tmp_path, table).draw(0)


def reasons(rejected):
    return sorted((row["problem_id"], row["reason"]) for row in rejected)


def test_a_question_is_asked_once_in_a_split(tmp_path):
    copies = [replace(GOOD, id=f"m{n}", prompt=f" What is\n6 * {7} ? ".replace(" ?", "?")) for n in range(5)]
    other = replace(GOOD, id="h1", split="held_out", prompt="What is 1 + 1?", answer="2")
    problems, rejected = drawn(source(tmp_path, *copies, other))
    assert [p.id for p in problems] == ["m0", "h1"]
    assert reasons(rejected) == [(f"m{n}", "duplicate") for n in range(1, 5)]


@pytest.mark.parametrize(("answer", "kept"), [("0.5", True), ("1/2", True), ("0.6", False)])
def test_two_answers_to_one_question_contradict_each_other(tmp_path, answer, kept):
    first = replace(GOOD, answer=r"\frac{1}{2}", prompt="half?")
    problems, rejected = drawn(source(tmp_path, first, replace(first, id="m2", answer=answer)))
    assert [p.id for p in problems] == (["m1"] if kept else [])
    assert {row["reason"] for row in rejected} == {"duplicate" if kept else "conflicting-answers"}


def test_one_question_with_other_options_is_another_question(tmp_path):
    first = Problem("c1", "stem", "en", "Which?", "A", "choice", {"options": ["x", "y"]})
    second = replace(first, id="c2", verifier_args={"options": ["y", "z"]})
    assert len(drawn(source(tmp_path, first, second)).problems) == 2


def code(identity, answer, **arguments):
    return Problem(identity, "code", "en", f"Task {identity}", answer, "code", arguments)


def test_a_reference_solution_is_tried_once(tmp_path):
    tests = "def check(candidate):\n    assert candidate(2) == 4"
    rows = [
        code("right", "def f(x): return 2 * x", unit_tests=tests, entry_point="f"),
        code("wrong", "def f(x): return 3 * x", unit_tests=tests, entry_point="f"),
        code("odd tests", "def f(x): return 2 * x", unit_tests="x = 1", entry_point="f"),
        code("fenced", "```python\nprint(2 * int(input()))\n```", cases=[{"stdin": "2", "stdout": "4"}]),
        code("documented", '"""\n```\nf\n```\n"""\nprint(4)', cases=[{"stdin": "2", "stdout": "4"}]),
        code("no reference", "", cases=[{"stdin": "2", "stdout": "4"}]),
    ]
    problems, rejected = drawn(source(tmp_path, *rows))
    assert [p.id for p in problems] == ["right", "fenced", "documented", "no reference"]
    assert reasons(rejected) == [("odd tests", "reference-fails"), ("wrong", "reference-fails")]
    assert "asserts nothing" in rejected[1]["detail"] or "assert nothing" in rejected[1]["detail"]
