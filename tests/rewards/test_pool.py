"""The pool: no row is lost or reordered, whatever happens to its processes and whoever calls it."""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.problem import Problem
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict
from tests.rewards.rows import completion, problem

SUMS = [(rf"\sqrt{{{n * n * 2}}}", rf"{n + n % 2}\sqrt{{2}}") for n in range(1, 41)]
EXPECTED = ["wrong" if n % 2 else "correct" for n in range(1, 41)]


def verdicts(pool, pairs):
    judged = pool.verify([problem(answer=gold) for gold, _ in pairs], [completion(a) for _, a in pairs])
    return [j.verdict.value for j in judged]


def test_rows_come_back_in_order(pool):
    assert verdicts(pool, SUMS) == EXPECTED


def test_it_works_from_many_threads_at_once(pool):
    pairs = [(rf"{gold}+1", rf"1+{answer}") for gold, answer in SUMS]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: verdicts(pool, pairs), range(4)))
    assert found == [EXPECTED] * 4


def test_it_works_from_async_code(pool):
    pairs = [(rf"{gold}+2", rf"2+{answer}") for gold, answer in SUMS]

    async def both():
        return await asyncio.gather(*(asyncio.to_thread(verdicts, pool, pairs) for _ in range(2)))

    assert asyncio.run(both()) == [EXPECTED] * 2


def workers_below() -> list[psutil.Process]:
    """This process's verifier workers and what they have forked."""
    return [p for p in psutil.Process().children(recursive=True) if "tasks.rewards.worker" in p.cmdline()]


@pytest.mark.slow
def test_workers_killed_from_outside_lose_no_row():
    slow = [(rf"(x+{n})^8", rf"(x+{n})^4(x+{n})^4") for n in range(12)]
    with VerifierPool(workers=2, seconds_per_item=10) as pool:
        known = {w.pid for w in workers_below()}
        verdicts(pool, SUMS[:2])
        mine = [w for w in workers_below() if w.pid not in known]
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(verdicts(pool, slow)))
        thread.start()
        time.sleep(0.1)
        for worker in mine:
            os.kill(worker.pid, signal.SIGKILL)
        thread.join()
        assert found == ["correct"] * len(slow)


@pytest.mark.slow
def test_a_pathological_answer_delays_nobody_else():
    """It gets past the screen, costs its worker the limit, and the other worker goes on."""
    hard = [("(0, 1)", "|x^{13}-3x+1| < 2")]  # five seconds
    with VerifierPool(workers=2, seconds_per_item=1.0) as pool:
        verdicts(pool, SUMS)
        easy = [(rf"{gold}+3", rf"3+{answer}") for gold, answer in SUMS]
        assert verdicts(pool, [*hard, *easy]) == ["timeout", *EXPECTED]


def test_a_worker_is_not_left_running_after_its_owner():
    with VerifierPool(workers=1) as pool:
        known = {w.pid for w in workers_below()}
        verdicts(pool, SUMS[:3])
        mine = [w for w in workers_below() if w.pid not in known]
    assert mine
    assert not [w for w in mine if w.is_running() and w.status() != psutil.STATUS_ZOMBIE]


def test_repeated_answers_are_judged_once(pool):
    pairs = [(r"\sqrt{18}+x", r"x+3\sqrt{2}")] * 200
    assert verdicts(pool, pairs) == ["correct"] * 200


def test_no_rule_applies_to_rubric_problems(pool):
    asked = [problem("rubric", set="helpfulness"), problem(answer="7")]
    found = pool.verify(asked, [completion("x"), completion("7")])
    assert [j and j.verdict.value for j in found] == [None, "correct"]


UNFIT = {
    "no cases": ("code", "", {}, "verifier_args.cases"),
    "cases are text": ("code", "", {"cases": "1"}, "verifier_args.cases must be a list"),
    "a case is text": ("code", "", {"cases": ["1"]}, "verifier_args.cases[0] must be an object"),
    "no expected": (
        "code",
        "",
        {"entry_point": "f", "cases": [{"args": []}]},
        "cases[0].expected is missing",
    ),
    "no arguments": (
        "code",
        "",
        {"entry_point": "f", "cases": [{"args": 1, "expected": 1}]},
        "the list of arguments",
    ),
    "no output": ("code", "", {"cases": [{"stdin": "1", "stdout": None}]}, "cases[0].stdout must be text"),
    "no unit tests": ("code", "", {"unit_tests": None}, "verifier_args.unit_tests must be text"),
    "an odd entry point": ("code", "", {"entry_point": "f(1)", "cases": []}, "verifier_args.entry_point"),
    "an odd tolerance": ("code", "", {"tolerance": "1", "cases": [{"stdin": "", "stdout": ""}]}, "tolerance"),
    "options are null": ("choice", "A", {"options": None}, "verifier_args.options"),
    "no data set": ("reasoning_gym", "1", {}, "verifier_args must have `dataset`"),
    "another verifier": (
        "Math",
        "1",
        {},
        "verifier 'Math' must be one of choice, code, exact, instructions, judge, math",
    ),
    "no text": ("math", None, {}, ""),
    "arguments are a list": ("code", "", None, ""),
}


@pytest.mark.parametrize(("verifier", "gold", "arguments", "reason"), UNFIT.values(), ids=UNFIT)
def test_a_row_that_cannot_be_judged_is_an_error_and_the_others_are_judged(
    pool, verifier, gold, arguments, reason
):
    unfit = Problem("row-7", "math", "en", "?", gold, verifier, [] if arguments is None else arguments)
    asked = [problem(answer="42"), unfit, problem(answer="42")]
    first, middle, last = pool.verify(
        asked, [completion("42"), completion("```\nprint(1)\n```"), completion("41")]
    )
    assert (first.verdict.value, middle.verdict.value, last.verdict.value) == ("correct", "error", "wrong")
    assert middle.detail.startswith("problem row-7: ")
    assert reason in middle.detail


KEYS = st.sampled_from(
    [
        "cases",
        "entry_point",
        "stdin",
        "stdout",
        "args",
        "expected",
        "options",
        "A",
        "B",
        "dataset",
        "entry",
        "checker",
        "inputs",
        "outputs",
        "fn_name",
        "unit_tests",
        "test_list",
        "tolerance",
        "input",
        "output",
        "x",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("verifier", ["choice", "code", "exact", "math", "reasoning_gym", "rubric", "none"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arguments=st.dictionaries(KEYS, JSON, max_size=5), gold=st.text(max_size=6), answer=st.text(max_size=30)
)
def test_no_row_makes_verify_raise(pool, verifier, arguments, gold, answer):
    asked = [Problem("p", "math", "en", "?", gold, verifier, arguments), problem(answer="7")]
    odd, plain = pool.verify(asked, [f"<think></think><answer>{answer}</answer>", completion("7")])
    assert odd is None or odd.verdict in list(Verdict)
    assert plain.verdict.value == "correct"


def test_a_number_of_thousands_of_digits_is_no_exception(pool):
    huge = problem("code", "", entry_point="f", cases=[{"args": [], "expected": 10**5000}])
    judged = pool.verify([huge], [completion("def f(): return 1")])[0]
    assert judged.verdict.value == "error"
    deep = []
    for _ in range(3000):
        deep = [deep]
    deep = problem("code", "", entry_point="f", cases=[{"args": [], "expected": deep}])
    assert pool.verify([deep], [completion("def f(): return 1")])[0].verdict.value in ("error", "wrong")


def test_lengths_must_match(pool):
    with pytest.raises(ValueError, match=r"shorter|longer"):
        pool.verify([problem(answer="1")], [])


@pytest.mark.slow
def test_an_answer_that_eats_memory_is_stopped_and_the_worker_goes_on(pool):
    expands = r"\frac{(x+y+z+w+1)^{45}(2x+2y+2z+2w+2)^{45}}{2^{45}}"
    pairs = [("(x+y+z+w+1)^{90}", expands), *SUMS[:4]]
    assert verdicts(pool, pairs) in (["timeout", *EXPECTED[:4]], ["wrong", *EXPECTED[:4]])


def test_workers_start_before_anything_is_judged():
    known = {w.pid for w in workers_below()}
    with VerifierPool(workers=2) as pool:
        pool.warm([problem(answer="1")])
        deadline = time.monotonic() + 60
        while len(pool.process_ids()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        warm = set(pool.process_ids())
        assert len(warm) == 2
        assert verdicts(pool, SUMS) == EXPECTED
        assert set(pool.process_ids()) == warm
        assert warm.isdisjoint(known)


def test_only_what_other_processes_judge_is_loaded_ahead(monkeypatch):
    loaded = []
    with VerifierPool(workers=1) as pool:
        monkeypatch.setattr(pool, "_warm_worker", loaded.append)
        pool.warm([replace(problem(answer="1"), verifier=name) for name in ("rubric", "exact")])
        pool.warm([problem(answer="1"), replace(problem(answer="1"), verifier="rubric")])
    assert loaded == [["math"]]


def test_the_newest_judgements_are_remembered(monkeypatch):
    monkeypatch.setattr("tasks.rewards.pool.REMEMBERED", 3)
    with VerifierPool(workers=1) as pool:
        assert verdicts(pool, SUMS[:5]) == EXPECTED[:5]
        monkeypatch.setattr(pool, "_attempts", lambda row: pytest.fail("judged again"))
        assert verdicts(pool, SUMS[2:5]) == EXPECTED[2:5]
        with pytest.raises(pytest.fail.Exception):
            verdicts(pool, SUMS[:1])
