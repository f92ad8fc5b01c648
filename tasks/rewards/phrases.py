"""The words around an expression: `There are 42 ways.`, `$18 per day`, `5 m/s`, `x = 1 or x = 2`.

`phrase(tokens)` returns the tokens of the one expression, with its unit. Words that would change the meaning
(not, than, between, about half of them ...) are never dropped: `Unreadable` is raised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks.rewards.tokens import Token


class Unreadable(ValueError):
    """Not all of a text is understood; the message says what is not."""


@dataclass(frozen=True)
class Phrase:
    tokens: tuple[Token, ...]
    """The expression; empty where there are only words."""
    unit: str = ""
    nouns: tuple[str, ...] = ()
    words: str = ""
    """All words, where there is no expression."""


_UNITS = """
    m: m meter meters metre metres
    km: km kilometer kilometers kilometre kilometres
    cm: cm centimeter centimeters centimetre centimetres
    mm: mm millimeter millimeters millimetre millimetres
    nm: nm
    um: um
    in: in inch inches
    ft: ft foot feet
    yd: yd yard yards
    mi: mi mile miles
    g: g gram grams
    kg: kg kilogram kilograms
    mg: mg
    lb: lb lbs pound pounds
    oz: oz ounce ounces
    t: ton tons tonne tonnes
    s: s sec secs second seconds
    min: min mins minute minutes
    h: h hr hrs hour hours
    ms: ms
    ns: ns
    day: day days
    week: week weeks
    month: month months
    year: year years
    N: N newton newtons
    J: J joule joules
    kJ: kJ
    W: W watt watts
    kW: kW
    V: V volt volts
    A: A amp amps ampere amperes
    K: K kelvin
    C: C celsius
    F: F fahrenheit
    Pa: Pa pascal pascals
    kPa: kPa
    Hz: Hz hertz
    kHz: kHz
    MHz: MHz
    mol: mol mole moles
    L: L l liter liters litre litres
    mL: mL ml milliliter milliliters
    eV: eV
    T: T tesla
    mph: mph
    kmh: kmh kph
    deg: deg degree degrees
    rad: rad radian radians
    ohm: ohm ohms
    atm: atm
    cal: cal
    kcal: kcal
    MeV: MeV
    dm: dm
    gal: gallon gallons
    acre: acre acres
    sq: sq square
    cu: cu cubic
    unit: unit units
    $: $ usd dollar dollars bucks
    EUR: € eur euro euros
    GBP: £ gbp
    CNY: ¥ cny yuan rmb 元
    JPY: jpy yen
    INR: ₹ inr rupee rupees
    cent: cent cents
"""
"""A unit as it is compared: how it is written."""
UNITS = {
    spelling: unit
    for unit, _, spellings in (line.strip().partition(": ") for line in _UNITS.strip().splitlines())
    for spelling in spellings.split()
}
_SCALES = {
    "hundred": 100,
    "thousand": 1_000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "万": 10**4,
    "亿": 10**8,
    "千": 1_000,
    "百": 100,
}
_OR = frozenset({"or", "and", "或", "和", "或者", "与"})
_IS = frozenset({"is", "equals", "are", "为", "是", "等于", "equal"})
_WORDS = """
    above any aren't below between billion both can't cannot cubed didn't divided doesn't
    don't double dozen either exceed exceeds except factorial false fewer greater half halves
    hundred hundredths if impossible incorrect isn't large least maybe might million minus mistake
    mod modulo most multiplied negative neither never no nor not over perhaps plus point possibly
    probably quarter root small squared tenths than third thirds thousand thousandths times trillion
    triple twice under unknown unless up wasn't when where without wrong
"""
_CHANGES_MEANING = frozenset(_WORDS.split())
_CHINESE_CHANGES = "不非或至少最多超过少于多于大于小于半倍无没负除"
_OF_ANGLES = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
_POWER = re.compile(r"\^( \{)?( -)?$")
"""What stands before the power of a unit: `cm^2`, `s^{-1}`."""
_PUNCTUATION = frozenset(",.:;\"'")


def phrase(found: Sequence[Token], letters: frozenset[str] | None) -> Phrase:
    """Find the expression among the words.

    `letters` are the variables of the gold answer, which are no units in an answer; None for the gold
    answer itself.
    """
    read = _expand(found, letters)
    start, end = _first(read), _last(read)
    if start >= end:
        return Phrase((), words=_plain_words(read))
    before, inner, after = read[:start], read[start:end], read[end:]
    _refuse([*before, *after])
    inner, unit_tokens = _split_unit(inner, letters)
    unit_tokens = [*unit_tokens, *after]
    if before and (before[-1].kind == "currency"):
        unit_tokens = [before[-1], *unit_tokens]
    if stray := next((token for token in inner if token.kind in ("word", "currency", "other")), None):
        raise Unreadable(f"{stray.text[:20]!r} within the expression")
    unit, nouns = _unit(unit_tokens)
    return Phrase(tuple(inner), unit, nouns)


def _expand(found: Sequence[Token], letters: frozenset[str] | None) -> list[Token]:
    """Words that stand for signs become signs, and products of letters are taken apart."""
    out: list[Token] = []
    for at, token in enumerate(found):
        before, after = found[at - 1] if at else None, found[at + 1] if at + 1 < len(found) else None
        lower = token.text.lower()
        if (token.kind == "command" and token.text in ("angle", "triangle", "quad")) or (
            token.kind == "letter"
            and token.text in ("a", "A", "I")
            and _is_article(token, before, after, letters)
        ):
            token = replace(token, kind="word")
        if token.text == "U" and before and after and before.text in (")", "]") and after.text in ("(", "["):
            out.append(Token("command", "cup"))
        elif token.kind != "word":
            out.append(token)
        elif (scale := _SCALES.get(lower) or _SCALES.get(lower[:1])) and before and before.kind == "number":
            out += [Token("sign", "*"), Token("number", str(scale))]
            if lower not in _SCALES:
                out.append(replace(token, text=token.text[1:]))
        elif lower in ("percent", "pct"):
            out.append(replace(token, kind="sign", text="%"))
        elif lower in _OR and _stands_between(before, after, letters):
            out.append(Token("or", ","))
        elif lower in _IS and _equates(out, before, after):
            out.append(Token("sign", "="))
        elif token.text.isupper() and len(token.text) <= 3 and after and after.text in ("=", "_"):
            out.append(replace(token, kind="name"))
        elif _splits(token, before, after, letters):
            out += [
                Token("letter", letter, token.spaced and not n, token.in_text, token.in_math)
                for n, letter in enumerate(token.text)
            ]
        else:
            out.append(token)
    return out


def _stands_between(before: Token | None, after: Token | None, letters: frozenset[str] | None) -> bool:
    """Whether both neighbours of an `or` are expressions."""
    if before is None or after is None or before.kind == "word":
        return False
    return after.kind != "word" or _splits(after, None, None, letters)


def _equates(out: Sequence[Token], before: Token | None, after: Token | None) -> bool:
    """Whether an `is` stands behind a variable and before an expression."""
    if before is None or after is None:
        return False
    return before.kind == "letter" == out[-1].kind and after.kind != "word"


def _is_article(
    token: Token, before: Token | None, after: Token | None, letters: frozenset[str] | None
) -> bool:
    in_prose = after is not None and after.kind == "word" and after.spaced
    return in_prose and not token.in_math and (before is None or before.kind == "word" or token.spaced)


def _splits(token: Token, before: Token | None, after: Token | None, letters: frozenset[str] | None) -> bool:
    """Tell whether a run of letters is a product of variables: `xy`, `2abc`, `AB` where the gold has A and
    B."""
    text = token.text
    if not text.isascii() or not text.isalpha() or len(text) > 6:
        return False
    if letters and letters >= set(text):
        return True
    if token.in_text or text in UNITS:
        return False
    touches = (
        before is not None
        and not token.spaced
        and before.kind not in ("word", "currency")
        and before.text not in ".,:;\"'("
    ) or (
        after is not None
        and not after.spaced
        and after.text in ("^", "_", "+", "-", "*", "/", "(", "=", "{", "|")
    )
    return (token.in_math and len(text) <= 3 and text.lower() not in _OR | _IS) or (
        touches and len(text) <= 3
    )


def _is_word(token: Token) -> bool:
    return token.kind == "word"


def _first(read: Sequence[Token]) -> int:
    """Where the expression starts: behind leading words and their punctuation."""
    at = 0
    while at < len(read) and (
        _is_word(read[at]) or read[at].kind == "currency" or (at and read[at].text in _PUNCTUATION)
    ):
        at += 1
    if at and at < len(read) and _is_word(read[at - 1]) and read[at].text in ("=", "approx"):
        at += 1
    return at


def _last(read: Sequence[Token]) -> int:
    """Where the expression ends: before closing words, their punctuation and remarks in brackets."""
    at = len(read)
    while at:
        token = read[at - 1]
        if (
            _is_word(token)
            or (token.text in (".", ",", ";", ":", '"') and token.kind in ("sign", "or"))
            or (
                token.text == "/"
                and at < len(read)
                and _is_word(read[at])
                and at >= 2
                and _is_word(read[at - 2])
            )
            or (token.text == "!" and at >= 2 and _is_word(read[at - 2]))
        ):
            at -= 1
        elif token.text == ")" and (opening := _words_in_brackets(read, at - 1)) is not None:
            at = opening
        else:
            break
    return at


def _words_in_brackets(read: Sequence[Token], closing: int) -> int | None:
    at = closing - 1
    while at >= 0 and _is_word(read[at]):
        at -= 1
    return at if 0 < at < closing - 1 and read[at].text == "(" else None


def _refuse(around: Sequence[Token]) -> None:
    for token in around:
        lower = token.text.lower()
        if lower in _CHANGES_MEANING or (
            not lower.isascii() and any(sign in lower for sign in _CHINESE_CHANGES)
        ):
            raise Unreadable(f"{token.text[:20]!r} beside the expression")


def _split_unit(inner: Sequence[Token], letters: frozenset[str] | None) -> tuple[list[Token], list[Token]]:
    """Cut the unit off the end of an expression: letters, powers and fractions of known units behind a
    value."""
    at = len(inner)
    if any(token.text in _OF_ANGLES for token in inner):
        letters = (letters or frozenset()) | {"deg"}  # `\sin 30^\circ` has no unit
    while at > 1 and _can_be_in_unit(inner, at - 1, letters):
        at -= 1
    while at < len(inner) and not (
        _names_unit(inner[at], letters, inner[at - 1] if at else None) and at and _ends_value(inner[at - 1])
    ):
        at += 1
    return list(inner[:at]), list(inner[at:])


def _can_be_in_unit(inner: Sequence[Token], at: int, letters: frozenset[str] | None) -> bool:
    token, before = inner[at], inner[at - 1]
    if token.kind == "number":
        return _POWER.search(" ".join(t.text for t in inner[max(0, at - 3) : at])) is not None
    if token.text == "frac":
        return letters is not None
    if token.kind == "sign":
        return token.text in ("/", "^", "{", "}", "*") or (token.text == "-" and before.text in ("^", "{"))
    return token.kind == "word" or _names_unit(token, letters, before)


def _names_unit(token: Token, letters: frozenset[str] | None, before: Token | None) -> bool:
    if (
        token.kind in ("word", "currency")
        or (token.text == "deg" and "deg" not in (letters or ()))
        or (token.text == "frac" and letters is not None)
    ):
        return True
    if token.text not in UNITS or token.kind not in ("letter", "function", "word"):
        return False
    if letters is None:  # the gold answer: `5 m` has a unit, `5m` is a product
        return token.in_text or (
            token.spaced
            and not token.in_math
            and before is not None
            and (before.kind == "number" or before.text in "/*")
        )
    return token.text not in letters


def _ends_value(token: Token) -> bool:
    return token.kind in ("number", "repeating", "constant", "letter") or token.text in (
        ")",
        "}",
        "]",
        "|",
        "!",
        "%",
    )


def _unit(found: Sequence[Token]) -> tuple[str, tuple[str, ...]]:
    """The unit in one spelling (`m/s`, `cm^2`), and the words behind that are no unit."""
    parts, nouns, power = [], [], ""
    if any(token.text.lower() in ("squared", "cubed") for token in found[:1]):
        raise Unreadable(f"{found[0].text!r} behind the expression")
    for at, token in enumerate(found):
        text = token.text if token.text in UNITS else token.text.lower()
        if text in ("square", "sq", "cubic", "cu"):
            power = "^2" if text in ("square", "sq") else "^3"
        elif text in UNITS and (text != "in" or at == len(found) - 1):
            parts.append(UNITS[text] + power)
            power = ""
        elif text in ("squared", "cubed") and parts:
            parts.append("^2" if text == "squared" else "^3")
        elif text == "per" or (text == "}" and at + 1 < len(found) and found[at + 1].text == "{"):
            parts.append("/")
        elif token.kind in ("number", "sign") and text not in (
            "{",
            "}",
            "*",
            ".",
            ",",
            ";",
            ":",
            "?",
            "!",
            '"',
            "(",
            ")",
        ):
            parts.append(text)
        elif token.kind == "word" and text.isalpha():
            nouns.append(text.rstrip("s"))
    unit = "".join(parts).replace("km/h", "kmh").replace("mi/h", "mph")
    return unit.strip("/"), tuple(nouns)


def _plain_words(read: Sequence[Token]) -> str:
    words = [token.text.lower() for token in read]
    for at in range(len(words) - 1, -1, -1):
        if words[at] in ("is", "answer", ":", "are") and at < len(words) - 1:
            words = words[at + 1 :]
            break
    kept = [word for word in words if word not in ("a", "an", "the", ".", '"', "{", "}")]
    return " ".join(kept)
