"""Language consistency (paper Eq. 7) and repetition of a thinking text.

Consistency is the share of words in the target language. What belongs to no language is left out of the
count: digits, operators, LaTeX, code, tags, and symbols. Symbols are single letters (variables), Greek
letters, names of points (`ABC`), units (`cm`) and functions (`sin`, `gcd`). The paper does not publish its
language identification or its Chinese segmentation; here a Latin word counts as English, and Han text is cut
into words by jieba.

Texts come from models, so everything here is linear in the text: nothing searches for a missing end from
every place where a span could begin.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, get_args

from tasks.problem import Language
from tasks.rewards.extraction import fold_width

LANGUAGES: tuple[str, ...] = get_args(Language)

_CLOSED_BY = {"```": "```", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}
"""Code blocks and formulas: what opens them, and what closes them."""
_OPENS = re.compile(r"```|\$\$|\\\(|\\\[|\\begin\{([A-Za-z]{1,20}\*?)\}")
_FORMULAS = frozenset(
    {
        "math",
        "displaymath",
        "equation",
        "align",
        "aligned",
        "alignat",
        "alignedat",
        "array",
        "cases",
        "eqnarray",
    }
    | {
        "gather",
        "gathered",
        "multline",
        "split",
        "matrix",
        "pmatrix",
        "bmatrix",
        "vmatrix",
        "Vmatrix",
        "Bmatrix",
    }
    | {"smallmatrix", "dcases", "rcases", "tabular", "subarray", "lstlisting", "verbatim", "tikzpicture"}
)
"""LaTeX environments that hold no sentences."""
_LEFT_OUT = re.compile(
    r"`[^`\n]*`|\$[^$\n]*\$"  # code and formulas in a line
    r"|\\(?:text|textrm|mbox|hbox|operatorname\*?|math(?:rm|bf|it|sf|tt|cal|bb|frak|scr|op|bin|rel)|mod|pmod"
    r"|label|tag|ref|eqref|color|begin|end|frac|[dt]frac|sqrt|boldsymbol|overline|vec|hat|bar|widehat|overrightarrow"
    r"|unit|si|SI|qty|num|ce)\s{0,3}(?:\[[^\[\]{}]*\])?\{[^{}]*\}"  # with their names and symbols
    r"|\\[A-Za-z]+|</?\w{1,20}>"  # LaTeX commands, tags
    r"|\b[A-Za-z]\w{0,20}\([^()\n]{0,200}\)"  # calls such as f(x)
    r"|\b\w*\d\w*\b(?<![\u3400-\u9fff])",  # names with digits
    re.ASCII,
)
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]+(?:['’\-][A-Za-z\u00c0-\u024f]+)*")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_SYMBOLIC = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff\u2100-\u214f\U0001d400-\U0001d7ff]+")
"""Greek, letters such as ℝ and ℓ, mathematical italics."""
_OTHER = re.compile(r"[^\W\d_]+")
_NUMBER_OR_WORD = re.compile(r"[\u3400-\u9fff]+|[^\W_]+(?:\.\d+)?")
_UNITS = """
    mm cm dm km nm mg kg kL mL ml cl cL dl dL hl ms ns kHz Hz MHz GHz kW MW kWh Wh kJ MJ cal kcal eV keV MeV
    Pa kPa MPa hPa atm mol mmol kmol rad sr Nm kN mV kV mA mph kmh kph rpm ft yd oz lb lbs sec min hr hrs deg
    ppm dB sq cu
"""
_FUNCTIONS = """
    sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh asin acos atan log exp max min sup inf lim gcd
    lcm det dim ker deg mod arg sgn sqrt abs argmax argmin floor ceil
"""
_SHORT_NAMES = "ln lg tr Re Im pi dx dy dz dt du dr Rt"
_SYMBOLS = frozenset((_UNITS + _SHORT_NAMES).split())
_NAMES = frozenset(_FUNCTIONS.split())
"""Also in capitals: `GCD`."""
_PRODUCT = re.compile(r"[b-df-hj-np-tv-xz]{2,4}|[abcxyz]{2,3}|(?:arc)?(?:sin|cos|tan|cot|log|ln)[a-z]")
"""Variables side by side (`mn`, `xy`), a function and its variable (`sinx`)."""
_EXCEPTIONS = "by bay cab sing sins sink cost cosy tang tank tans logs logo"
_WORDS = frozenset(_EXCEPTIONS.split())
"""English words of the form of `_PRODUCT`."""
_POINTS = re.compile(r"[A-Z](?:['′’]{0,2}[A-Z]){1,5}['′’]{0,2}")
_CAPITALS = """
    AN AND ARE AS AT BE BUT BY CAN DO FOR GO HE HER HOW IF IN IS IT ITS LET ME MY NO NOT NOW OF OK ON OR OUR
    OUT SEE SHE SO THE TO TRY TWO UP US USE WAS WE WHO WHY YES YET YOU
"""
_CAPITAL_WORDS = frozenset(_CAPITALS.split())


def language_consistency(text: str | None, language: str) -> float:
    """Share of the words of `text` that are in `language` (`en` or `zh`), 0 to 1.

    1.0 when nothing is left to count; 0.0 for None (there is no thinking).

    Raises:
        ValueError: the language is not supported.
    """
    check_language(language)
    if text is None:
        return 0.0
    text = _without_notation(text)
    han = _HAN.findall(text)
    latin = sum(
        not (_is_symbol(word) if len(word) <= _SHORT_WORD else _symbol(word)) for word in _LATIN.findall(text)
    )
    other = sum(map(_is_word, _OTHER.findall(_LATIN.sub(" ", _HAN.sub(" ", text)))))
    if not han:
        return _share(latin, other) if language == "en" else _share(0, latin + other)
    if not latin + other:
        return 1.0 if language == "zh" else 0.0
    chinese = sum(len(_cut(run)) for run in han)
    return _share(chinese, latin + other) if language == "zh" else _share(latin, chinese + other)


def check_language(language: str) -> None:
    """Raises ValueError on a language whose words cannot be told."""
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not supported: use one of {', '.join(LANGUAGES)}")


def _without_notation(text: str) -> str:
    """`text` in normal width without code, formulas, LaTeX and names with digits."""
    return _LEFT_OUT.sub(" ", "".join(_outside_spans(fold_width(text))))


def _outside_spans(text: str) -> Iterator[str]:
    """What stands outside code blocks and closed formulas. An unclosed code block reaches to the end.

    A closing mark that is missing once is missing from there on, so no mark is searched for twice in vain.
    """
    missing: set[str] = set()
    at = 0
    while opening := _OPENS.search(text, at):
        yield text[at : opening.start()] + " "
        name = opening[1] or ""
        closing = rf"\end{{{name}}}" if name.rstrip("*") in _FORMULAS else _CLOSED_BY.get(opening[0], "")
        end = text.find(closing, opening.end()) if closing and closing not in missing else -1
        if end < 0 and opening[0] == "```":
            return
        if end < 0:
            missing.add(closing)
        at = end + len(closing) if end >= 0 else opening.end()
    yield text[at:]


def _symbol(word: str) -> bool:
    """Whether a run of Latin letters names variables, points, units or functions (`x`, `x-y`): no word."""
    return all(map(_is_one_symbol, word.split("-")))


_SHORT_WORD = 24
_is_symbol = lru_cache(65_536)(_symbol)
"""`_symbol` of short words, which come again and again; longer ones would fill the memory."""


def _is_one_symbol(name: str) -> bool:
    if len(name) == 1 or name in _SYMBOLS or name in _NAMES or (name.isupper() and name.lower() in _NAMES):
        return True
    if len(name) <= 12 and _POINTS.fullmatch(name):
        return name not in _CAPITAL_WORDS and _are_points(re.sub("['′’]", "", name))
    return bool(_PRODUCT.fullmatch(name)) and name not in _WORDS


def _are_points(letters: str) -> bool:
    """`ABC`, `OAB`, `PQRS`, `ABMN`, `GCD`; four and more only in a form that words do not have."""
    in_order = all(abs(ord(a) - ord(b)) <= 2 for a, b in pairwise(letters))
    first = sum(letter in "ABCDEFGH" for letter in letters)
    two_lines = re.fullmatch("[A-H]{2}[K-T]{2}", letters)
    return (
        len(letters) <= 3
        or in_order
        or first >= len(letters) - 1
        or bool(two_lines)
        or not set(letters) & set("AEIOU")
    )


def _is_word(run: str) -> bool:
    """Whether a run of letters that are neither Latin nor Han is a word.

    Greek letters are symbols, alone or side by side. Words of modern Greek have an accent or are long.
    """
    if not _SYMBOLIC.fullmatch(run):
        return any(map(str.isalpha, run))
    return run[0] < "\u2000" and (len(run) > 4 or (len(run) > 1 and unicodedata.normalize("NFD", run) != run))


def repetition(text: str, ngram: int) -> int:
    """The highest count of any run of `ngram` words (Latin words, numbers, Chinese words); 0 for none."""
    found = words(text)
    counts = Counter(zip(*(found[at:] for at in range(ngram)), strict=False))
    return max(counts.values(), default=0)


def repetition_above(text: str, ngram: int, most: int) -> int:
    """`repetition` where it is more than `most`, else 0.

    Chinese is cut into words only where its characters repeat so often: a run of words that occurs n times
    begins with as many characters that do.
    """
    tokens = _NUMBER_OR_WORD.findall(text.casefold())
    units = [unit for token in tokens for unit in (token if _HAN.match(token) else (token,))]
    counts = Counter(zip(*(units[at:] for at in range(ngram)), strict=False))
    if max(counts.values(), default=0) <= most:
        return 0
    found = repetition(text, ngram)
    return found if found > most else 0


def _share(target: int, others: int) -> float:
    return target / (target + others) if target + others else 1.0


def words(text: str) -> list[str]:
    """Latin words, numbers and Chinese words (cut by jieba), in order, case folded."""
    found: list[str] = []
    for token in _NUMBER_OR_WORD.findall(text.casefold()):
        found.extend(_cut(token) if _HAN.match(token) else [token])
    return found


def load_dictionary() -> None:
    """Load jieba's dictionary now rather than with the first Chinese text, which takes 1.5 to 2.5 seconds. A
    process that jobs are forked from does it for all of them."""
    _segmenter()


def _cut(text: str) -> list[str]:
    return list(_segmenter().cut(text, HMM=False))


@cache
def _segmenter() -> Any:
    """jieba's tokenizer, its dictionary built in memory (about a second, once a process).

    jieba keeps that dictionary in the shared temporary folder and loads it with `marshal`, which trusts what
    it reads: another user of the machine could have put a file there. So there is no cache here: it is
    neither read nor written.
    """
    import logging

    import jieba

    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    # What `initialize` does without a cache; it skips its own work once `initialized` is set.
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter
