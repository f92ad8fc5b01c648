"""Answers checked while others are written: the same judgements, no work twice, errors not lost."""

import threading

import pytest

from tasks.problem import Problem
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rl.early_rewards import EarlyVerifier

SUMS = [Problem(f"s{i}", "math", "en", f"what is {i} + 1?", str(i + 1), "math") for i in range(4)]


class Exact:
    """Right where the completion is the answer; remembers what it was asked, may be held up."""

    def __init__(self):
        self.asked, self.may_go = [], threading.Event()
        self.may_go.set()

    def verify(self, problems, completions):
        assert self.may_go.wait(10)
        self.asked += completions
        if "broken" in completions:
            raise RuntimeError("the verifier broke")
        return [
            Judgement(Verdict.correct if c == p.answer else Verdict.wrong, c)
            for p, c in zip(problems, completions, strict=True)
        ]


def test_what_was_begun_is_not_asked_again():
    pool = Exact()
    with EarlyVerifier(pool) as early:
        pool.may_go.clear()
        early.begin([SUMS[2], SUMS[0]], ["3", "7"])
        assert pool.asked == []
        pool.may_go.set()
        judged = early.verify(SUMS, ["7", "2", "3", "3"])
        assert [j.verdict.value for j in judged] == ["wrong", "correct", "correct", "wrong"]
        assert sorted(pool.asked) == ["2", "3", "3", "7"]
        assert [j.verdict.value for j in early.verify(SUMS[:1], ["7"])] == ["wrong"]
        assert len(pool.asked) == 5


def test_a_failure_in_the_thread_is_raised_where_the_reward_is_asked():
    with EarlyVerifier(Exact()) as early:
        early.begin(SUMS[:1], ["broken"])
        with pytest.raises(RuntimeError, match="the verifier broke"):
            early.verify(SUMS[:1], ["broken"])
