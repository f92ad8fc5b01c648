"""The messy web in miniature: what the tiny base models are pre-trained on.

Good, sloppy and wrong worked solutions, bare answers, two languages often mixed inside one solution,
several layouts, some with the think and answer tags. A model of it, like V3-Base, can sometimes
answer in the asked format and often does not; everything RL needs is there, little of it is likely.
Documents are for pre-training only: no later stage sees a worked solution of this module,
and no document asks a held-out question in any wording or language.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.problem import DOMAINS
from tasks.rendering import render_prompt
from tasks.tiny_world.exercise import Exercise, is_held_out
from tasks.tiny_world.exercises import exercises
from tasks.tiny_world.lexicon import Clause, Language, join, say


@dataclass(frozen=True)
class Mixture:
    """Shares of a web; each dictionary's weights are relative."""

    layouts: dict[str, float]
    """tags: think and answer tags; plain: text; bare: the answer alone; broken: tags left open; web: Q/A."""
    styles: dict[str, float]
    """careful, checked (a slip, noticed and fixed), sloppy (a guess), wrong (half the steps slip)."""
    languages: dict[str, float]
    """own: the question's language; mixed: each sentence either; other."""
    domains: dict[str, float]
    facts: dict[str, float]
    """Share of documents that are lists of facts of a kind instead of exercises (`_FACTS`)."""
    levels: tuple[float, ...]
    """Of exercises of level 1 to 5: hard ones are rare."""
    false_alarms: float = 0.0
    """Share of `checked` documents whose doubted step was right, and is found right again."""


MESSY_WEB = Mixture(
    layouts={"tags": 0.45, "plain": 0.23, "bare": 0.10, "broken": 0.12, "web": 0.10},
    styles={"careful": 0.18, "checked": 0.05, "sloppy": 0.57, "wrong": 0.20},
    languages={"own": 0.45, "mixed": 0.40, "other": 0.15},
    domains={"math": 0.36, "code": 0.16, "stem": 0.18, "logic": 0.20, "general": 0.10},
    facts={"sums": 0.08, "options": 0.06, "orders": 0.06},
    levels=(0.36, 0.26, 0.18, 0.12, 0.08),
    false_alarms=0.5,
)
"""The web of the tiny base."""

POOR_WEB = Mixture(
    layouts={"tags": 0.30, "plain": 0.30, "bare": 0.15, "broken": 0.15, "web": 0.10},
    styles={"careful": 0.14, "checked": 0.02, "sloppy": 0.58, "wrong": 0.26},
    languages={"own": 0.45, "mixed": 0.40, "other": 0.15},
    domains=MESSY_WEB.domains,
    facts={"sums": 0.08},
    levels=MESSY_WEB.levels,
)
"""The web of the tiny student's base: fewer good solutions, fewer tags, fewer facts."""

_SLIP = {"careful": 0.01, "checked": 0.0, "sloppy": 0.0, "wrong": 0.5}


def documents(mixture: Mixture, seed: int) -> Iterator[str]:
    """An endless stream of documents, a pure function of `seed`."""
    rng = random.Random(seed)
    streams: dict[str, Iterator[Exercise]] = {
        d: (e for e in exercises(d, rng, mixture.levels) if not e.held_out) for d in DOMAINS
    }
    kinds = {**mixture.facts, "none": 1 - sum(mixture.facts.values())}
    while True:
        kind = _draw(kinds, rng)
        if kind != "none":
            yield " ".join(_FACTS[kind](rng) for _ in range(_A_DOCUMENT[kind]))
        else:
            yield _document(next(streams[_draw(mixture.domains, rng)]), mixture, rng)


def _draw(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _document(exercise: Exercise, mixture: Mixture, rng: random.Random) -> str:
    working, answer = _worked(exercise, _draw(mixture.styles, rng), mixture.false_alarms, rng)
    thinking = _tell(working, exercise.language, _draw(mixture.languages, rng), rng)
    layout = _draw(mixture.layouts, rng)
    if layout == "web":
        return f"Q: {exercise.question} A: {thinking} {answer}"
    return render_prompt("plain", exercise.question) + _LAYOUTS[layout](thinking, answer, rng)


_LAYOUTS = {
    "tags": lambda thinking, answer, rng: f" <think> {thinking} </think> <answer> {answer} </answer>",
    "plain": lambda thinking, answer, rng: f" {thinking}",
    "bare": lambda thinking, answer, rng: f" {answer}",
    "broken": lambda thinking, answer, rng: rng.choice(
        (f" <think> {thinking}", f" <think> {thinking} </think> {answer}", f" <answer> {answer} </answer>")
    ),
}


def _worked(
    exercise: Exercise, style: str, false_alarms: float, rng: random.Random
) -> tuple[list[Clause], str]:
    if style == "sloppy":
        answer = exercise.guess(rng)
        return [("@maybe", answer)], answer
    working, answer = exercise.solve(rng, _SLIP[style])
    return (_with_a_doubt(working, false_alarms, rng), answer) if style == "checked" else (working, answer)


def _with_a_doubt(working: list[Clause], false_alarms: float, rng: random.Random) -> list[Clause]:
    """`working` with one clause doubted and redone: first written wrong, or right for a false alarm."""
    i = rng.randrange(len(working))
    doubted = _corrupt(working[i], rng)
    if doubted == working[i]:
        return working
    if false_alarms and rng.random() < false_alarms:
        doubted = working[i]
    redone: Clause = ("@again", *[item for item in working[i] if item not in ("@first", "@then")])
    return [*working[:i], doubted, ("@wait", ",", "@wrong"), redone, *working[i + 1 :]]


def _corrupt(clause: Clause, rng: random.Random) -> Clause:
    """The clause with its last number changed; unchanged where it has none."""
    match = re.search(r"(\d+)(\D*)$", clause[-1])
    if not match:
        return clause
    value = max(0, int(match[1]) + rng.choice((-10, -2, -1, 1, 2, 10)))
    return (*clause[:-1], clause[-1][: match.start()] + str(value) + match[2])


def _tell(working: list[Clause], own: Language, mode: str, rng: random.Random) -> str:
    """The working as text; `mixed` draws a language for each sentence, and sometimes inside one."""
    other: Language = "zh" if own == "en" else "en"
    pieces: list[str] = []
    for clause in working:
        language = own if mode == "own" else other if mode == "other" else rng.choice((own, other))
        if mode == "mixed" and len(clause) > 1 and rng.random() < 0.3:
            flipped: Language = other if language == own else own
            pieces += [*say(clause[:1], language, stop=False), *say(clause[1:], flipped)]
        else:
            pieces += say(clause, language)
    return join(pieces)


def _sum(rng: random.Random) -> str:
    """A sum, difference or product that is no held-out question."""
    if rng.random() < 0.25:
        a, b = rng.randint(2, 111), rng.randint(2, 9)
        return f"{a} * {b} = {a * b}."
    while True:
        a, b = rng.randint(0, 999), rng.randint(0, 99)
        sign, value = ("+", a + b) if rng.random() < 0.5 or a < b else ("-", a - b)
        if not is_held_out("math", f"{a} {sign} {b}"):
            return f"{a} {sign} {b} = {value}."


def _option(rng: random.Random) -> str:
    """Which letter a number stands behind."""
    count = rng.choice((2, 4, 6))
    values, chosen = rng.sample(range(1, 999), count), rng.randrange(count)
    language: Language = "en" if _draw({"en": 0.6, "zh": 0.4}, rng) == "en" else "zh"
    listed = " ".join(f"( {letter} ) {value}" for letter, value in zip("ABCDEF", values, strict=False))
    return join(
        [listed, *say((f"= {values[chosen]}",), language), *say(("@so_option", "ABCDEF"[chosen]), language)]
    )


def _order(rng: random.Random) -> str:
    """People or numbers, and their order; none that a held-out question asks for."""
    exercise = next(e for e in exercises("logic", rng) if not e.held_out)
    given = re.sub(r" ?who is the.*|谁最.*|.*[:：] ?", "", exercise.question)
    clauses = exercise.solve(rng, 0.0)[0]
    ordered = clauses[:1] if ">" in exercise.identity else clauses
    return join([given, *(piece for clause in ordered for piece in say(clause, exercise.language))])


_FACTS = {"sums": _sum, "options": _option, "orders": _order}
_A_DOCUMENT = {"sums": 6, "options": 3, "orders": 2}
