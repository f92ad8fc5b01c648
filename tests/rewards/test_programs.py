"""Which part of an answer is the program."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rewards.programs import choose_program, fenced, program_text
from tests.rewards.rows import completion
from tests.timing import at_most

ADD = "def add(a, b):\n    return a + b\n"
SQUARE = "n = int(input())\nprint(n * n)\n"
DOCUMENTED = 'def add(a, b):\n    """Adds.\n\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b\n'
FLUSH = 'def add(a, b):\n    """Adds.\n```python\nadd(1, 2)\n```\n"""\n    return a + b\n'


def found(text, names=(), reads_input=True):
    part = program_text(text)
    return None if part is None else choose_program(part, names, reads_input).strip()


def python(program, fence="```"):
    return f"{fence}python\n{program}{fence}"


READING = {
    "one block": python(SQUARE),
    "its output behind it": f"{python(SQUARE)}\nOutput:\n```\n4\n```",
    "a labelled output": f"{python(SQUARE)}\n```text\n4\n```",
    "how to run it": f"{python(SQUARE)}\n```bash\necho 2 | python main.py\n```",
    "an example before it": f"```\n2\n```\nThe program:\n{python(SQUARE)}",
    "a sketch before it": f"{python('n = int(input())' + chr(10))}\nWhole:\n{python(SQUARE)}",
    "a part explained behind it": f"{python(SQUARE)}\nHere\n{python('n = int(input())' + chr(10))}\nreads.",
    "a wrong one before it": f"{python(SQUARE.replace('*', '+'))}\nCorrected:\n{python(SQUARE)}",
    "no label": f"```\n{SQUARE}```",
    "tildes": python(SQUARE, "~~~"),
    "four back-ticks": python(SQUARE, "````"),
    "in a list": "1. This:\n\n   ```python\n   n = int(input())\n   print(n * n)\n   ```\n2. Done.",
    "no fence": SQUARE,
    "a fence that is not closed": f"```python\n{SQUARE}",
}
CALLED = {
    "a use behind it": f"{python(ADD)}\nUse:\n{python('print(add(1, 2))' + chr(10))}",
    "a use before it": f"Want:\n{python('add(1, 2)  # 3' + chr(10))}\n{python(ADD)}",
    "a test behind it": f"{python(ADD)}\n{python('assert add(1, 2) == 3' + chr(10))}",
}


@pytest.mark.parametrize("answer", READING.values(), ids=READING)
def test_the_block_that_reads_and_prints(answer):
    assert found(completion(answer)) == SQUARE.strip()


@pytest.mark.parametrize("answer", CALLED.values(), ids=CALLED)
def test_the_block_that_defines_what_is_called(answer):
    assert found(completion(answer), ["add"]) == ADD.strip()


@pytest.mark.parametrize("program", [DOCUMENTED, FLUSH])
@pytest.mark.parametrize("rest", ["", f"\n{python('print(add(1, 2))' + chr(10))}"])
def test_fences_in_a_docstring_belong_to_the_program(program, rest):
    assert found(completion(python(program) + rest), ["add"]) == program.strip()


def test_a_program_without_a_fence_may_have_one_in_its_docstring():
    assert found(completion(DOCUMENTED), ["add"]) == DOCUMENTED.strip()


@pytest.mark.parametrize(
    "tag", ["</think>", "<answer>", "</answer>", "<think>", "</think> <answer> 1 </answer>"]
)
def test_tags_inside_the_program_are_part_of_it(tag):
    program = f"# {tag}\n{SQUARE}"
    assert found(completion(python(program))) == program.strip()
    assert found(f"<think> t </think>\n{python(program)}") == program.strip()


def test_a_method_is_found_by_its_name():
    program = "class Solution:\n    def add(self, a, b):\n        return a + b\n"
    assert found(completion(f"{python(program)}\n```\n3\n```"), ["add"]) == program.strip()


NONE = {
    "only inside the thinking": "<think>```\nx\n```</think> done",
    "no tags and an unclosed fence": "<think>a</think>\n```python\nx",
    "two answers": "<think>a</think><answer>x</answer><answer>y</answer>",
    "thinking never closed": f"<think>{python(ADD)}",
    "thinking opened again": f"<think>a</think>{python(ADD)}<think>",
}


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_no_program(text):
    assert found(text) is None


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "```",
        "~~~",
        "```python",
        "\n",
        "add",
        '"""',
        " ",
        ">",
        "\x00",
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_has_one_program_or_none(text):
    part = program_text(text)
    assert part is None or (part.strip() and part in text)
    for block in fenced(text):
        assert 0 <= block.start <= block.end <= len(text)


@given(st.text(max_size=200))
def test_thinking_alone_has_no_program(text):
    assert program_text(f"<think>{text}") is None or "</think>" in text


LONG = {
    "back-ticks": "`" * 130_000,
    "spaces before a fence": " " * 130_000 + "x```a`b",
    "openings": "```python\n" * 13_000,
    "odd quotes": "```\n'''\n```\n" * 10_000,
    "answers": "</think> <answer> b </answer>" * 5_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_long_texts_take_no_longer_than_their_length(text):
    with at_most(4):
        found(completion(text), ["add"])
        found(f"<think>{text}")
