"""Makes text of models and strangers safe to show: on a terminal, in Markdown and on a page.

Completions, problem texts, node names and preset names can hold anything. Terminal escapes would move the
cursor or set the window's title, bidirectional marks make a line read as another one, and Markdown would
turn an answer into a link or break the table that it stands in. This module needs nothing but the standard
library, so that the command line can use it at once.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories: controls (escape, null, new line), format characters (bidirectional marks, zero-width
characters, tags), lone surrogates (which UTF-8 cannot encode), line and paragraph separators."""


class _VisibleCodes(dict[int, int | str]):
    """A table for `str.translate` that fills itself: code point -> itself, or its escape as visible text."""

    def __missing__(self, code: int) -> int | str:
        character = chr(code)
        shown = unicodedata.category(character) in _INVISIBLE
        self[code] = character.encode("unicode_escape").decode() if shown else code
        return self[code]


_ONE_LINE = _VisibleCodes()
_SEVERAL_LINES = _VisibleCodes({ord("\n"): "\n", ord("\t"): "\t"})
# Look-alikes and not escapes: a cell of the Prefect UI may be shown as Markdown or as it is, and an escape
# (`\[`, `&lt;`) is right in one of the two only.
_MARKDOWN = str.maketrans({"<": "‹", ">": "›", "[": "［", "]": "］", "`": "ˋ", "|": "∣", "*": "∗", "~": "∼"})
_MOST_MARKS = 30
_AUTOLINK = re.compile(r"://|www\.|(?<!\w)@|@(?=[\w-]+\.\w)", re.IGNORECASE)
"""What GitHub links without brackets: addresses, people (`@name`) and mail (`a@b.c`), but not `pass@1`."""


def nfkc(text: str) -> str:
    """Return `text` in Unicode's compatibility form, in time linear in its length.

    A letter keeps at most 30 combining marks, as in Unicode's stream-safe format: `unicodedata.normalize`
    sorts the marks of one letter in quadratic time.
    """
    if text.isascii():
        return text
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return unicodedata.normalize("NFKC", "".join(kept))


def for_terminal(text: str) -> str:
    r"""Return `text` on one line, with every character that a terminal acts on as a visible code.

    Escape becomes `\x1b`, a new line `\n`, a right-to-left override `\u202e`. Rich's markup is another
    matter: text for a Rich console needs `rich.markup.escape` as well (or `markup=False`).
    """
    return text.translate(_ONE_LINE)


def for_markdown(text: str) -> str:
    """Return `text` on one line for a table cell, a heading or a sentence in Markdown.

    The characters that tags, links, code, emphasis and table cells are made of become look-alikes, and
    addresses lose what makes a renderer link them. Control characters are shown as by `for_terminal`.
    """
    return _AUTOLINK.sub(_unlinked, for_terminal(text).translate(_MARKDOWN))


def for_page(text: str) -> str:
    """Return `text` with line ends and tabs kept and other invisible characters as visible codes.

    It does not escape HTML: the templates of the report do that to everything.
    """
    return text.translate(_SEVERAL_LINES)


def _unlinked(found: re.Match[str]) -> str:
    return found[0].translate({ord(":"): "∶", ord("."): "․", ord("@"): "＠"})
