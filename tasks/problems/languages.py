"""Tells the language of a question: English, Chinese, or another one (which no stage supports).

The script decides first. Latin text counts as English unless function words of another language are more
frequent; text without words (a formula) counts as English.
"""

from __future__ import annotations

import re
from typing import Any

from tasks.problem import Language
from tasks.rewards.extraction import fold_width

_NAMES: dict[str, Language] = {
    **dict.fromkeys(("en", "eng", "english", "en-us", "en_us", "en-gb", "英文", "英语"), "en"),
    **dict.fromkeys(("zh", "zho", "chi", "chinese", "zh-cn", "zh_cn", "zh-hans", "cn", "中文", "汉语"), "zh"),
}  # fmt: skip
_NOTATION = re.compile(r"\$[^$]*\$|\\[A-Za-z]+|`[^`]*`")
_HAN = re.compile(r"[\u3400-\u9fff]")
_KANA_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_LATIN = re.compile(r"[a-z\u00df-\u024f]{2,}")
_OTHER = re.compile(r"[^\W\d_a-zA-Z\u00c0-\u024f\u0370-\u03ff\u2100-\u214f\u3400-\u9fff]")
_ENGLISH = frozenset(
    [
        "the",
        "of",
        "is",
        "are",
        "and",
        "to",
        "what",
        "how",
        "many",
        "much",
        "find",
        "if",
        "in",
        "that",
        "for",
        "with",
        "which",
        "does",
        "be",
        "by",
        "let",
        "given",
        "compute",
        "each",
        "when",
        "from",
        "has",
        "have",
        "it",
        "an",
        "at",
        "on",
        "was",
        "were",
        "determine",
        "calculate",
        "solve",
        "evaluate",
    ]
)
_FOREIGN = frozenset(
    [
        "el",
        "los",
        "las",
        "del",
        "una",
        "que",
        "cual",
        "cuál",
        "cuántos",
        "cuántas",
        "por",
        "para",
        "con",
        "es",
        "un",
        "se",
        "cuanto",
        "le",
        "les",
        "des",
        "du",
        "une",
        "est",
        "et",
        "dans",
        "quel",
        "quelle",
        "combien",
        "pour",
        "sur",
        "sont",
        "avec",
        "der",
        "die",
        "das",
        "und",
        "ist",
        "ein",
        "eine",
        "wie",
        "viele",
        "den",
        "von",
        "mit",
        "zu",
        "nicht",
        "il",
        "lo",
        "gli",
        "che",
        "di",
        "per",
        "quanto",
        "quante",
        "sono",
        "os",
        "um",
        "uma",
        "qual",
        "quantos",
        "não",
        "em",
        "para",
        "het",
        "een",
        "van",
        "hoeveel",
        "op",
        "wat",
        "ile",
        "jest",
        "w",
        "na",
        "się",
        "czy",
        "bir",
        "ve",
        "kaç",
        "için",
    ]
)


def named_language(value: Any) -> Language | None:
    """Return the language that a cell names (`English`, `zh-CN`); None for another one."""
    return _NAMES.get(str(value).strip().lower())


def detect_language(text: str) -> Language | None:
    """Return the language of a question; None for one that is neither English nor Chinese."""
    text = _NOTATION.sub(" ", fold_width(text)).lower()
    han = len(_HAN.findall(text))
    words = _LATIN.findall(text)
    if _KANA_HANGUL.search(text) or len(_OTHER.findall(text)) > han + sum(map(len, words)):
        return None
    if han > len(words):
        return "zh"
    english, foreign = (sum(word in known for word in words) for known in (_ENGLISH, _FOREIGN))
    return None if foreign > max(english, 1) else "en"
