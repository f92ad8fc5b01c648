"""Preference pairs and safety labels from sampled responses (paper Methods, 3.1; B.2).

A judge compares two answers several times, in random order, and the mean decides: `rubric_judge` is the
problem's own word list, `model_judge` asks a language model, as the paper does. Safety labels come from the
problem's guideline.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from statistics import mean

from tasks.language_models.chat import Asks
from tasks.problem import RUBRIC_SETS, Problem, select
from tasks.reward_models.preference_judge import compared
from tasks.rewards.rubric import is_safe, rubric_score, word_count

Comparison = tuple[Problem, str, str]
"""A problem, the first and the second answer, in the order in which the judge sees them."""
Judge = Callable[[Sequence[Comparison]], list[float | None]]
"""How much better each first answer is, in points; None where there is no judgement."""

_AT_ONCE = 512
"""Pairs whose judgements are asked for together."""

_LENGTH_GAP = 0.1
"""Chosen and rejected answers may differ in mean length by this share of it."""
_KEEP_AT_LEAST = 0.5
"""Balancing lengths stops at this share of the pairs."""


@dataclass(frozen=True)
class Response:
    """A sampled response to a general problem; `answer` is the final summary, None where there is none."""

    problem: Problem
    prompt: str
    text: str
    answer: str | None


@dataclass(frozen=True)
class Pair:
    """Two answers to one helpfulness problem."""

    problem: Problem
    prompt: str
    chosen: str
    rejected: str
    margin: float

    @property
    def extra_words(self) -> int:
        """By how much the chosen answer is longer."""
        return word_count(self.chosen) - word_count(self.rejected)

    @property
    def words(self) -> float:
        """Mean length of the two."""
        return (word_count(self.chosen) + word_count(self.rejected)) / 2


@dataclass(frozen=True)
class Labelled:
    """A response to a harmlessness problem and whether it is safe."""

    problem: Problem
    prompt: str
    response: str
    safe: bool


@dataclass(frozen=True)
class Pairs:
    """What is kept, and how many candidates were dropped for which reason."""

    kept: list[Pair]
    small_margin: int
    unbalanced_length: int
    unjudged: int = 0
    """The judge gave no readable judgement at all."""


def rubric_judge(comparisons: Sequence[Comparison]) -> list[float | None]:
    """The differences of the rubric's scores, in points of its 1 to 5 scale."""
    return [rubric_score(problem, a) - rubric_score(problem, b) for problem, a, b in comparisons]


def model_judge(model: Asks) -> Judge:
    """A language model that compares (`preference_judge.py`), on a scale of -2 to 2 points."""
    return lambda comparisons: compared(model, [(p.prompt, a, b) for p, a, b in comparisons])


def judged_margins(
    comparisons: Sequence[Comparison], judge: Judge, judgments: int, rng: random.Random
) -> list[float | None]:
    """How much better each first answer is: mean of `judgments` judgements, each in random order.

    Judgements that could not be had are left out; None where that leaves none.
    """
    swapped = [[rng.random() >= 0.5 for _ in range(judgments)] for _ in comparisons]
    asked = [
        (problem, b, a) if swap else (problem, a, b)
        for (problem, a, b), swaps in zip(comparisons, swapped, strict=True)
        for swap in swaps
    ]
    said = iter(judge(asked))
    margins: list[float | None] = []
    for swaps in swapped:
        points = [(next(said), swap) for swap in swaps]
        signed = [-value if swap else value for value, swap in points if value is not None]
        margins.append(mean(signed) if signed else None)
    return margins


def preference_pairs(
    responses: Sequence[Response], judgments: int, min_margin: float, seed: int, judge: Judge = rubric_judge
) -> Pairs:
    """Pairs of different answers to one helpfulness problem that differ by at least `min_margin` points.

    Equal answers are one candidate; responses without a final answer are none (RL gives them 0).
    """
    rng = random.Random(seed)
    pairs = [(r, a, b) for r, answers in _answers(responses) for a, b in combinations(answers, 2)]
    margins: list[float | None] = []
    for start in range(0, len(pairs), _AT_ONCE):
        part = [(r.problem, a, b) for r, a, b in pairs[start : start + _AT_ONCE]]
        margins += judged_margins(part, judge, judgments, rng)
    clear = [
        Pair(r.problem, r.prompt, *((a, b) if margin > 0 else (b, a)), abs(margin))
        for (r, a, b), margin in zip(pairs, margins, strict=True)
        if margin is not None and abs(margin) >= max(min_margin, 1e-9)
    ]
    kept = balance_lengths(clear)
    unjudged = margins.count(None)
    return Pairs(kept, len(pairs) - unjudged - len(clear), len(clear) - len(kept), unjudged)


def balance_lengths(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs without those whose length says most about which is chosen, order kept.

    Drops the pair that adds most to the difference of mean lengths until that is within a tenth of the
    mean length; at least half of the pairs stay, balanced or not.
    """
    gap, words = sum(p.extra_words for p in pairs), sum(p.words for p in pairs)
    sign = 1 if gap > 0 else -1
    dropped: set[int] = set()
    for i in sorted(range(len(pairs)), key=lambda i: -sign * pairs[i].extra_words):
        if abs(gap) <= _LENGTH_GAP * words or len(dropped) >= (1 - _KEEP_AT_LEAST) * len(pairs):
            break
        dropped.add(i)
        gap, words = gap - pairs[i].extra_words, words - pairs[i].words
    return [pair for i, pair in enumerate(pairs) if i not in dropped]


def length_gap(pairs: Sequence[Pair]) -> float:
    """Mean words of the chosen less those of the rejected answers."""
    return mean(p.extra_words for p in pairs) if pairs else 0.0


def safety_labels(responses: Sequence[Response]) -> list[Labelled]:
    """Every different response to a harmlessness problem with the guideline's verdict."""
    distinct = {(r.problem.id, r.text): r for r in responses if _set(r) == "harmlessness"}
    return [Labelled(r.problem, r.prompt, r.text, is_safe(r.problem, r.text)) for r in distinct.values()]


def general_problems(problems: Sequence[Problem], most: int, seed: int) -> list[Problem]:
    """The training problems with a rubric of either set; where there are too many, `most` at random.

    Raises:
        ValueError: a set has none.
    """
    general = [p for p in select(problems, "train") if p.verifier_args.get("set") in RUBRIC_SETS]
    missing = [name for name in RUBRIC_SETS if not any(p.verifier_args["set"] == name for p in general)]
    if missing:
        raise ValueError(
            f"the problems hold no training rows with a rubric of set {' or '.join(missing)}: add general "
            "problems with verifier_args.set"
        )
    return random.Random(seed).sample(general, min(most, len(general)))


def held_out_problems(problems: Sequence[Problem], seed: int, share: float = 0.2) -> frozenset[str]:
    """Ids of the problems (at least one of each set) that the reward models are measured on."""
    rng, chosen = random.Random(seed), []
    for _, members in groupby(sorted(problems, key=_set_and_id), key=lambda p: p.verifier_args.get("set")):
        ids = [p.id for p in members]
        chosen += rng.sample(ids, max(1, round(share * len(ids))))
    return frozenset(chosen)


def _answers(responses: Sequence[Response]) -> list[tuple[Response, list[str]]]:
    """The different answers to each helpfulness problem, with one of its responses."""
    found: dict[str, tuple[Response, dict[str, None]]] = {}
    for r in responses:
        if _set(r) == "helpfulness" and r.answer:
            found.setdefault(r.problem.id, (r, {}))[1][r.answer] = None
    return [(first, list(answers)) for first, answers in found.values()]


def _set(response: Response) -> str | None:
    return response.problem.verifier_args.get("set")


def _set_and_id(problem: Problem) -> tuple[str, str]:
    return str(problem.verifier_args.get("set")), problem.id
