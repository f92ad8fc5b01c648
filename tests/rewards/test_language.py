"""Language consistency and repetition, on the tiny world's own texts and on others."""

import marshal
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rewards.language import language_consistency, repetition
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
}


@pytest.mark.parametrize(("text", "english", "chinese"), TARGETS.values(), ids=TARGETS)
def test_consistency(text, english, chinese):
    assert language_consistency(text, "en") == pytest.approx(english)
    assert language_consistency(text, "zh") == pytest.approx(chinese)


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
