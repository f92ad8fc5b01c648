"""Finds training questions that are near copies of held-out ones (paper B.3.1, D.1). Pure functions.

A training question is a near copy if it contains most of a held-out one: the same question with a prefix, a
suffix, another word, or with its numbers and formulas written in another way. `words_of` gives both texts one
notation. Then the words of the held-out question are found that stand in a run of `RUN` words of the training
question, and the weight of what was found is compared with `SHARE`. Words weigh by what they tell:

    - a run of words that many different questions have (the wording of generated questions, constraints of
      programming tasks) counts 1 / (d - 1)^2, where d questions have it (inverse document frequency);
    - a number counts three times, as generated questions differ in their numbers only, and a word that most
      tasks have (`GENERIC`) counts little, which matters where a set is too small to tell;
    - phrases that belong to the task and not to the question (`_PHRASES`) are left out altogether.

A held-out question that is shorter than `decontamination_ngram` words, not counting wording that it shares
with many others, must be found as a whole. Differs from the paper, which drops every text that shares a
10-gram: that misses a question with each tenth word changed, and drops all programming tasks that share a
line of constraints.

Time is linear in the text. Memory holds an index of the held-out questions only, of integers: a run of words
is three numbers in one. All training texts pass the screen (`screening.py`, numpy), and only those that share
something with a question are compared in Python.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Self

from tasks.problems.screening import Screen
from tasks.text_safety import nfkc

if TYPE_CHECKING:
    import pyarrow as pa

RUN = 3
"""Words that must stand in a row to count as found."""
SHARE = 0.6
"""Of a held-out question's weight, from which on a training question is a near copy of it."""

_OFTEN = 16
"""A run that more held-out questions have is wording: it points to none of them."""
_FIRST_LOOK = 4
"""Only a question one run in so many of which is found is looked at closely."""
_COMMON = 20
"""A word of a held-out question is shared wording if so many times more questions have its runs than have
those of the question's rarest word."""
_GENERATED = 5
"""A question whose rarest run so many others have is one of many generated ones: every word of it decides."""
_EMBEDDED = 4
"""Words of the shortest question that is looked for inside a longer one."""
_SAMPLE = 2048
"""Rows that are read to know which runs are frequent; so many are read in full."""
_SPAN = 200
"""Characters of the matched text that is told."""
_NUMBER_WEIGHT, _GENERIC_WEIGHT = 3.0, 0.3

_GENERIC = """
    a an and any are as at be been by can each every for from has have if in is it its no not of on one
    or so such than that the their them then there these they this to was were when where which will
    with you your also all both must may should does do how many much what find given compute calculate
    determine let suppose print output input line lines first second next integer integers number
    numbers value values array string test case cases contains contain denoting denote exceed guaranteed
    sum over single following return write read function program constraints constraint modulo mod
    result answer task problem question please use using
    的 了 是 在 有 和 与 求 则 为 个 多 少 其 中 若 设 且 所 以 这 那
"""
GENERIC = frozenset(_GENERIC.split())
"""Words that most tasks have."""

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "≤": "<=", "⩽": "<=",
     "≦": "<=", "≥": ">=", "⩾": ">=", "≧": ">=", "≠": "!=", "⁄": "/", "。": ".", "、": ",", "％": "%"}
)  # fmt: skip
_POWERS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LATEX = {
    **dict.fromkeys(("le", "leq", "leqslant"), "<="), **dict.fromkeys(("ge", "geq", "geqslant"), ">="),
    **dict.fromkeys(("times", "cdot", "ast"), "*"), "div": "/", "ne": "!=", "neq": "!=", "lt": "<", "gt": ">",
    "pmod": " mod ", "bmod": " mod ", "percent": "%",
}  # fmt: skip
_NAMES = """
    text textbf textit textrm mathrm mathbf mathit mathcal mathbb operatorname left right big bigl bigr
    displaystyle frac dfrac tfrac quad qquad begin end boxed mbox limits
"""
_NOTATION = frozenset(_NAMES.split())
_FRACTION = re.compile(r"\\[dt]?frac\s{0,3}\{([^{}]*)\}\s{0,3}\{([^{}]*)\}")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_THOUSANDS = re.compile(r"(?<=\d)(?:,|\{,\}|\\[,!;])(?=\d{3}(?!\d))")
_NUMBER = (
    r"(?<![\d.])-?\d[\d.]{0,20}(?:\s?\*\s?\d{1,9})?(?:\s?\^\s?\{?\d{1,3}\}?|e\d{1,3})?(?:\s?[-+]\s?\d{1,9})?"
)
_BOILERPLATE = [  # each with words without which it need not be searched for; texts are case folded
    (
        ("<",),
        rf"{_NUMBER}\s{{0,3}}<=?\s{{0,3}}[^<>=\n]{{1,40}}?\s{{0,3}}<=?\s{{0,3}}{_NUMBER}",
    ),  # 1 <= n, m <= 2*10^5
    (
        ("mod", "%"),
        r"(?:modulo|mod|%)\s{0,3}\(?(?:10\s?\^\s?\{?9\}?\s?\+\s?[79]|1e9\s?\+\s?[79]|100000000[79]|998244353)\)?",
    ),
    (
        ("step",),
        r"(?:please\s)?(?:let'?s\s)?(?:reason|think|solve\sit|work)\s(?:carefully\s)?step[\s-]by[\s-]step",
    ),
    (
        ("answer", "result", "solution"),
        r"(?:and\s)?(?:please\s)?(?:put|place|write|enclose|give|provide|return|state|box)\s(?:only\s)?(?:your|the)\s"
        r"(?:final\s)?(?:answer|result|solution)(?:\s(?:with)?in(?:side)?)?(?:\s\\boxed\s?(?:\{[^{}]{0,20}\})?)?"
        r"|(?:as|in)\syour\s(?:final\s)?answer|answer\sthe\sfollowing(?:\squestion)?",
    ),
    (("步",), r"请?(?:你)?(?:一步一步|逐步|一步步)(?:地)?(?:思考|推理|解答|推导)"),
    (
        ("答案",),
        r"(?:并|请)?(?:将|把)?(?:你的)?(?:最终|最后的?)?答案(?:放|写|填)?(?:在|到|入)?\s?"
        r"(?:\\boxed\s?(?:\{[^{}]{0,20}\})?)(?:中|里|内)?",
    ),
]
_PHRASES = [(needed, re.compile(pattern)) for needed, pattern in _BOILERPLATE]
_WORD = re.compile(r"[\u3400-\u9fff]|\d+(?:\.\d+)?|[^\W\d_]+(?:'[a-z]{1,2}\b)?|[<>!]?=|[-+*/^<>%]")

_SMALL = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
_UNITS = {word: value for value, word in enumerate(_SMALL.split())}
_TY = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * tens for tens, word in enumerate(_TY.split(), 2)}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_ENGLISH = rf"(?:{'|'.join(sorted((*_UNITS, *_TENS, *_SCALES), key=len, reverse=True))})"
_ENGLISH_NUMBER = re.compile(rf"\b(?=[zotfsenhmb]){_ENGLISH}(?:[\s-]{{1,3}}(?:and\s)?{_ENGLISH})*\b")
_HAN_UNITS = {sign: value for value, sign in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_HAN_NUMBER = re.compile(f"[{''.join((*_HAN_UNITS, *_HAN_SCALES))}]+")
_SCALED = re.compile(
    rf"(?<![\d.])(\d{{1,15}}(?:\.\d{{1,9}})?)\s?({'|'.join((*_SCALES, *_HAN_SCALES))})(?![a-z])"
)
_MONEY = frozenset({"dollar", "dollars", "usd"})
_OPERATORS = frozenset("+-*/^<>=%") | {"<=", ">=", "!="}
_NUMERALS = frozenset((*_UNITS, *_TENS, *_SCALES, *_HAN_UNITS, *_HAN_SCALES))
_LEFT_OUT = frozenset((*_MONEY, *_NOTATION, *_LATEX, "and", "mod"))
"""Words that are another thing, or nothing, in the one notation: the screen leaves them out of every text."""


@dataclass(frozen=True)
class Match:
    """A held-out question that a training question contains."""

    question: int
    """Its number."""
    share: float
    """Of its weight that was found, up to 1."""
    span: str
    """The longest part of it that was found, in the notation of `words_of`."""


def near_copies(training: Sequence[str], held_out: Sequence[str], shortest: int) -> list[Match | None]:
    """For each training question the held-out one that it is a near copy of, or None.

    A held-out question of less than `shortest` words must be found as a whole.
    """
    import pyarrow as pa

    with CopyFinder(held_out, shortest) as finder:
        finder.add(pa.array(training, pa.large_string()))
        matches = finder.matches((row, training[row]) for row in finder.rows_to_read())
    return [matches.get(row) for row in range(len(training))]


class CopyFinder:
    """Finds near copies among more questions than fit into memory: `add` all, then read some again.

    `tasks.problems.screening` looks at all rows; those that share something with a held-out question are
    compared.
    """

    def __init__(self, held_out: Sequence[str], shortest: int) -> None:
        self._index = _Index(held_out, shortest)
        self._screen = Screen(self._index.words, max(shortest, RUN), _LEFT_OUT, _NUMERALS)
        self._rows = 0
        self._suspects: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._screen.close()

    def add(self, texts: pa.Array) -> None:
        """Look at the next training questions."""
        self._screen.add(texts)
        self._rows += len(texts)

    def rows_to_read(self) -> list[int]:
        """Return the rows that `matches` needs, ascending: the suspects, and a sample of all rows.

        The sample tells which runs of words are frequent.
        """
        suspects = self._screen.suspects().tolist()
        self._suspects = set(suspects)
        step = max(1, -(-self._rows // _SAMPLE))
        return sorted({*suspects, *range(0, self._rows, step)})

    def matches(self, texts: Iterable[tuple[int, str]]) -> dict[int, Match]:
        """Return row -> match, from the rows of `rows_to_read` with their texts."""
        index, step = self._index, max(1, -(-self._rows // _SAMPLE))
        found: dict[int, Match] = {}
        close: dict[int, tuple[list[int], set[int]]] = {}
        sampled: Counter[int] = Counter()
        read: set[int] = set()
        for row, text in texts:
            words = words_of(text)
            ids = index.ids(words)
            runs = index.known_runs(ids)
            if row in self._suspects:
                if match := index.whole(words, ids):
                    found[row] = match
                elif candidates := index.candidates(runs):
                    close[row] = candidates, runs
            # A question that stands there a hundred times is no wording that a hundred questions share.
            if (text_hash := hash(tuple(words))) not in read:
                read.add(text_hash)
                (index.frequency if row in self._suspects else sampled).update(runs)
        # Of a sample, what is found once or twice may be chance and says nothing about the others.
        often = {run: count * step for run, count in sampled.items() if step == 1 or count > 2}
        index.frequency.update(often)
        for row, (candidates, runs) in close.items():
            matches = [match for question in candidates if (match := index.compare(question, runs))]
            if matches:
                found[row] = max(matches, key=lambda match: (match.share, -match.question))
        return found


def words_of(text: str) -> list[str]:
    """The words, numbers and operators of a question in one notation; a Chinese character is a word.

    Case, width, punctuation, dollar signs and LaTeX commands are dropped, numbers in words become digits, and
    phrases that belong to the task are left out, unless almost nothing else is there.
    """
    text = _in_one_notation(text)
    own = text
    for needed, phrase in _PHRASES:
        if any(word in own for word in needed):
            own = phrase.sub(" ", own)
    words = _WORD.findall(_with_digits(own))
    if len(words) < _EMBEDDED:
        words = _WORD.findall(_with_digits(text))
    return [_canonical(word) for word in words if word not in _MONEY and word not in _NOTATION]


def _in_one_notation(text: str) -> str:
    text = _POWERS.sub(lambda match: f"^{nfkc(match[0])}", text)
    text = nfkc(text.translate(_SIGNS)).translate(_SIGNS).casefold()
    text = _THOUSANDS.sub("", _FRACTION.sub(r"\1/\2", text))
    kept = _COMMAND.sub(_plain, text)
    return kept.replace("$", " ").replace(r"\%", "%").replace("**", "^").replace("`", " ")


def _plain(command: re.Match[str]) -> str:
    name = command[1]
    if name in _LATEX:
        return _LATEX[name]
    return command[0] if name == "boxed" else " " if name in _NOTATION else f" {name} "


def _with_digits(text: str) -> str:
    """Numbers in words as digits: `twenty-five` and `二十五` become 25, `3 million` becomes 3000000."""
    text = _SCALED.sub(lambda m: f" {Decimal(m[1]) * (_SCALES | _HAN_SCALES)[m[2]]:f} ", text)
    text = _ENGLISH_NUMBER.sub(lambda m: f" {_english_value(m[0])} ", text)
    return _HAN_NUMBER.sub(lambda m: f" {_han_value(m[0])} ", text)


def _english_value(words: str) -> str:
    """`two hundred and five` is 205; words that make no number together (`one two`) are several."""
    values: list[int] = []
    total = part = 0
    smallest = 100  # what the last word counts; only less can be added to it
    for word in re.findall("[a-z]+", words):
        if word in _SCALES:
            scale = smallest = _SCALES[word]
            if part >= 100 and scale == 100:
                values.append(total + part)
                total = part = 0
            part = (part or 1) * scale
            if scale > 100:
                total, part = total + part, 0
        elif word != "and":
            value = _TENS.get(word) or _UNITS[word]
            if smallest == 1 or (smallest == 10 and value >= 10):
                values.append(total + part)
                total = part = 0
            part += value
            smallest = 10 if word in _TENS else 1
    return " ".join(map(str, [*values, total + part]))


def _han_value(signs: str) -> str:
    if not any(sign in _HAN_SCALES for sign in signs):
        return "".join(str(_HAN_UNITS[sign]) for sign in signs)
    total = section = unit = 0
    for sign in signs:
        scale = _HAN_SCALES.get(sign, 0)
        if scale >= 10**4:
            total, section, unit = total + (section + unit or 1) * scale, 0, 0
        elif scale:
            section, unit = section + (unit or 1) * scale, 0
        else:
            unit = _HAN_UNITS[sign]
    return str(total + section + unit)


def _canonical(word: str) -> str:
    """A number without leading zeros and without zeros behind the point; other words as they are."""
    if not word[0].isdecimal():
        return word
    whole, _, rest = word.partition(".")
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{rest}" if rest else "")


class _Index:
    """The held-out questions, their runs of words, and how many questions have each run."""

    def __init__(self, questions: Sequence[str], shortest: int) -> None:
        self._vocabulary: dict[str, int] = {}
        self.words = [words_of(text) for text in questions]
        self._ids = [
            [self._vocabulary.setdefault(w, len(self._vocabulary) + 1) for w in words] for words in self.words
        ]
        self._shortest = max(shortest, RUN)
        self._whole: dict[tuple[int, ...], int] = {}
        self._postings: dict[int, list[int]] = defaultdict(list)
        self._indexed: list[int] = []
        for number, ids in enumerate(self._ids):
            self._whole.setdefault(tuple(ids), number)
            for run in set(_runs(ids)) if len(ids) >= self._shortest else ():
                self._postings[run].append(number)
        short = [ids for ids in self._ids if _EMBEDDED <= len(ids) < self._shortest]
        self._short_lengths = {
            first: sorted({len(i) for i in group}) for first, group in _by_first(short).items()
        }
        """First word -> lengths of the short questions that begin with it."""
        pointing = (n for numbers in self._postings.values() if len(numbers) <= _OFTEN for n in numbers)
        self._pointing = Counter(pointing)
        self.frequency = Counter({run: len(numbers) for run, numbers in self._postings.items()})
        self._weights: dict[int, tuple[list[float], list[int]]] = {}

    def ids(self, words: Sequence[str]) -> list[int]:
        """Numbers of words; 0 for a word that no held-out question has."""
        return [self._vocabulary.get(word, 0) for word in words]

    def known_runs(self, ids: Sequence[int]) -> set[int]:
        """The runs of a training question that a held-out one has."""
        return {run for run in _runs(ids) if run in self._postings}

    def whole(self, words: Sequence[str], ids: Sequence[int]) -> Match | None:
        """The held-out question that is the same, or a short one that stands inside.

        A formula is not inside a longer one: `3 + 4` is not in `3 + 4 * 5`.
        """
        same = self._whole.get(tuple(ids)) if ids else None
        if same is not None:
            return self._match(same, 1.0, 0, len(ids))
        for at, first in enumerate(ids):
            for length in self._short_lengths.get(first, ()):
                found = self._whole.get(tuple(ids[at : at + length])) if at + length <= len(ids) else None
                if found is None:
                    continue
                beside = (*words[max(0, at - 1) : at], *words[at + length : at + length + 1])
                if not any(map(_is_formula, beside)):
                    return self._match(found, 1.0, 0, length)
        return None

    def candidates(self, runs: Iterable[int]) -> list[int]:
        """The held-out questions that share enough runs for a closer look."""
        shared: Counter[int] = Counter()
        for run in runs:
            if len(self._postings[run]) <= _OFTEN:
                shared.update(self._postings[run])
        return [number for number, count in shared.items() if _FIRST_LOOK * count >= self._pointing[number]]

    def compare(self, number: int, runs: set[int]) -> Match | None:
        """How much of a held-out question a training question with these runs has; None if too little."""
        ids = self._ids[number]
        weights, decisive = self._weights_of(number)
        covered = [False] * len(ids)
        for at, run in enumerate(_runs(ids)):
            if run in runs:
                covered[at : at + RUN] = [True] * RUN
        share = sum(w for w, found in zip(weights, covered, strict=True) if found) / sum(weights)
        if share < SHARE or not all(covered[at] for at in decisive):
            return None
        spans = [
            [at for at, _ in group] for found, group in groupby(enumerate(covered), lambda c: c[1]) if found
        ]
        longest = max(spans, key=len)
        return self._match(number, share, longest[0], longest[-1] + 1)

    def _weights_of(self, number: int) -> tuple[list[float], list[int]]:
        """What each word of a held-out question tells, and the places of the words that all must be found."""
        if number not in self._weights:
            words, ids = self.words[number], self._ids[number]
            others = [1] * len(ids)
            for at, run in enumerate(_runs(ids)):
                for place in range(at, at + RUN):
                    others[place] = max(others[place], self.frequency[run] - 1)
            common = _COMMON * min(others)
            telling = [place for place, count in enumerate(others) if count < common]
            must_be_whole = len(telling) < self._shortest or min(others) >= _GENERATED
            weights = [_prior(word) / count**2 for word, count in zip(words, others, strict=True)]
            self._weights[number] = weights, telling if must_be_whole else []
        return self._weights[number]

    def _match(self, number: int, share: float, start: int, end: int) -> Match:
        return Match(number, share, " ".join(self.words[number][start:end])[:_SPAN])


def _by_first(lists: Iterable[list[int]]) -> dict[int, list[list[int]]]:
    found: dict[int, list[list[int]]] = defaultdict(list)
    for ids in lists:
        found[ids[0]].append(ids)
    return found


def _runs(ids: Sequence[int]) -> list[int]:
    """Each run of words as one number, exact since a word's number is below 2^32.

    0 stands for runs with a word that no held-out question has.
    """
    triples = zip(*(ids[at:] for at in range(RUN)), strict=False)
    return [(a << 64) | (b << 32) | c if a and b and c else 0 for a, b, c in triples]


def _prior(word: str) -> float:
    if word[0].isdecimal():
        return _NUMBER_WEIGHT
    single = len(word) == 1 and not "\u3400" <= word <= "\u9fff"
    return _GENERIC_WEIGHT if word in GENERIC or single or word in _OPERATORS else 1.0


def _is_formula(word: str) -> bool:
    return (
        word[0].isdecimal() or word in _OPERATORS or (len(word) == 1 and word.isascii() and word not in "ai")
    )
