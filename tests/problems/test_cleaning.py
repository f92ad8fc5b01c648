"""Cleaning: no row is lost without a reason, two runs give the same bytes, near duplicates, benchmarks, large
sets."""

import random
from dataclasses import replace
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from artifacts.tables import write_table
from tasks.problem import Problem, to_table
from tasks.problems.cleaning import Cleaning
from tasks.problems.decontamination import near_copies, words_of
from tasks.problems.draw import run
from tasks.problems.repeats import text_keys
from tasks.problems.source import Batch
from tasks.problems.stage import ProblemsConfig
from tasks.tables import PROBLEMS
from tests.jobs import local_job
from tests.problems.test_decontamination import CLIPS, COPIES, HOUSE, JANET, PAINT

GOLDS = ("4", "4.0", "5", r"\frac{1}{2}", "{1,2")
TEXTS = (CLIPS, CLIPS + " ", f"Please: {CLIPS}", HOUSE, JANET, "How many?", "3 + 4 = ?", "小明有几个苹果？")


@st.composite
def problems(draw):
    kinds = st.tuples(st.sampled_from(TEXTS), st.sampled_from(GOLDS), st.sampled_from(("train", "held_out")))
    return [
        Problem(f"p{n}", "math", "en", text, gold, "math", split=split)
        for n, (text, gold, split) in enumerate(draw(st.lists(kinds, max_size=12)))
    ]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=problems(), refused=st.integers(0, 3), near=st.booleans())
def test_rows_in_are_rows_kept_and_rejected(tmp_path_factory, given, refused, near):
    cleaning = Cleaning(tmp_path_factory.mktemp("c"))
    rows = [
        {"problem_id": f"r{n}", "text": "", "reason": "no-question", "detail": ""} for n in range(refused)
    ]
    cleaning.collect([Batch(to_table(given[:5]), rows), Batch(to_table(given[5:]), [])])
    cleaning.drop_repeats()
    cleaning.try_references()
    if near:
        cleaning.drop_near_duplicates(0.8)
    cleaning.decontaminate(10)
    kept = [i for table in cleaning.kept() for i in table["id"].to_pylist()]
    rejected = [i for table in cleaning.rejected() for i in table["problem_id"].to_pylist()]
    assert sorted(kept + rejected) == sorted([p.id for p in given] + [row["problem_id"] for row in rows])
    steps = cleaning.funnel.steps
    assert steps[0].rows_in == len(given) + refused
    assert all(before.kept == after.rows_in for before, after in pairwise(steps))
    assert steps[-1].kept == len(kept)
    assert sum(sum(step.dropped.values()) for step in steps) == len(rejected)


def stage(tmp_path, rows, **settings):
    write_table(tmp_path / "p.parquet", to_table(rows), PROBLEMS)
    config = ProblemsConfig.model_validate(
        {"sources": [{"name": "parquet", "path": str(tmp_path / "p.parquet")}]} | settings
    )
    job = local_job(tmp_path, "problems", "problems", {})
    run(config, job)
    return job


def rows_of(count: int) -> list[Problem]:
    rng = random.Random(0)
    things = [
        f"{a}{b}"
        for a in ("red", "blue", "old", "new", "tall", "small")
        for b in ("boat", "house", "dog", "hat", "car", "pen")
    ]
    made = [
        Problem(
            f"t{n}",
            "math",
            "en",
            f"Kim sees {' and a '.join(rng.choices(things, k=12))}. What is {n} * 3?",
            str(3 * n),
            "math",
        )
        for n in range(count)
    ]
    return [*made, Problem("h", "math", "en", HOUSE, "1", "math", split="held_out")]


def test_two_runs_give_the_same_bytes(tmp_path):
    rows = [
        *rows_of(9000),
        replace(rows_of(1)[0], id="again"),
        Problem("c", "math", "en", f"Now: {HOUSE}", "1", "math"),
    ]
    jobs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        jobs.append(stage(tmp_path / name, rows))
    for table in ("problems", "rejected", "funnel"):
        one, two = ((job.draft / f"{table}.parquet").read_bytes() for job in jobs)
        assert one == two
    assert pq.ParquetFile(jobs[0].draft / "problems.parquet").metadata.num_row_groups == 2
    assert jobs[0].headline["rejected_duplicate"] == jobs[0].headline["rejected_contaminated"] == 1
    assert jobs[0].headline["problems"] == 9001
    assert not list(jobs[0].state.iterdir())
    rejected = pq.read_table(jobs[0].draft / "rejected.parquet").to_pylist()
    assert {row["reason"]: row["problem_id"] for row in rejected} == {
        "duplicate": "again",
        "contaminated": "c",
    }


def test_benchmarks_are_kept_out_of_training(tmp_path):
    write_table(
        tmp_path / "b.parquet",
        to_table([Problem("b1", "math", "en", CLIPS, "72", "math", split="held_out")]),
        PROBLEMS,
    )
    copy = Problem("c", "math", "en", CLIPS.replace("Natalia", "Anna"), "72", "math")
    job = stage(
        tmp_path, [*rows_of(5), copy], benchmarks=[{"name": "parquet", "path": str(tmp_path / "b.parquet")}]
    )
    (row,) = pq.read_table(job.draft / "rejected.parquet").to_pylist()
    assert row["problem_id"] == "c"
    assert "of benchmark problem b1: " in row["detail"]
    assert "b1" not in pq.read_table(job.draft / "problems.parquet")["id"].to_pylist()


def test_near_duplicates_are_dropped_if_asked_for(tmp_path):
    first = Problem("n1", "math", "en", f"{PAINT} {JANET}", "7", "math")
    rows = [
        *rows_of(5), first,
        replace(first, id="n2", prompt=first.prompt.replace("Janet's", "Maria's")),
        replace(first, id="n3", prompt=first.prompt.replace("Janet's", "Nora's"), answer="8"),
        Problem("n4", "math", "en", HOUSE.replace("12 years", "13 winters"), "7", "math"),
    ]  # fmt: skip
    (tmp_path / "off").mkdir()
    assert "rejected_near-duplicate" not in stage(tmp_path / "off", rows).headline
    job = stage(tmp_path, rows, near_duplicates=0.8)
    rejected = [
        r
        for r in pq.read_table(job.draft / "rejected.parquet").to_pylist()
        if r["reason"] == "near-duplicate"
    ]
    assert [row["problem_id"] for row in rejected] == ["n2"]
    assert rejected[0]["detail"].endswith("of the words in a row of n1")


def test_ids_of_two_sources_must_differ(tmp_path):
    write_table(tmp_path / "q.parquet", to_table(rows_of(2)), PROBLEMS)
    two = [{"name": "parquet", "path": str(tmp_path / name)} for name in ("p.parquet", "q.parquet")]
    with pytest.raises(ValueError, match=r"problem id '\w+' occurs twice: make the ids unique"):
        stage(tmp_path, rows_of(2), sources=two)


def test_texts_that_differ_in_white_space_share_a_key():
    import pyarrow as pa

    texts = ["a b", " a\n\tb ", "ab", "a c", "", " ", "好 的", "好的"]
    keys = text_keys(pa.array(["skipped", *texts])[1:]).tolist()
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert keys[4] == keys[5] == 0
    assert keys[6] == keys[7]


WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "lk", "mp")]


def natural(rng: random.Random, size: int) -> str:
    """Words by frequency, so that questions share many short runs, and numbers."""
    picked = rng.choices(WORDS, [1 / (n + 3) for n in range(len(WORDS))], k=size)
    return " ".join(w if rng.random() > 0.1 else str(rng.randint(2, 99)) for w in picked)


@pytest.mark.parametrize("part", range(3))
def test_copies_are_found_among_many_rows(part):
    """More rows than are read in full: the screen has to point at the copies, each of another question."""
    pairs: dict[str, str] = {}
    for held, train in list(COPIES.values())[part::3]:
        pairs.setdefault(held, train)
    rng = random.Random(part)
    others = [natural(rng, 40) for _ in range(6000)]
    questions = [*pairs, *(natural(rng, 30) for _ in range(300))]
    planted = dict(zip(rng.sample(range(6000), len(pairs)), pairs.items(), strict=True))
    rows = [planted[n][1] if n in planted else text for n, text in enumerate(others)]
    found = near_copies(rows, questions, 10)
    missed = {planted[n] for n in planted if found[n] is None}
    assert not missed
    assert sum(match is not None for match in found) == len(pairs)


def test_a_copy_is_found_whatever_stands_in_other_rows():
    """Wording that every row and question has (longer than they are) must not hide a copy or flag the
    others."""
    rng = random.Random(9)
    wording = " ".join(
        words_of("Reply to the machine in plain words, name no sources, keep to metric units and stop.")
    )
    questions = [f"{natural(rng, 25)} {wording}" for _ in range(200)]
    rows = [f"{natural(rng, 25)} {wording}" for _ in range(5000)]
    rows[77] = f"Read this well. {questions[11].upper()}"
    found = near_copies(rows, questions, 10)
    assert [n for n, match in enumerate(found) if match] == [77]
    assert found[77].question == 11
