"""Decisions on data sets, and what a reviewer's rows make of a set."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from artifacts.keys import cache_key
from artifacts.lineage import lineage
from artifacts.manifest import ManifestDraft
from artifacts.refs import Ref
from artifacts.store import ArtifactStore
from artifacts.tables import read_table, write_table
from artifacts.trust import Trust
from tasks.funnel import Funnel, read_funnel
from tasks.kinds import Kind
from tasks.review import (
    Decision,
    Review,
    ReviewError,
    count_rows,
    decide,
    newest,
    note,
    rows_of,
    sampled,
    save_rows,
)
from tasks.tables import REJECTED, SFT, TABLES
from tests.worlds import write_sft

ROWS = 12
APPROVED = Review(decision=Decision.approve, author="Ann")
EDITED = Review(decision=Decision.edit, author="Ann", comment="typos")
NEW = {
    "problem_id": "n",
    "domain": "math",
    "language": "en",
    "prompt": "User: 1?",
    "completion": "<answer> 1",
}


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore.open(str(tmp_path / "store"))


def published(store: ArtifactStore, folder: Path, seed: int = 0, shards: bool = False) -> Ref:
    draft = write_sft(folder / f"draft-{seed}", ROWS, seed=seed)
    if shards:
        table = read_table(draft / "sft.parquet")
        (draft / "sft.parquet").unlink()
        for number, start in enumerate(range(0, ROWS, 5)):
            write_table(draft / "sft" / f"{number:05d}.parquet", table.slice(start, 5), SFT)
    write_table(draft / "rejected.parquet", [], REJECTED)
    funnel = Funnel()
    funnel.add("readable", ROWS, {"language": 3})
    funnel.write(draft)
    fields = ManifestDraft(
        kind=Kind.dataset, stage="cold-start", stage_version=1, node="cold-start", preset="tiny",
        key=cache_key("cold-start", 1, {"seed": seed}, {}), config={"seed": seed}, seconds=7.0,
    )  # fmt: skip
    return store.publish(draft, fields, TABLES)


@pytest.fixture
def dataset(store, tmp_path) -> Ref:
    return published(store, tmp_path)


def lines(*rows: dict) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def of(store: ArtifactStore, ref: Ref) -> list[dict]:
    return list(rows_of(store.fetch(ref)))


def test_nothing_is_decided_at_first(store, dataset):
    assert newest(store, dataset) is None
    assert note(store, dataset) == ""


def test_an_approved_set_is_used_itself_and_its_decision_is_lineage(store, dataset, tmp_path):
    made = decide(store, dataset, APPROVED, tmp_path)
    assert made.result == dataset
    assert newest(store, dataset) == made
    assert (
        lineage(store, dataset, note).tree().endswith("approved by Ann on " + f"{made.at:%Y-%m-%d %H:%M} UTC")
    )
    assert f"approved by Ann on {made.at:%Y}" in lineage(store, dataset, note).mermaid()
    record = store.manifest(made.record.digest)
    assert (record.kind, record.parents) == (Kind.review, {"reviewed": dataset})
    assert read_json(store.fetch(made.record) / "review.json")["author"] == "Ann"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_decision_is_on_exactly_one_artifact(store, dataset, tmp_path):
    other = published(store, tmp_path, seed=1)
    decide(store, dataset, APPROVED, tmp_path)
    assert newest(store, other) is None


def test_a_later_decision_overrules_and_keeps_the_earlier(store, dataset, tmp_path):
    rejection = Review(decision=Decision.reject, author="Bob", comment="terse")
    first = decide(store, dataset, rejection, tmp_path)
    second = decide(store, dataset, APPROVED, tmp_path)
    assert newest(store, dataset) == second
    assert store.manifest(second.record.digest).parents["earlier"] == first.record
    third = decide(store, dataset, rejection, tmp_path)
    assert newest(store, dataset).sentence.endswith("UTC: terse")
    assert len({made.record.digest for made in (first, second, third)}) == 3


def test_edited_rows_make_another_set_of_the_same_node(store, dataset, tmp_path):
    before = of(store, dataset)
    rows = lines(
        {"row": 2, "completion": "better"}, {"row": 4, "remove": True}, {"row": None, **NEW},
        {"row": 5, "completion": before[5]["completion"]},
    )  # fmt: skip
    made = decide(store, dataset, EDITED, tmp_path, rows)
    new = {**dict.fromkeys(SFT.names), **NEW, "source": "review"}
    expected = [*before[:2], before[2] | {"completion": "better"}, before[3], *before[5:], new]
    assert of(store, made.result) == expected
    was, now = store.manifest(dataset.digest), store.manifest(made.result.digest)
    assert (now.node, now.stage, now.config, now.seconds) == (was.node, was.stage, was.config, was.seconds)
    assert now.parents == {"reviewed": dataset}
    told = {name: value for name, value in now.summary.items() if name.startswith("review_")}
    assert told == {
        "review_decision": "edit", "review_author": "Ann", "review_comment": "typos", "review_changed": 1,
        "review_added": 1, "review_removed": 1,
    }  # fmt: skip
    assert {file.path for file in now.files} == {"sft.parquet", "rejected.parquet", "funnel.parquet"}
    step = read_funnel(store.fetch(made.result))[-1]
    assert (step.name, step.rows_in, step.dropped) == (
        "human review (1 rows added)", ROWS, {"removed_by_reviewer": 1},
    )  # fmt: skip
    assert "edited by Ann" in note(store, made.result)
    assert note(store, dataset) == "", "the sentence stands at the set that is used"
    assert (made.review.changed, made.review.added, made.review.removed) == (1, 1, 1)


def test_equal_rows_make_the_same_set_whoever_gives_them(store, dataset, tmp_path):
    rows = lines({"row": 0, "completion": "x"})
    first = decide(store, dataset, EDITED, tmp_path, rows)
    second = decide(store, dataset, EDITED.model_copy(update={"author": "Bob"}), tmp_path, rows)
    assert first.result == second.result
    assert first.record != second.record
    third = decide(store, dataset, EDITED, tmp_path, lines({"row": 0, "completion": "y"}))
    assert third.result != first.result


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_saved_rows_are_edited_and_given_back(store, tmp_path, shards, ending):
    ref = published(store, tmp_path, shards=shards)
    saved = tmp_path / "rows.jsonl"
    assert save_rows(store.fetch(ref), saved) == ROWS
    rows = [json.loads(line) for line in saved.read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(ROWS))
    rows[7]["completion"] = "中文 better"
    del rows[3]
    out = tmp_path / f"edited.{ending}"
    if ending == "jsonl":
        out.write_text(lines(*rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), out)
    partial = decide(store, ref, EDITED, tmp_path, str(out))
    assert (partial.review.changed, partial.review.removed) == (1, 0), "what is not given stays"
    whole = decide(store, ref, EDITED, tmp_path, str(out), whole=True)
    assert (whole.review.changed, whole.review.added, whole.review.removed) == (1, 0, 1)
    expected = of(store, ref)
    expected[7]["completion"] = "中文 better"
    assert of(store, partial.result) == expected
    assert of(store, whole.result) == expected[:3] + expected[4:]


def test_a_whole_set_without_numbers_is_compared_by_its_rows(store, dataset, tmp_path):
    rows = of(store, dataset)
    made = decide(store, dataset, EDITED, tmp_path, lines(*rows[::-1][:-2], NEW), whole=True)
    assert (made.review.changed, made.review.added, made.review.removed) == (0, 1, 2)


@pytest.mark.parametrize(
    ("rows", "whole", "reason"),
    [
        (lines({"row": ROWS, "completion": "x"}), False, "line 1: row must be a number from 0 to 11"),
        (lines({"row": -1, "completion": "x"}), False, "from 0 to 11"),
        (lines({"row": True, "completion": "x"}), False, "from 0 to 11"),
        (lines({"row": "3", "completion": "x"}), False, "from 0 to 11"),
        (lines({"row": 1.0, "completion": "x"}), False, "from 0 to 11"),
        (lines({"completion": "x"}), False, "line 1 does not say which row it changes"),
        (lines({"row": 1, "remove": True}, {"row": 1}), False, "line 2: row 1 stands twice"),
        (lines({"row": 1, "completion": " "}), False, "column completion must be a text that is not empty"),
        (lines({"row": 1, "completion": None}), False, "column completion must be a text"),
        (lines({"row": 1, "completion": ["x"]}), False, "column completion must be a text"),
        ('{"row": 1, "completion": "\\ud800"}', False, "half of a surrogate pair"),
        (lines({"row": 1, "score": "x"}), False, "score is no column: the columns are problem_id, domain"),
        (lines({"row": None, "prompt": "x"}), False, "column problem_id, domain, language, completion is"),
        ('{"row": 1,', False, "the pasted rows, line 1 is no JSON object"),
        ('{"row": 1}\n[]', False, "line 2 is no JSON object"),
        ('{"row": ' + "[" * 100_000, False, "line 1 is no JSON object"),
        (lines({"row": 1}), False, "these rows change nothing"),
        (lines(*[{"row": n, "remove": True} for n in range(ROWS)]), False, "no row is left"),
        (lines({"row": 1, "remove": True}), True, "no row is left"),
        ("nowhere.jsonl", False, "nowhere.jsonl is no file on this machine"),
        ("/dev/zero", False, "/dev/zero is no file"),
        (" \n", False, "an edit needs its rows"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused_with_their_place(store, dataset, tmp_path, rows, whole, reason):
    with pytest.raises(ReviewError) as refused:
        decide(store, dataset, EDITED, tmp_path / "scratch", rows, whole)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert newest(store, dataset) is None
    assert list((tmp_path / "scratch").glob("*")) == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.parquet", b"no parquet", "is not a whole Parquet file"),
        ("a.jsonl", b"\xff\xfe", "it is not UTF-8 text"),
        ("a.jsonl", b"", "these rows change nothing"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(store, dataset, tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReviewError, match=reason):
        decide(store, dataset, EDITED, tmp_path / "scratch", str(tmp_path / name))


def test_a_decision_that_lacks_something_is_refused(store, dataset, tmp_path):
    with pytest.raises(ReviewError, match="a rejection needs its reason"):
        decide(store, dataset, Review(decision=Decision.reject, author="Ann"), tmp_path)
    with pytest.raises(ReviewError, match="rows were given as well"):
        decide(store, dataset, APPROVED, tmp_path, lines({"row": 1, "completion": "x"}))
    with pytest.raises(ReviewError, match="is a checkpoint: only data sets"):
        decide(store, replace_kind(dataset), APPROVED, tmp_path)
    for author in ("", "  ", "x" * 101):
        with pytest.raises(ValidationError):
            Review(decision=Decision.approve, author=author)


def replace_kind(ref: Ref) -> Ref:
    return ref.model_copy(update={"kind": "checkpoint"})


def test_what_the_author_writes_is_one_harmless_line(store, dataset, tmp_path):
    made = decide(store, dataset, APPROVED.model_copy(update={"comment": "a\x1b[2J\nb"}), tmp_path)
    assert made.sentence.endswith(r": a\x1b[2J\nb")


def test_with_trust_a_strangers_decision_does_not_count(store, dataset, tmp_path):
    decide(store, dataset, APPROVED, tmp_path / "scratch")
    trust = Trust.load(tmp_path / "trust").turn(required=True)
    guarded = ArtifactStore(store.backend, trust)
    assert newest(guarded, dataset) is None
    guarded.sign(dataset)
    assert decide(guarded, dataset, APPROVED, tmp_path / "scratch").review == APPROVED


@pytest.mark.parametrize("shards", [False, True])
def test_a_sample_is_spread_over_the_set(store, tmp_path, shards):
    ref = published(store, tmp_path, shards=shards)
    rows, folder = of(store, ref), store.fetch(ref)
    found = sampled(folder, 4)
    assert [row["row"] for row in found] == [0, 3, 6, 9]
    assert [{**row} for row in found] == [{"row": n, **rows[n]} for n in (0, 3, 6, 9)]
    assert len(sampled(folder, 1_000)) == ROWS


_NUMBERS = st.sets(st.integers(0, ROWS - 1))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed=_NUMBERS, removed=_NUMBERS, added=st.integers(0, 3))
def test_rows_are_counted_as_they_end(store, dataset, tmp_path, changed, removed, added):
    changed -= removed
    rows = [{"row": n, "remove": True} for n in removed]
    rows += [{"row": n, "completion": f"new {n}"} for n in changed] + [{"row": None, **NEW}] * added
    if not rows or (len(removed) == ROWS and not added):
        return
    made = decide(store, dataset, EDITED, tmp_path / "scratch", lines(*rows))
    assert count_rows(store.fetch(made.result)) == ROWS - len(removed) + added
    counts = (made.review.changed, made.review.added, made.review.removed)
    assert counts == (len(changed), added, len(removed))
