"""Rows in are rows kept and rows dropped."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.tables import read_table
from tasks.funnel import Funnel, FunnelStep, read_funnel

_REASONS = st.dictionaries(st.sampled_from(["duplicate", "contaminated", "wrong"]), st.integers(0, 10**9))


@given(kept=st.integers(0, 10**9), dropped=_REASONS)
def test_every_row_is_counted_once(kept, dropped):
    funnel = Funnel()
    funnel.add("step", kept, dropped)
    step = funnel.steps[0]
    assert step.rows_in == kept + sum(dropped.values())
    assert 0 not in step.dropped.values()


def test_numbers_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="7 rows in are not 4 kept and 2 dropped"):
        FunnelStep("step", 7, 4, {"wrong": 2})


def test_the_table_has_a_row_for_each_outcome(tmp_path):
    funnel = Funnel()
    funnel.add("correct", 3, {"wrong": 2, "timeout": 0})
    funnel.write(tmp_path)
    rows = read_table(tmp_path / "funnel.parquet").to_pylist()
    assert [(row["step"], row["outcome"], row["rows"]) for row in rows] == [
        ("correct", "in", 5),
        ("correct", "wrong", 2),
        ("correct", "kept", 3),
    ]


@given(steps=st.lists(st.tuples(st.text(min_size=1), st.integers(0, 10**9), _REASONS), max_size=12))
def test_what_is_written_is_read(steps):
    funnel = Funnel()
    for name, kept, dropped in steps:
        funnel.add(name, kept, dropped)
    with tempfile.TemporaryDirectory() as folder:
        assert read_funnel(Path(folder)) == ()
        funnel.write(Path(folder))
        assert read_funnel(Path(folder)) == tuple(funnel.steps)
