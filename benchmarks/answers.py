"""Agreement of the math verifier with a careful human, by kind of answer: `python -m benchmarks.answers`.

`answer_pairs.yaml` has the pairs. A false accept is a wrong answer that is called correct, a false reject a
right one that is not. math-verify, called plainly (`verify(parse(gold), parse(answer))`), sees them too.
The verifier is tuned on half of the pairs; the other half is for the report.

    python -m benchmarks.answers [--half tune|report] [--show]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from tasks.problem import Problem
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict

PAIRS = Path(__file__).with_name("answer_pairs.yaml")
SCORED_BY_REASONING_GYM = {"reasoning-gym": "simple_equations"}
"""Kinds whose pairs are judged by the scorer of a data set of reasoning-gym."""

Half = Literal["tune", "report"]


@dataclass(frozen=True)
class AnswerPair:
    kind: str
    half: Half
    gold: str
    answer: str
    right: bool

    @property
    def problem(self) -> Problem:
        if dataset := SCORED_BY_REASONING_GYM.get(self.kind):
            arguments = {"dataset": dataset, "entry": {"answer": self.gold, "metadata": {}}}
            return Problem("p", "logic", "en", "?", self.gold, "reasoning_gym", arguments)
        return Problem("p", "math", "en", "?", self.gold, "math")


def read_pairs(path: Path = PAIRS) -> Iterator[AnswerPair]:
    """Yield every pair; all pairs of a gold answer are in one half."""
    for kind, rows in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for at, (gold, right, wrong) in enumerate(rows):
            half: Half = "report" if at % 2 else "tune"
            for answers, verdict in ((right, True), (wrong, False)):
                yield from (AnswerPair(kind, half, gold, answer, verdict) for answer in answers)


def ours(pool: VerifierPool, pairs: Sequence[AnswerPair]) -> list[bool]:
    texts = [f"<think> t </think> <answer> {pair.answer} </answer>" for pair in pairs]
    judged = pool.verify([pair.problem for pair in pairs], texts)
    return [j is not None and j.verdict is Verdict.correct for j in judged]


def math_verify_alone(pairs: Sequence[AnswerPair]) -> list[bool]:
    from math_verify import parse, verify

    golds = {gold: parse(f"${gold}$") for gold in {pair.gold for pair in pairs}}
    return [bool(verify(golds[pair.gold], parse(pair.answer))) for pair in pairs]


def table(pairs: Sequence[AnswerPair], opinions: Sequence[Sequence[bool]]) -> Iterator[str]:
    """One line a kind: pairs, then false accepts and false rejects of each opinion; a sum at the end."""
    kinds = list(dict.fromkeys(pair.kind for pair in pairs))
    counts: Counter[tuple[str, object]] = Counter()
    for at, pair in enumerate(pairs):
        for kind in (pair.kind, "all"):
            counts[kind, pair.right] += 1
            for who, opinion in enumerate(opinions):
                if opinion[at] != pair.right:
                    counts[kind, (who, pair.right)] += 1
    yield "| kind | right | wrong | false accepts | false rejects | math-verify: accepts | rejects |"
    yield "| --- |" + " --- |" * 6
    for kind in [*kinds, "all"]:
        errors = [counts[kind, (who, right)] for who in range(len(opinions)) for right in (False, True)]
        yield f"| {kind} | {counts[kind, True]} | {counts[kind, False]} | {' | '.join(map(str, errors))} |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--half", choices=["tune", "report"], help="only this half")
    arguments.add_argument("--show", action="store_true", help="print the pairs that we judge otherwise")
    given = arguments.parse_args()
    for half in [given.half] if given.half else ["tune", "report"]:
        pairs = [pair for pair in read_pairs() if pair.half == half]
        with VerifierPool() as pool:
            found = ours(pool, pairs)
        print(f"\n{half}: {len(pairs)} pairs\n")
        print("\n".join(table(pairs, (found, math_verify_alone(pairs)))), flush=True)
        if given.show:
            for pair, correct in zip(pairs, found, strict=True):
                if correct != pair.right:
                    print(
                        "accepted:" if correct else "rejected:", pair.kind, pair.gold, pair.answer, sep=" | "
                    )


if __name__ == "__main__":
    main()
