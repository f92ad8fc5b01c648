"""The pool: no row is lost or reordered, whatever happens to its processes and whoever calls it."""

import asyncio
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tasks.rewards.pool import VerifierPool
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


def test_a_pathological_answer_delays_nobody_else():
    """It gets past the screen, costs its worker the limit, and the other worker goes on."""
    hard = [("(0, 1)", "|x^7-3x+1| < 2")]
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


def test_lengths_must_match(pool):
    with pytest.raises(ValueError, match=r"shorter|longer"):
        pool.verify([problem(answer="1")], [])


def test_an_answer_that_eats_memory_is_stopped_and_the_worker_goes_on(pool):
    expands = r"\frac{(x+y+z+w+1)^{45}(2x+2y+2z+2w+2)^{45}}{2^{45}}"
    pairs = [("(x+y+z+w+1)^{90}", expands), *SUMS[:4]]
    assert verdicts(pool, pairs) in (["timeout", *EXPECTED[:4]], ["wrong", *EXPECTED[:4]])
