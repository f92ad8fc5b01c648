"""What models and strangers write, as it reaches a terminal, Markdown and a page."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.text_safety import for_markdown, for_page, for_terminal

HARMLESS = "pass@1 Größe 你好 x² ≤ 3, a_b\\frac{1}{2} (100%) #1 – “so” 🙂"


@pytest.mark.parametrize("function", [for_terminal, for_markdown, for_page])
def test_ordinary_text_stays_as_it_is(function):
    assert function(HARMLESS) == HARMLESS


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b31m", "\\x9b31m"),  # the one-byte form of ESC [
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x00\x7f", "\\x00\\x7f"),
        ("abc\u202edef\u2066\u200f", "abc\\u202edef\\u2066\\u200f"),
        ("zero\u200bwidth\ufeff\U000e0041", "zero\\u200bwidth\\ufeff\\U000e0041"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_terminal_acts_on_becomes_a_visible_code(given, shown):
    assert for_terminal(given) == shown


@given(st.text(st.characters()))
def test_every_result_is_one_printable_line_that_utf8_can_hold(text):
    for shown in (for_terminal(text), for_markdown(text)):
        shown.encode()
        assert len(shown.splitlines()) <= 1
        assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(st.sampled_from("<>[]`|*~@:/w.W_\n!()a")))
def test_markdown_finds_nothing_to_act_on(text):
    shown = for_markdown(text)
    assert not set(shown) & set("<>[]`|*~\n")
    assert "://" not in shown
    assert "www." not in shown.lower()


@pytest.mark.parametrize(
    "address", ["https://evil.example", "WWW.evil.example", "(www.evil.example)", "a@b.c", "x @name"]
)
def test_an_address_is_not_linked(address):
    shown = for_markdown(address)
    assert "://" not in shown
    assert "www." not in shown.lower()
    assert "@" not in shown


def test_a_page_keeps_lines_and_shows_the_rest():
    assert for_page("a\n\tb\r\x00\u202e") == "a\n\tb\\r\\x00\\u202e"
