"""Language consistency (paper Eq. 7) and repetition of a thinking text.

Consistency is the share of words in the target language. What belongs to no language is left out of the
count: digits, operators, LaTeX, code, tags and single Latin letters (variable names). The paper does not
publish its language identification or its Chinese segmentation; here a Latin word counts as English, and
Han text is cut into words by jieba.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

_LEFT_OUT = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`"  # code
    r"|\$\$.*?\$\$|\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]"  # LaTeX spans
    r"|\\[A-Za-z]+|</?\w+>"  # LaTeX commands, tags
    r"|\b\w+\([^()\n]*\)|\b\w*\d\w*\b(?<![\u3400-\u9fff])",  # calls such as f(x); names with digits
    re.DOTALL | re.ASCII,
)
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]+(?:['’\-][A-Za-z\u00c0-\u024f]+)*")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
_OTHER = re.compile(r"[^\W\d_]+")
_NUMBER_OR_WORD = re.compile(r"[\u3400-\u9fff]+|[^\W_]+(?:\.\d+)?")


def language_consistency(text: str | None, language: str) -> float:
    """Share of the words of `text` that are in `language` (`en` or `zh`), 0 to 1.

    1.0 when nothing is left to count; 0.0 for None (there is no thinking).
    """
    if text is None:
        return 0.0
    text = _LEFT_OUT.sub(" ", text)
    han = _HAN.findall(text)
    latin = sum(len(word) > 1 for word in _LATIN.findall(text))
    other = len(_OTHER.findall(_LATIN.sub(" ", _HAN.sub(" ", text))))
    if not han:
        return _share(latin, other) if language == "en" else _share(0, latin + other)
    if not latin + other:
        return 1.0 if language == "zh" else 0.0
    chinese = sum(len(_cut(run)) for run in han)
    return _share(chinese, latin + other) if language == "zh" else _share(latin, chinese + other)


def repetition(text: str, ngram: int) -> int:
    """The highest count of any run of `ngram` words (Latin words, numbers, Chinese words); 0 for none."""
    found = words(text)
    counts = Counter(zip(*(found[at:] for at in range(ngram)), strict=False))
    return max(counts.values(), default=0)


def _share(target: int, others: int) -> float:
    return target / (target + others) if target + others else 1.0


def words(text: str) -> list[str]:
    """Latin words, numbers and Chinese words (cut by jieba), in order, case folded."""
    found: list[str] = []
    for token in _NUMBER_OR_WORD.findall(text.casefold()):
        found.extend(_cut(token) if _HAN.match(token) else [token])
    return found


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
