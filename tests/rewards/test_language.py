"""Language consistency and repetition, on the tiny world's own texts and on others."""

import marshal
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.rewards.language import language_consistency, repetition, repetition_above
from tasks.tiny_world.lexicon import PHRASES

TARGETS = {
    "pure English": ("first 3+4=7 . so the result is 7 .", 1.0, 0.0),
    "pure Chinese": ("先算 3+4=7 。所以结果是 7 。", 0.0, 1.0),
    "letters as symbols are no words": ("先算 x + y = B , A , C , D 。", 0.0, 1.0),
    "an option letter": ("so the option is B", 1.0, 0.0),
    "an option letter in Chinese": ("所以选 B", 0.0, 1.0),
    "nothing to count": ("3 + 4 = 7 , x = A", 1.0, 1.0),
    "empty": ("", 1.0, 1.0),
    "LaTeX is left out": (r"先算 $\frac{speed}{time}$ 再算 \alpha \(distance\)", 0.0, 1.0),
    "code is left out": (
        "先算 `print value` 再算\n```python\nfor value in values: pass\n```",
        0.0,
        1.0,
    ),
    "calls and names with digits": ("先算 f(x) , x1 , sin(x) 再算", 0.0, 1.0),
    "a third language": ("привет wait", 0.5, 0.0),
    "Greek letters": ("设 α = 30° ，则 β = 60° 。", 0.0, 1.0),
    "Greek letters in English": ("Let α = 30° and β = 60°, so αβ and Δx are known.", 1.0, 0.0),
    "Greek letters alone": ("α β γ", 1.0, 1.0),
    "words of Greek": ("Λοιπόν, το αποτέλεσμα είναι wait", 0.25, 0.0),
    "letters of formulas": ("设 ℝ 和 ℓ ，𝑥𝑦 = ½ ，x² + y³", 0.0, 1.0),
    "cases": (
        r"设 f(x)=\begin{cases} x, & \text{if } x>0 \\ -x, & \text{otherwise} \end{cases} 则",
        0.0,
        1.0,
    ),
    "aligned": (r"\begin{aligned} area &= length \times width \end{aligned} 所以结果是", 0.0, 1.0),
    "a matrix": (r"令 A = \begin{pmatrix} first & second \\ third & last \end{pmatrix} 。", 0.0, 1.0),
    "environments in each other": (
        r"\begin{align*} a \begin{cases} one \end{cases} two \end{align*} 所以",
        0.0,
        1.0,
    ),
    "a list is text": (r"\begin{itemize} \item wait \end{itemize}", 1.0, 0.0),
    "text in a formula without dollars": (r"速度 v = \frac{\text{distance}}{\text{time}} 。", 0.0, 1.0),
    "operator names": (
        r"所以 \operatorname{rank}(A) = 2 ，\mathrm{area} = 3 ，\operatorname*{argmax}_x f",
        0.0,
        1.0,
    ),
    "bold words are words": (r"\textbf{Therefore} 所以", 0.5, 0.5),
    "points": ("三角形 ABC 与三角形 DEF 相似", 0.0, 1.0),
    "points in English": ("ΔABC is similar to ΔDEF", 1.0, 0.0),
    "more points": ("四边形 PQRS 、EFGH 、OABC ，线段 AB 、MN ，直线 A'B'C' ，∠AOB", 0.0, 1.0),
    "words in capitals": ("WAIT, THIS IS WRONG", 1.0, 0.0),
    "units": ("长 5 cm ，宽 3 km ，重 2 kg ，速度 60 km/h ，体积 4 cm^3 和 8 mL", 0.0, 1.0),
    "units without a number": ("单位是 cm 或 m/s", 0.0, 1.0),
    "functions": ("求 sin x + cos y ，gcd(a, b) ，max 和 min ，lim ，GCD ，sinx", 0.0, 1.0),
    "variables side by side": ("求 ab + bc + ca = xy ，x-y = mn", 0.0, 1.0),
    "full-width letters": ("先算 ｘ ＋ ｙ ，所以选 Ｂ", 0.0, 1.0),
    "an unclosed formula": (r"先算 \( x + y 再算 wait", 0.2, 0.8),
    "words still count": ("先算 first then 再算", 1 / 3, 2 / 3),
}


@pytest.mark.parametrize(("text", "english", "chinese"), TARGETS.values(), ids=TARGETS)
def test_consistency(text, english, chinese):
    assert language_consistency(text, "en") == pytest.approx(english)
    assert language_consistency(text, "zh") == pytest.approx(chinese)


@pytest.mark.parametrize("language", ["English", "fr", "", "zh-CN", "EN"])
def test_a_language_that_is_not_supported_is_refused(language):
    for text in ("some words", "", None):
        with pytest.raises(ValueError, match=rf"^language '{language}' is not supported: use one of en, zh$"):
            language_consistency(text, language)


def test_no_thinking_is_no_language():
    assert language_consistency(None, "en") == language_consistency(None, "zh") == 0.0


@pytest.mark.parametrize("key", PHRASES)
def test_every_phrase_of_the_tiny_world_is_in_its_own_language(key):
    english, chinese = PHRASES[key]
    assert (language_consistency(english, "en"), language_consistency(english, "zh")) == (1.0, 0.0)
    assert (language_consistency(chinese, "zh"), language_consistency(chinese, "en")) == (1.0, 0.0)


def test_a_mixed_text_lies_between_and_more_of_a_language_scores_more():
    mixed = [f"{'等等 ' * n}{'wait ' * (4 - n)}" for n in range(5)]
    shares = [language_consistency(text, "zh") for text in mixed]
    assert shares == [0.0, 0.25, 0.5, 0.75, 1.0]


@given(st.text(max_size=100))
def test_shares_lie_between_0_and_1(text):
    assert all(0.0 <= language_consistency(text, language) <= 1.0 for language in ("en", "zh"))


def test_repetition_counts_the_most_frequent_run():
    assert repetition("a b c a b c a b c", 3) == 3
    assert repetition("wait wait wait wait", 2) == 3
    assert repetition("等等 等等 等等", 1) == 3
    assert repetition("a b", 3) == 0
    assert repetition("one two three four", 2) == 1


def test_a_planted_cache_of_jieba_is_neither_read_nor_written(tmp_path):
    """Another user could put one into the shared temporary folder; this one would cut every sign alone."""
    planted = tmp_path / "jieba.cache"
    planted.write_bytes(marshal.dumps(({"计": 1, "算": 1}, 2)))
    script = "from tasks.rewards.language import repetition; print(repetition('计算计算', 1))"
    before = planted.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "2\n", "two words"
    assert planted.read_bytes() == before
    assert list(tmp_path.iterdir()) == [planted]


@settings(deadline=None)  # the first Chinese text loads jieba's dictionary
@given(
    text=st.text("ab 三角形所以.1", max_size=60), ngram=st.integers(1, 4), most=st.integers(0, 4)
)  # fmt: skip
def test_repetition_above_is_repetition_where_it_is_above(text, ngram, most):
    exact = repetition(text, ngram)
    assert repetition_above(text, ngram, most) == (exact if exact > most else 0)
