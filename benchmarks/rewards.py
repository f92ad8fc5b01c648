"""Rewards against math-verify called row by row in one process, in the same run; then what a hostile answer
costs, the pool's memory and the sandbox's speed.

    .venv/bin/python benchmarks/rewards.py [--rows 10000]

Every timed set holds distinct answers, so no answer is found in a cache of answers; golds are shared by
the 16 answers of a question, as in RL. Both sides see the same rows, and their verdicts are compared.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import math_verify
import psutil

from tasks.problem import Problem
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict

GROUP = 16
Row = tuple[str, str]
"""Gold answer and completion."""

THOUGHTS = "Let me see. First we take the sum, then 3 + 4 = 7, wait, that is wrong. So 12 \\cdot 5 = 60. "
HOSTILE = (
    "9^{9^{9^9}}",
    "(10^{10^7})!",
    "(" * 10_000 + "1" + ")" * 10_000,
    "(x+1)^{900}",
    "|x^7-3x+1| < 2",
)
"""Answers to (0, 1). The first three are refused by the screen; the last one gets past it and is killed."""


def integers(n: int, chance: random.Random) -> Row:
    return str(n), f"{n + chance.choice([0, 0, 1]) + 10**6 * chance.randint(0, 1)}"


def fractions(n: int, chance: random.Random) -> Row:
    k = chance.randint(2, 10**6)
    return rf"\frac{{{n}}}{{7}}", f"{n * k}/{7 * k + chance.choice([0, 0, 1])}"


def radicals(n: int, chance: random.Random) -> Row:
    k, off = chance.randint(2, 400), chance.choice([0, 0, 1])
    return rf"{n}\sqrt{{2}}", rf"\frac{{{n * k}\sqrt{{2}}}}{{{k + off}}}"


def polynomials(n: int, chance: random.Random) -> Row:
    k, off = chance.randint(1, 10**4), chance.choice([0, 0, 1])
    return f"(x-{n})(x+{n})", f"x^2+{k}-{n * n + k + off}"


def long_completions(n: int, chance: random.Random) -> Row:
    return integers(n, chance)


KINDS: dict[str, Callable[[int, random.Random], Row]] = {
    "integers": integers,
    "fractions": fractions,
    "radicals": radicals,
    "polynomials": polynomials,
    "9k characters": long_completions,
}


def rows_of(kind: str, count: int, seed: int) -> list[Row]:
    """`GROUP` answers to each gold answer, each in a whole completion, none twice for one gold."""
    chance, rows, seen = random.Random(f"{kind} {seed}"), [], set()
    thinking = THOUGHTS * (9_000 // len(THOUGHTS) if kind == "9k characters" else 1)
    while len(rows) < count:
        gold, answer = KINDS[kind](2 + len(rows) // GROUP, chance)
        if (gold, answer) not in seen or kind in ("integers", "9k characters"):
            seen.add((gold, answer))
            rows.append((gold, rf"<think>{thinking}</think><answer>\boxed{{{answer}}}</answer>"))
    return rows


def row_by_row(rows: Sequence[Row]) -> list[bool]:
    """math-verify as its README has it: parse the gold, parse the completion, verify."""
    return [
        math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(completion))
        for gold, completion in rows
    ]


def pooled(pool: VerifierPool, rows: Sequence[Row]) -> list[Verdict]:
    problems = [Problem("p", "math", "en", "?", gold, "math") for gold, _ in rows]
    return [j.verdict for j in pool.verify(problems, [completion for _, completion in rows])]


def timed(work: Callable[[], list[object]]) -> tuple[float, list[object]]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def compare(pool: VerifierPool, kind: str, rows: Sequence[Row]) -> None:
    alone, expected = timed(lambda: list(row_by_row(rows)))
    ours, found = timed(lambda: list(pooled(pool, rows)))
    differ = sum(e != (f == Verdict.correct) for e, f in zip(expected, found, strict=True))
    print(
        f"{kind:<15} {len(rows):>6} rows  math-verify {len(rows) / alone:>7.0f}/s"
        f"  pool {len(rows) / ours:>8.0f}/s  ratio {alone / ours:>6.1f}  verdicts that differ: {differ}",
        flush=True,
    )


def speed(pool: VerifierPool, count: int) -> None:
    sets = {kind: rows_of(kind, count, 0) for kind in KINDS}
    for kind, rows in sets.items():
        compare(pool, kind, rows)
    mixed = [row for kind in KINDS for row in rows_of(kind, count, 1)]
    random.Random(0).shuffle(mixed)
    compare(pool, "mixed", mixed)


def hostile(pool: VerifierPool) -> None:
    for answer in HOSTILE:
        seconds, found = timed(
            lambda a=answer: list(pooled(pool, [("(0, 1)", rf"<think>a</think>\boxed{{{a}}}")]))
        )
        print(f"hostile {answer[:24]:<24} {seconds:.2f} s  {found[0]}", flush=True)


def many_rows(pool: VerifierPool, count: int, workers: int, seconds: float) -> None:
    """`count` mixed rows without and with 1% of answers that must be killed."""
    share = count // len(KINDS)
    plain = [row for kind in KINDS for row in rows_of(kind, share, 2)]
    other = [row for kind in KINDS for row in rows_of(kind, share, 3)]
    for at in range(0, len(other), 100):
        other[at] = ("(0, 1)", rf"<think>a</think>\boxed{{|x^7-{at + 2}x+1| < 2}}")
    for rows in (plain, other):
        random.Random(0).shuffle(rows)
    without, _ = timed(lambda: list(pooled(pool, plain)))
    with_them, found = timed(lambda: list(pooled(pool, other)))
    kills = found.count(Verdict.timeout)
    allowed = 2 * without + kills * seconds / workers
    print(
        f"{len(plain)} rows: {without:.1f} s; with {kills} killed answers among them {with_them:.1f} s "
        f"(allowed: 2 x {without:.1f} + {kills} x {seconds} / {workers} = {allowed:.1f} s)"
    )


def memory() -> int:
    """Proportional share of memory of all processes below this one, bytes."""
    return sum(p.memory_full_info().pss for p in psutil.Process().children(recursive=True))


def programs(pool: VerifierPool, count: int) -> None:
    cases = [{"args": [n], "expected": n + 1} for n in range(5)]
    texts = [f"<think>a</think>\n```python\ndef f(x):\n    return x + 1 + 0 * {n}\n```" for n in range(count)]
    call = Problem("p", "code", "en", "?", "", "code", {"entry_point": "f", "cases": cases})
    stdin = Problem("p", "code", "en", "?", "", "code", {"cases": [{"stdin": "1\n", "stdout": "2\n"}]})
    printed = [f"<think>a</think>\n```python\nprint(int(input()) + 1 + 0 * {n})\n```" for n in range(count)]
    for name, problem, answers in (("function", call, texts), ("stdin", stdin, printed)):
        seconds, found = timed(lambda p=problem, a=answers: list(pool.verify([p] * count, a)))
        assert all(j.verdict is Verdict.correct for j in found)
        print(f"sandbox, {name} style: {count / seconds:.0f} programs/s")


@contextmanager
def warm_pool(workers: int, seconds: float) -> Iterator[VerifierPool]:
    """A pool whose processes have started, so that start-up (printed) is not in the ratios."""
    with VerifierPool(workers, seconds) as pool:
        started, _ = timed(lambda: list(pooled(pool, rows_of("radicals", 4 * GROUP, 9))))
        print(f"pool of {workers} started in {started:.1f} s")
        yield pool


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument(
        "--rows", type=int, default=10_000, help="rows of the test with 1% hostile answers"
    )
    arguments.add_argument("--each", type=int, default=320, help="rows of each kind")
    arguments.add_argument("--workers", type=int, default=2)
    given = arguments.parse_args()
    seconds = 1.9
    print(f"load {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} cores")
    row_by_row(rows_of("radicals", GROUP, 9))
    with warm_pool(given.workers, seconds) as pool:
        speed(pool, given.each)
        hostile(pool)
        programs(pool, 100)
        many_rows(pool, given.rows, given.workers, seconds)
        print(f"memory of the pool and its sandboxes: {memory() / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
