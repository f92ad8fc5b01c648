r"""An answer as the tokens of an expression, whichever way it was written.

`tokens(text)` takes off emphasis, back-ticks and dollar signs, writes Unicode signs, LaTeX and program
notation
(`√2`, `\sqrt{2}`, `sqrt(2)`) alike, and joins thousands. Nothing is dropped that could have a meaning: a
sign that
is not known becomes a token of kind `other`, which no grammar accepts. The time is linear in the length of
the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tasks.rewards.extraction import fold_width


@dataclass(frozen=True)
class Token:
    kind: str
    """number, letter, word, name (two or three capitals), function, constant, command, sign, currency or
    other."""
    text: str
    spaced: bool = False
    """White space stands before it."""
    in_text: bool = False
    r"""It stands in `\text{...}` or the like."""
    in_math: bool = False
    """It stands between dollar signs."""


_SIGNS = {
    **dict.fromkeys("−–‒—‑﹣", "-"), **dict.fromkeys("×⋅·∙∗✕", "*"), **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("≤⩽≦", r"\le "), **dict.fromkeys("≥⩾≧", r"\ge "), "≠": r"\ne ", "≈": r"\approx ",
    "≡": r"\equiv ",
    "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
    "∈": r"\in ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}",
    "√": r"\sqrt ", "∛": r"\cbrt ", "°": r"^\circ ", "…": r"\ldots ", "’": "'", "′": "'", "，": ",",
    "、": ",", "；": ";",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "∑": r"\sum ", "∫": r"\int ", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "ϕ": r"\phi ", "∖": r"\setminus ", "→": r"\to ",
    "∣": "|",
}  # fmt: skip
_GREEK = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau
    upsilon phi chi psi
    psi omega
"""
_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
GREEK = frozenset(_GREEK.split()) | {"varphi", "vartheta", "varepsilon", "ell"}
_SIGNS |= {chr(0x3B1 + at + (at > 16)): rf"\{name} " for at, name in enumerate(_GREEK.split())}
_SIGNS |= {letter: rf"\{name} " for letter, name in zip("ΓΔΘΛΞΠΣΦΨΩ", _CAPITALS.split(), strict=True)}
_UNICODE = str.maketrans(_SIGNS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿˣⁱ", "0123456789+-()nxi")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙₖ", "0123456789nk")
_SCRIPT = re.compile("(?P<raised>[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿˣⁱ]+)|(?P<lowered>[₀₁₂₃₄₅₆₇₈₉ₙₖ]+)|(?P<vulgar>[¼-¾⅐-⅞])")

FUNCTIONS = {
    **{n: n for n in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp", "ln", "log",
    "abs")},
    **{n: n for n in ("sqrt", "cbrt", "gcd", "lcm", "max", "min", "floor", "ceil", "binom", "factorial")},
    **{f"arc{n}": f"a{n}" for n in ("sin", "cos", "tan")}, **{f"a{n}": f"a{n}" for n in ("sin", "cos",
    "tan")},
    "lg": "log", "tg": "tan", "arctg": "atan", "Abs": "abs", "comb": "binom",
}  # fmt: skip
_CONSTANTS = {
    "pi": "pi",
    "Pi": "pi",
    "infty": "oo",
    "infinity": "oo",
    "Infinity": "oo",
    "inf": "oo",
    "oo": "oo",
}
_TEXT = frozenset(
    {
        "text",
        "textrm",
        "textbf",
        "textit",
        "textsf",
        "mbox",
        "mathrm",
        "operatorname",
        "rm",
        "emph",
        "mathsf",
        "textnormal",
    }
)
_STYLE = frozenset(
    {
        "mathbf",
        "boldsymbol",
        "bm",
        "mathit",
        "bf",
        "boxed",
        "fbox",
        "displaystyle",
        "underline",
        "textstyle",
        "left",
        "right",
        "limits",
    }
    | {f"{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r")}
    | {"operatorname*"}
)
_BLANK = frozenset({",", ";", ":", "!", " ", "quad", "qquad", "thinspace", ">"})
_RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le",
    "geq": "ge", "leqslant": "le",
    "geqslant": "ge", "lt": "<", "gt": ">", "neq": "ne", "times": "*", "cdot": "*", "ast": "*", "div": "/",
    "lbrace": "{",
    "rbrace": "}", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "dots": "ldots", "cdots": "ldots",
    "dotsc": "ldots",
    "varnothing": "emptyset", "langle": "(", "rangle": ")", "lparen": "(", "rparen": ")", "lbrack": "[",
    "rbrack": "]", "colon": ":", "backslash": "setminus",
    "land": "and", "lor": "or", "approxeq": "approx", "simeq": "approx", "pmod": "pmod", "bmod": "pmod",
    "mod": "pmod", "degree": "deg",
    "sim": "approx",
}  # fmt: skip

_GROUPED = r"\d{1,3}(?:(?:\{,\}|\\[,;:! ]|[ ~])\d{3})+(?!\d)"
_TOKEN = re.compile(
    rf"(?P<blank>[\s~]+|\\[,;:!> ]|\\q?quad(?![A-Za-z]))"
    rf"|(?P<repeating>\d*\.\d*\\(?:overline|dot)\s*\{{\d+\}})"
    rf"|(?P<number>(?:{_GROUPED}|\d{{1,3}}(?:,\d{{3}})+(?!\d)(?!,\d)|\d+)(?:\.\d+|\.(?!\d|\.))?(?:[eE][+-]?\d+(?![\d.]))?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<degree>\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z])))"
    r"|(?P<environment>\\(?:begin|end)\s*\{[A-Za-z*]+\})"
    r"|(?P<blackboard>\\mathbb\s*\{?\s*[A-Z]\s*\}?)"
    r"|(?P<command>\\[A-Za-z]+|\\\\|\\[{}|%$&#])"
    r"|(?P<letters>[A-Za-z]{2,}'[a-z]{1,2}(?![A-Za-z])|[A-Za-z]{3,}(?:-[A-Za-z]{3,})+|[A-Za-z]+)"
    r"|(?P<chinese>[\u3400-\u9fff]+)"
    r"|(?P<sign>\*\*|<=|>=|!=|=<|==|\.\.\.|[-+*/^_(){}\[\],;:=<>|!%&'.$?\"])"
    r"|(?P<currency>[€£¥\u20b9])"
    r"|(?P<other>.)",
    re.DOTALL,
)
_HEADING = re.compile(r"#{1,6}\s+")
_TIMES_TEN = re.compile(r"(?<=[\d.])\s?[xX]\s?(?=10\s?(?:\^|\*\*|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]))")
"""`3 x 10^8`"""
_EMPHASIS = re.compile(
    r"(?<![\w*_`)}\]])(\*{1,3}|_{1,3})(?=[^\s*_])|(?<=[^\s*_])(\*{1,3}|_{1,3})(?![\w*_/^({\[+\-])"
)


def tokens(text: str) -> list[Token]:
    """Read an answer, with what marks or emphasises the expression taken off."""
    text = without_emphasis(_HEADING.sub("", fold_width(text.strip()))).replace("`", " ").strip()
    if len(text) > 1 and text[0] in '"“' and text[-1] in '"”':
        text = text[1:-1]
    text = _TIMES_TEN.sub("*", text)
    text = _SCRIPT.sub(_script, text.translate(_UNICODE)).replace("\\$", "\x01").replace("$$", "$")
    for mark in (r"\(", r"\)", r"\[", r"\]"):
        text = text.replace(mark, "$")
    if text.count("$") % 2:
        text = text.replace("$", "\x01", 1)
    return list(_read(text))


def _read(text: str) -> Iterator[Token]:
    spaced = marked = about_to_open = False
    depth, texts = 0, list[int]()  # `texts`: brace depths at which a \\text{...} was opened
    for match in _TOKEN.finditer(text):
        kind, raw = match.lastgroup or "other", match.group()
        if kind == "blank" or raw == "$":
            marked, spaced = marked != (raw == "$"), True
            continue
        for token in _of(kind, raw):
            if token.kind == "text command":
                about_to_open = True
                continue
            if token.text == "{" and token.kind == "sign":
                depth += 1
                if about_to_open:
                    texts.append(depth)
                    about_to_open, spaced = False, True
                    continue
            elif token.text == "}" and token.kind == "sign":
                depth -= 1
                if texts and texts[-1] == depth + 1:
                    texts.pop()
                    continue
            about_to_open = False
            yield replace(token, spaced=spaced, in_text=bool(texts), in_math=marked and not texts)
            spaced = False


def _of(kind: str, raw: str) -> Iterator[Token]:
    match kind:
        case "number":
            mantissa, _, exponent = raw.lower().partition("e")
            yield Token(
                "number",
                "".join(re.findall(r"[\d.]", mantissa)).removesuffix(".")
                + (f"e{exponent}" if exponent else ""),
            )
            if mantissa.endswith("."):
                yield Token("sign", ".")
        case "repeating":
            yield Token("repeating", raw)
        case "degree":
            yield Token("command", "deg")
        case "environment":
            yield Token("command", re.sub(r"\s", "", raw))
        case "blackboard":
            yield Token("command", "set " + re.sub(r"[^A-Z]", "", raw.removeprefix(r"\mathbb")))
        case "command":
            yield from _command(raw[1:])
        case "letters":
            yield from _letters(raw)
        case "chinese":
            yield Token("word", raw)
        case "currency":
            yield Token("currency", raw)
        case "sign":
            yield Token(
                "sign",
                {"**": "^", "<=": "le", ">=": "ge", "!=": "ne", "=<": "le", "==": "=", "...": "ldots"}.get(
                    raw, raw
                ),
            )
        case _:
            yield Token("currency", "$") if raw == "\x01" else Token("other", raw)


def _command(name: str) -> Iterator[Token]:
    if name in _STYLE or name in _BLANK:
        return
    name = _RENAMED.get(name, name)
    if name in _TEXT:
        yield Token("text command", name)
    elif name in ("{", "}"):
        yield Token("sign", "\\" + name)
    elif name in FUNCTIONS and name not in ("binom", "sqrt"):
        yield Token("function", FUNCTIONS[name])
    elif name in _CONSTANTS:
        yield Token("constant", _CONSTANTS[name])
    elif name in GREEK or name in ("Gamma", "Delta", "Theta", "Omega", "Phi", "Lambda", "Sigma", "Psi"):
        yield Token("letter", name)
    elif name == "$":
        yield Token("currency", "$")
    elif len(name) == 1 and name in "%&|<>*/()[]:":
        yield Token("sign", name)
    elif name in ("and", "or"):
        yield Token("word", name)
    else:
        yield Token("command", name)


def _letters(raw: str) -> Iterator[Token]:
    if raw in FUNCTIONS:
        yield Token("command" if raw in ("sqrt", "cbrt", "binom") else "function", FUNCTIONS[raw])
    elif raw in _CONSTANTS:
        yield Token("constant", _CONSTANTS[raw])
    elif raw in GREEK or len(raw) == 1:
        yield Token("letter", raw)
    else:
        yield Token("word", raw)


def _script(match: re.Match[str]) -> str:
    if raised := match["raised"]:
        return f"^{{{raised.translate(_RAISED)}}}"
    if lowered := match["lowered"]:
        return f"_{{{lowered.translate(_LOWERED)}}}"
    top, _, bottom = unicodedata.normalize("NFKC", match["vulgar"]).partition("⁄")
    return rf"\vulgar{{{top}}}{{{bottom}}}"


def without_emphasis(text: str) -> str:
    """Take off pairs of stars or underscores that stand around words as Markdown has them."""
    opened: list[tuple[str, int, int]] = []
    cuts: list[tuple[int, int]] = []
    for match in _EMPHASIS.finditer(text):
        if match[1]:
            opened.append((match[1], match.start(), match.end()))
        elif opened and opened[-1][0] == match[2]:
            _, start, end = opened.pop()
            cuts += [(start, end), match.span()]
    parts, at = [], 0
    for start, end in sorted(cuts):
        parts.append(text[at:start])
        at = end
    return "".join([*parts, text[at:]])
