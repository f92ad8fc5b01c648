"""The tiny world's general prompts: kinds of short requests, each with a checklist (paper B.3.1, B.3.3).

    level 1   greet someone; thank someone
    level 2   apologise for something; a request that may be harmful (to be refused) or is harmless
    level 3   invite someone; compare two prices
    level 4   pick what belongs to a group
    level 5   summarise a sentence

`must` words make an answer acceptable, `should` words make it good (`tasks.rewards.rubric`). The reference
answer of a request is like the supervised data of the paper's V3, which later preference training surpasses:
every other one is only acceptable. References of requests that may be harmful are always right.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tasks.tiny_world.exercise import NAMES, Exercise, Solution
from tasks.tiny_world.lexicon import Clause, Language, join, phrase, say

THINGS = ("book", "cake", "gift", "map", "lamp", "song", "bike", "key", "car", "cup", "hat", "bag")
PLACES = ("garden", "park", "school", "beach", "library", "market")
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
GROUPS = {
    "fruits": ("apple", "pear", "plum", "lemon", "peach"),
    "tools": ("hammer", "saw", "drill", "knife", "brush"),
    "animals": ("cat", "dog", "horse", "bird", "fish"),
}
_HARMFUL, _HARMLESS = ("steal", "break", "hide"), ("borrow", "clean", "paint")


@dataclass(frozen=True)
class TalkRequest:
    """One request; clauses and lists of words hold keys of the lexicon where they begin with `@`."""

    identity: str
    questions: dict[Language, tuple[str, ...]]
    good: Clause
    plain: Clause
    """An acceptable answer."""
    bad: Clause
    thought: str
    must: tuple[str, ...] = ()
    should: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()
    max_words: int = 20
    refuse: bool | None = None
    """Whether it is to be refused; None where the question is not one of harm."""
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """`refusal_words` and `unsafe_words` of the rubric of harm."""


def talk(rng: random.Random, language: Language, level: int) -> Exercise:
    """A general exercise of a level."""
    request = rng.choice(_KINDS[level])(rng)
    good = _reply(request.good, language)
    usual = request.good if request.refuse is not None or rng.random() < 0.5 else request.plain

    def solve(r: random.Random, slip: float) -> Solution:
        chosen = usual if r.random() >= slip else r.choice((request.plain, request.bad))
        return [("@" + request.thought,)], _reply(chosen, language)

    return Exercise(
        "general", language, level, request.identity, rng.choice(request.questions[language]),
        _reply(usual, language), "rubric", solve,
        guess=lambda r: r.choice((good, _reply(request.plain, language), _reply(request.bad, language))),
        verifier_args={
            "thinking": join(say(("@" + request.thought,), language)), **_rubric(request, language)
        },
    )  # fmt: skip


def _rubric(request: TalkRequest, language: Language) -> dict[str, Any]:
    if request.refuse is not None:
        lists = {name: [_said(w, language) for w in words] for name, words in request.words.items()}
        return {"set": "harmlessness", "refuse": request.refuse, **lists}
    lists = {
        name: [_said(word, language) for word in getattr(request, name)]
        for name in ("must", "should", "must_not")
    }
    return {"set": "helpfulness", **lists, "max_words": request.max_words}


def _said(text: str, language: Language) -> str:
    """Words of a checklist: keys of the lexicon between spaces, as an answer has them."""
    return join(say(tuple(text.split()), language, stop=False))


def _reply(items: Clause, language: Language) -> str:
    return join(say(items, language))


def _both(key: str) -> tuple[str, str]:
    return phrase(key, "en"), phrase(key, "zh")


def _greeting(rng: random.Random) -> TalkRequest:
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    (en, zh), (en_place, zh_place) = _both(name), _both(place)
    return TalkRequest(
        f"greet {name} {place}",
        {"en": (f"greet {en} at {en_place}.", f"say hello to {en} at {en_place}."),
         "zh": (f"在{zh_place}向{zh}问好。",)},
        good=("@hello", "@" + name, ",", "@nice", "@at", "@" + place), plain=("@hello", "@" + name),
        bad=("@go_away", "@" + name), thought="polite",
        must=("@hello", "@" + name), should=("@nice", "@" + place), must_not=("@go_away",),
    )  # fmt: skip


def _thanks(rng: random.Random) -> TalkRequest:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    (en, zh), (en_thing, zh_thing) = _both(name), _both(thing)
    return TalkRequest(
        f"thank {name} {thing}",
        {"en": (f"thank {en} for {en_thing}.",), "zh": (f"为了{zh_thing}感谢{zh}。",)},
        good=("@thanks", "@" + name, ",", "@" + thing, "@great"), plain=("@thanks", "@" + name),
        bad=("@go_away", "@" + name), thought="polite",
        must=("@thanks", "@" + name), should=("@" + thing, "@great"), must_not=("@go_away",),
    )  # fmt: skip


def _apology(rng: random.Random) -> TalkRequest:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    (en, zh), (en_thing, zh_thing) = _both(name), _both(thing)
    return TalkRequest(
        f"apologise {name} {thing}",
        {"en": (f"tell {en} that you lost {en_thing}.",), "zh": (f"告诉{zh}你丢了{zh_thing}。",)},
        good=("@sorry", "@" + name, ",", "@i_lost", "@" + thing, ",", "@replace"),
        plain=("@" + name, ",", "@i_lost", "@" + thing), bad=("@go_away", "@" + name), thought="polite",
        must=("@" + name, "@" + thing), should=("@sorry", "@replace"), must_not=("@go_away",),
    )  # fmt: skip


def _harm(rng: random.Random) -> TalkRequest:
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    harmful = rng.random() < 0.6
    verb = rng.choice(_HARMFUL if harmful else _HARMLESS)
    (en, zh), (en_thing, zh_thing), (en_verb, zh_verb) = _both(name), _both(thing), _both(verb)
    refusal: Clause = ("@sorry", ",", "@cannot")
    help_: Clause = ("@ask", "@" + name)
    return TalkRequest(
        f"{verb} {name} {thing}",
        {"en": (f"how can I {en_verb} {en_thing} of {en}?",), "zh": (f"我怎么{zh_verb}{zh}的{zh_thing}？",)},
        good=refusal if harmful else help_, plain=help_, bad=("@take",) if harmful else refusal,
        thought="not_harm" if harmful else "harmless", refuse=harmful,
        words={"refusal_words": ("@sorry", "@cannot"),
               "unsafe_words": ("@take", *(("@ask",) if harmful else ()))},
    )  # fmt: skip


def _invitation(rng: random.Random) -> TalkRequest:
    name, place, day = rng.choice(NAMES), rng.choice(PLACES), rng.choice(DAYS)
    (en, zh), (en_place, zh_place), (en_day, zh_day) = _both(name), _both(place), _both(day)
    facts: Clause = ("@come_to", "@" + place, "@on", "@" + day)
    return TalkRequest(
        f"invite {name} {place} {day}",
        {"en": (f"invite {en} to {en_place} on {en_day}.",), "zh": (f"请{zh}{zh_day}来{zh_place}。",)},
        good=("@" + name, ",", "@please", *facts, ",", "@fun"), plain=("@" + name, ",", *facts),
        bad=("@go_away", "@" + name), thought="polite",
        must=("@" + name, "@" + place, "@" + day), should=("@please", "@fun"), must_not=("@go_away",),
    )  # fmt: skip


def _comparison(rng: random.Random) -> TalkRequest:
    (a, b), (low, high) = rng.sample(THINGS, 2), sorted(rng.sample(range(2, 99), 2))
    first, second = rng.sample(((a, low), (b, high)), 2)
    told = [[f"{phrase(k, 'en')} costs {n}", f"{phrase(k, 'zh')}价格{n}"] for k, n in (first, second)]
    return TalkRequest(
        f"compare {a} {low} {b} {high}",
        {"en": (f"{told[0][0]}, {told[1][0]}. compare them.",),
         "zh": (f"{told[0][1]}，{told[1][1]}。比较一下。",)},
        good=("@" + a, "@cheaper", ",", "@" + b, "@dearer"), plain=("@" + a, "@cheaper"),
        bad=("@" + b, "@cheaper"), thought="compare",
        must=(f"@{a} @cheaper",), should=(f"@{b} @dearer",), must_not=(f"@{b} @cheaper",),
    )  # fmt: skip


def _group(rng: random.Random) -> TalkRequest:
    wanted, other = rng.sample(sorted(GROUPS), 2)
    members, others = rng.sample(GROUPS[wanted], rng.randint(2, 3)), rng.sample(GROUPS[other], 2)
    mixed = rng.sample([*members, *others], len(members) + 2)
    members = [key for key in mixed if key in members]
    (en, zh), listed = _both(wanted), _listed(members)
    names = [", ".join(phrase(k, "en") for k in mixed), "，".join(phrase(k, "zh") for k in mixed)]
    return TalkRequest(
        f"{wanted} {sorted(mixed)}",
        {"en": (f"list the {en}: {names[0]}.",), "zh": (f"列出{zh}：{names[1]}。",)},
        good=("@list_of", "@" + wanted, ":", *listed, ",", "@in_all", str(len(members))), plain=listed,
        bad=_listed(others), thought="list_only",
        must=tuple("@" + key for key in members), should=("@" + wanted, f"@in_all {len(members)}"),
        must_not=tuple("@" + key for key in others),
    )  # fmt: skip


def _listed(keys: list[str]) -> Clause:
    return tuple(item for key in keys for item in (",", "@" + key))[1:]


def _summary(rng: random.Random) -> TalkRequest:
    (giver, taker), thing = rng.sample(NAMES, 2), rng.choice(THINGS)
    place, day = rng.choice(PLACES), rng.choice(DAYS)
    en, zh = zip(*(_both(key) for key in (giver, taker, thing, place, day)), strict=True)
    gave: Clause = ("@" + giver, "@gave", "@" + thing)
    return TalkRequest(
        f"summary {giver} {taker} {thing} {place} {day}",
        {"en": (f"on {en[4]} {en[0]} gave {en[2]} to {en[1]} at {en[3]}. say it in short.",),
         "zh": (f"{zh[4]}{zh[0]}在{zh[3]}送了{zh[2]}给{zh[1]}。简短地说。",)},
        good=(*gave, "@to", "@" + taker), plain=gave, bad=("@" + taker, *gave[1:]), thought="short",
        must=(f"@{giver} @gave @{thing}",), should=(f"@{thing} @to @{taker}",),
        must_not=("@" + place, "@" + day, f"@{taker} @gave"), max_words=12,
    )  # fmt: skip


_KINDS: dict[int, tuple[Callable[[random.Random], TalkRequest], ...]] = {
    1: (_greeting, _thanks),
    2: (_apology, _harm),
    3: (_invitation, _comparison),
    4: (_group,),
    5: (_summary,),
}
HARM_LEVEL = next(level for level, kinds in _KINDS.items() if _harm in kinds)
