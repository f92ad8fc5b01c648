"""Which scorers of reasoning-gym evaluate text as Python, and which text they may see.

Read for reasoning-gym 0.1.25: of its 106 data sets nine evaluate the answer (with `eval` or sympy's
`parse_expr`, which calls `eval`) and five evaluate a field of the stored problem. Code in such a text could
give its own row any verdict, even inside an isolated process, so text that is not plain never reaches those
scorers. The same holds for every data set that is not in `REVIEWED`, and for all of them when another version
of reasoning-gym is installed. `tests/rewards/test_judges.py` checks the lists against the installed version.

This module runs in the isolated process (`tasks.rewards.worker`), because `ast.literal_eval` of a long or
deeply nested text can exhaust memory or crash Python's parser.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from tasks.rewards.plain_math import nesting

REVIEWED_VERSION = "0.1.25"
"""Version of reasoning-gym whose scorers were read."""

EXPRESSION_ANSWERS = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)
"""Data sets whose scorer evaluates the answer as an arithmetic or algebraic expression."""
LIST_ANSWERS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Data sets whose scorer evaluates the answer as a list, for part marks."""
STORED_TEXT: Mapping[str, tuple[str, ...]] = {
    "bitwise_arithmetic": ("metadata", "problem"),
    "intermediate_integration": ("metadata", "integrand"),
    "number_sorting": ("answer",),
    "polynomial_multiplication": ("answer",),
    "simple_integration": ("metadata", "integrand"),
}
"""Data sets whose scorer evaluates a field of the stored problem, and where that field is."""
_REVIEWED = """
    ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation
    bitwise_arithmetic boxnet caesar_cipher calendar_arithmetic chain_sum circuit_logic codeio coin_flip
    color_cube_rotation complex_arithmetic count_bits count_primes course_schedule cryptarithm
    decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font
    fraction_simplification futoshiki game_of_life game_of_life_halting gcd graph_color group_anagrams
    gsm_symbolic isomorphic_strings jugs kakurasu knight_swap knights_knaves largest_island lcm
    leg_counting letter_counting letter_jumble list_functions mahjong_puzzle manipulate_matrix maze
    mini_sudoku modulo_grid needle_haystack number_filtering number_format number_sequence number_sorting
    palindrome_generation palindrome_partitioning path_star polynomial_equations pool_matrix
    power_function prime_factorization products propositional_logic quantum_lock ransom_note rearc
    rectangle_count rotate_matrix rotten_oranges rubiks_cube rush_hour self_reference sentence_reordering
    shortest_path simple_equations simple_geometry sokoban spell_backward string_manipulation
    string_splitting string_synthesis sudoku survo syllogism time_intervals tower_of_hanoi tsumego
    word_ladder word_sequence_reversal word_sorting zebra_puzzles
"""
REVIEWED = frozenset(_REVIEWED.split())
"""Data sets of that version whose scorer does not evaluate the answer. `composite` is left out,
because it forwards to the scorer of any other."""

MOST_CHARACTERS, MOST_NESTING = 10_000, 100
"""Of a text that is evaluated. CPython's parser and sympy recurse on nested brackets."""

_FUNCTIONS = frozenset(
    {
        *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
        *("asinh", "acosh", "atanh", "exp", "log", "ln", "sqrt", "Abs", "Integral"),
    }
)
_NAMES = frozenset(
    {
        *("pi", "alpha", "beta", "delta", "epsilon", "eta", "mu", "nu", "omega", "phi", "psi", "rho"),
        *("sigma", "tau", "theta", "xi"),
    }
)
_TOKEN = re.compile(
    r"(?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z][A-Za-z0-9]*)(?P<call>[ \t]*\()?"
    r"|(?P<called>\)[ \t]*\()"
    r"|<<|>>|[-+*/^(),]|[ \t]+",
    re.ASCII,
)
_ARITHMETIC = re.compile(r"[-0-9.\s+*/^()×÷,]*", re.ASCII)
_WORDS = re.compile(r"[A-Za-z0-9 _\t\n-]*", re.ASCII)
_SENTENCE = re.compile(r"[^()\[\]{}.@\\`\"'=:]*")


class NotPlain(ValueError):
    """A text that would be evaluated is not a plain number, expression or list."""


def refusal(dataset: str, answer: str, version: str) -> str | None:
    """Return why the scorer of `dataset` must not see `answer`; None where it may."""
    known = version == REVIEWED_VERSION
    if known and dataset in EXPRESSION_ANSWERS:
        return None if is_expression(answer) else "not an expression of numbers, variables and functions"
    if known and dataset in LIST_ANSWERS:
        return None if is_words(answer) or is_literal(answer) else "neither plain words nor a list of values"
    if known and dataset in REVIEWED:
        return None
    plain = is_sentence(answer) or is_expression(answer) or is_literal(answer)
    return None if plain else f"the scorer of {dataset} was not reviewed, and the answer is not plain text"


def stored_refusal(dataset: str, entry: Mapping[str, Any]) -> str | None:
    """Return which field of a stored problem its scorer must not evaluate; None where all are plain."""
    path = STORED_TEXT.get(dataset, ())
    value: Any = entry
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if path and not (isinstance(value, str) and (is_expression(value) or is_literal(value))):
        return f"{'.'.join(path)} is not a plain expression or list"
    return None


def is_expression(text: str) -> bool:
    """Tell whether `text` has only numbers, operators, variables and calls of the allowed functions.

    No attribute, quote, keyword with a meaning, underscore or call of anything else can be written so.
    """
    text = text.strip()
    if not text or not _is_shallow(text):
        return False
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or token["called"]:
            return False
        if (name := token["name"]) and not _is_allowed(name, called=bool(token["call"])):
            return False
        at = token.end()
    return True


def is_literal(text: str) -> bool:
    """Tell whether `text` is a Python literal (numbers, strings, lists, dictionaries)."""
    if not _is_shallow(text):
        return False
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError):
        return False
    return True


def is_words(text: str) -> bool:
    """Tell whether `text` has only letters, digits, spaces, hyphens and single underscores."""
    return len(text) <= MOST_CHARACTERS and "__" not in text and bool(_WORDS.fullmatch(text))


def is_sentence(text: str) -> bool:
    """Tell whether `text` has no sign with which Python calls, reads an attribute or binds a name."""
    return len(text) <= MOST_CHARACTERS and "__" not in text and bool(_SENTENCE.fullmatch(text))


def _is_allowed(name: str, called: bool) -> bool:
    return name in _FUNCTIONS or (not called and (len(name) == 1 or name in _NAMES))


def _is_shallow(text: str) -> bool:
    return len(text) <= MOST_CHARACTERS and nesting(text) <= MOST_NESTING


# ---- the second wall: what `eval` and `parse_expr` are in an isolated process -----------------------


def plain_eval(text: Any, *_: Any) -> Any:
    """Evaluate a literal or an expression without names; raise NotPlain for anything else."""
    if isinstance(text, str) and is_literal(text):
        return ast.literal_eval(text)
    if isinstance(text, str) and is_expression(text):
        return eval(text, {"__builtins__": {}}, {})
    raise NotPlain(f"refused to evaluate {text!r:.60}")


@cache
def guard_sympy() -> None:
    """Make sympy refuse to parse text that is not plain, whichever function of sympy was called.

    Every conversion of text (`parse_expr`, `sympify`, `S`) passes through `stringify_expr` (sympy 1.14). What
    sympy itself converts must not meet the guard: while its units are imported, for a comparison of sets for
    instance, it converts their names, and with a refusal there the sets would count as different.
    """
    import sympy.parsing.sympy_parser as parser
    import sympy.physics.units  # noqa: F401

    convert = parser.stringify_expr

    def guarded(text: str, *arguments: Any) -> str:
        if not (is_expression(text) or (_is_shallow(text) and _ARITHMETIC.fullmatch(text))):
            raise NotPlain(f"refused to parse {text[:60]!r}")
        return convert(text, *arguments)

    parser.stringify_expr = guarded


def guard_reasoning_gym() -> None:
    """Give every loaded module of reasoning-gym `plain_eval` in place of the builtin `eval`."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "reasoning_gym":
            vars(module)["eval"] = plain_eval
