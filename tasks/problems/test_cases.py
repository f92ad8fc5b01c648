"""Test cases for contest problems whose own tests are not public (paper B.3.2, Listing 2).

    generators   programs that print one input each, written by a model (`write_generators`)
    phase 1      an input on which the known right submissions fail or differ is dropped; what they all
                 print is the expected output
    phase 2      the fewest cases that expose every known wrong submission that can be exposed, then others
                 up to `MOST_CASES`

The problems stage does this for every code problem whose `verifier_args` have, in place of `cases`,

    {"submissions": {"right": [program, ...], "wrong": [program, ...]}, "generators": [program, ...]}

Programs read standard input and write standard output, and run in the sandbox only. Differs from the paper:
its prompt has a string problem with six generators as its example, ours a shorter one of the same kinds, and
how many cases it keeps is not published.

Have the generators written by a model for a whole file of problems (a GPU machine with vLLM, say):

    python -m tasks.problems.test_cases problems.parquet with-generators.parquet --model FOLDER --engine vllm
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts.tables import read_table, write_table
from tasks.problem import Problem, from_table, to_table
from tasks.rewards.verifiers.code import same_text
from tasks.rollout.engine import derived_seed
from tasks.rollout.engines import ENGINES
from tasks.rollout.settings import EngineSettings, Sampling
from tasks.rollout.text import TextSampler, open_sampler
from tasks.sandbox import Sandbox
from tasks.tables import PROBLEMS

if TYPE_CHECKING:
    import pyarrow as pa

DRAWS = 4
"""Inputs asked of one generator, each with another seed."""
SECONDS = 5.0
"""Of one program on one input; a submission that needs longer fails there."""
MOST_INPUT = 2**19
"""Bytes of an input; a longer one is dropped."""
MOST_CASES = 20

Outputs = Sequence[bytes | None]
"""What one submission printed for each input; None where it failed or ran past its time."""
_BLOCK = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)

_PROMPT = """\
Write programs that generate test inputs for a programming problem. The inputs must be large, diverse and
adversarial enough that wrong or slow solutions fail on them. Write several generators, each in its own
Python code block; each prints exactly one valid input to standard output and nothing else.

Example problem: given a number n and then n words, print the longest word.

```python
import random
words = ["".join(random.choices("abc", k=5)) for _ in range(10)]
print(10, *words, sep="\\n")
```

```python
import random
words = ["".join(random.choices("abcdefgh", k=random.randint(1, 50))) for _ in range(10)]
print(10, *words, sep="\\n")
```

```python
print(1, "z" * 100000, sep="\\n")
```

```python
print(100000, *["ab" * (i % 3 + 1) for i in range(100000)], sep="\\n")
```

The problem:

{question}

The generators:
"""


@dataclass(frozen=True)
class TestCase:
    __test__ = False  # not a test of pytest's

    stdin: str
    stdout: str


@dataclass(frozen=True)
class Selection:
    """What the two phases kept of the inputs (by number), and why the rest was dropped."""

    kept: list[int]
    invalid: list[int]
    """Right submissions failed on them or differed."""
    spare: list[int]
    """Valid, and beyond what is kept."""
    unexposed: list[int]
    """Wrong submissions that no valid input exposes."""


def select(right: Sequence[Outputs], wrong: Sequence[Outputs], most: int = MOST_CASES) -> Selection:
    """The two phases, on what every submission printed for every input (submissions x inputs).

    Raises:
        ValueError: there is no right submission to tell valid inputs by.
    """
    if not right:
        raise ValueError("no right submission: what a program should print is known from them alone")
    columns = list(zip(*right, strict=True))
    valid = [number for number, column in enumerate(columns) if _agree(column)]
    exposes = {
        i: {w for w, outputs in enumerate(wrong) if not _same(columns[i][0], outputs[i])} for i in valid
    }
    kept = _cover(exposes)
    spare = [i for i in valid if i not in kept]
    kept, spare = kept + spare[: max(0, most - len(kept))], spare[max(0, most - len(kept)) :]
    exposed = set().union(*exposes.values())
    return Selection(
        sorted(kept),
        [number for number in range(len(columns)) if number not in valid],
        spare,
        [w for w in range(len(wrong)) if w not in exposed],
    )


def _agree(column: Outputs) -> bool:
    return all(_same(column[0], other) for other in column)


def _same(expected: bytes | None, printed: bytes | None) -> bool:
    if expected is None or printed is None:
        return False
    return same_text(expected.decode(errors="replace"), printed)


def _cover(exposes: dict[int, set[int]]) -> list[int]:
    """Greedy set cover: each next input exposes the most submissions that are not exposed yet."""
    chosen: list[int] = []
    left = set().union(*exposes.values())
    while left:
        best = max(exposes, key=lambda i: len(exposes[i] & left))
        chosen.append(best)
        left -= exposes[best]
    return chosen


# ---- in the sandbox -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generated:
    """The test cases of one problem, and what came of everything that made none."""

    cases: list[TestCase]
    failed_draws: int
    """Runs of generators that failed, printed nothing or too much, or repeated an input."""
    selection: Selection


def generate(
    sandbox: Sandbox,
    generators: Sequence[str],
    right: Sequence[str],
    wrong: Sequence[str],
    draws: int = DRAWS,
) -> Generated:
    """Run the generators, then every submission on every input, and keep what `select` keeps."""
    inputs = _inputs(sandbox, generators, draws)
    good = [[_output(sandbox, program, text) for text in inputs] for program in right]
    bad = [[_output(sandbox, program, text) for text in inputs] for program in wrong]
    selection = select(good, bad)
    cases = [TestCase(inputs[i], (good[0][i] or b"").decode(errors="replace")) for i in selection.kept]
    return Generated(cases, len(generators) * draws - len(inputs), selection)


def _inputs(sandbox: Sandbox, generators: Sequence[str], draws: int) -> list[str]:
    """Different inputs in order of the generators; a draw repeats with its generator and number."""
    found: dict[str, None] = {}
    for generator in generators:
        for draw in range(draws):
            seeded = f"import random; random.seed({draw})\n{generator}"
            printed = _output(sandbox, seeded, "")
            if printed and len(printed) <= MOST_INPUT:
                found.setdefault(printed.decode(errors="replace"))
    return list(found)


def _output(sandbox: Sandbox, program: str, stdin: str) -> bytes | None:
    run = sandbox.run_stdin(program, stdin, SECONDS)
    return run.output if run.outcome == "ended" and run.status == 0 else None


def with_cases(problems: Sequence[Problem]) -> tuple[list[Problem], list[dict[str, str]]]:
    """(problems, rejected rows): code problems with submissions get their cases, those without one case left
    are rejected; all others pass as they are."""
    if not any(_wants_cases(p) for p in problems):
        return list(problems), []
    sandbox = Sandbox()
    try:
        done = [_with_cases(sandbox, p) if _wants_cases(p) else p for p in problems]
    finally:
        sandbox.close()
    return [p for p in done if isinstance(p, Problem)], [row for row in done if isinstance(row, dict)]


def wants_cases(table: pa.Table) -> bool:
    """Tell whether a `problems` table has code problems with submissions in place of test cases."""
    import pyarrow.compute as pc

    code = pc.equal(table["verifier"], "code")
    named = pc.match_substring(table["verifier_args"], '"submissions"')
    return bool(pc.any(pc.and_(code, named)).as_py())


def _wants_cases(problem: Problem) -> bool:
    arguments = problem.verifier_args
    return problem.verifier == "code" and "submissions" in arguments and "cases" not in arguments


def _with_cases(sandbox: Sandbox, problem: Problem) -> Problem | dict[str, str]:
    submissions = problem.verifier_args["submissions"]
    right, wrong = submissions.get("right", []), submissions.get("wrong", [])
    generators = problem.verifier_args.get("generators", [])
    if not right or not generators:
        return _rejected(problem, "it has no right submission" if generators else "it has no generators")
    made = generate(sandbox, generators, right, wrong)
    if not made.cases:
        inputs = len(made.selection.invalid)
        reason = f"{made.failed_draws} draws failed, right submissions differ on {inputs} inputs"
        return _rejected(problem, reason)
    cases = [{"stdin": case.stdin, "stdout": case.stdout} for case in made.cases]
    arguments = {"cases": cases, "unexposed": len(made.selection.unexposed)}
    return replace(problem, verifier_args=arguments)


def _rejected(problem: Problem, detail: str) -> dict[str, str]:
    return {"problem_id": problem.id, "text": problem.prompt, "reason": "no-test-cases", "detail": detail}


# ---- generators written by a model ----------------------------------------------------------------


def write_generators(
    sampler: TextSampler, questions: Sequence[str], sampling: Sampling, seed: int = 0
) -> list[list[str]]:
    """The generators that a model writes for each question: every closed code block of its answer."""
    prompts = [_PROMPT.format(question=question) for question in questions]
    seeds = [derived_seed("generators", seed, question) for question in questions]
    return [code_blocks(c.text) for c in sampler.generate(prompts, sampling, seeds)]


def code_blocks(text: str) -> list[str]:
    """The contents of closed fenced blocks, in order, none twice."""
    return list(dict.fromkeys(block for block in _BLOCK.findall(text) if block.strip()))


def add_generators(
    problems: Sequence[Problem], sampler: TextSampler, sampling: Sampling
) -> Iterator[Problem]:
    """Problems with submissions and without generators get some; all others pass as they are."""
    wanting = [p for p in problems if _wants_cases(p) and not p.verifier_args.get("generators")]
    written = write_generators(sampler, [p.prompt for p in wanting], sampling)
    found = {p.id: programs for p, programs in zip(wanting, written, strict=True)}
    for p in problems:
        arguments = {**p.verifier_args, "generators": found[p.id]} if p.id in found else p.verifier_args
        yield replace(p, verifier_args=arguments)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.problems.test_cases", description=__doc__)
    parser.add_argument("source", type=Path, help="a Parquet file of the problems schema")
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--model", type=Path, required=True, help="folder of the model that writes generators"
    )
    parser.add_argument("--engine", choices=tuple(ENGINES), default="vllm")
    given = parser.parse_args()
    with closing(open_sampler(EngineSettings(name=given.engine), given.model)) as sampler:
        problems = from_table(read_table(given.source))
        out = list(add_generators(problems, sampler, Sampling(temperature=0.7, max_new_tokens=4_096)))
    write_table(given.target, to_table(out), PROBLEMS)
    print(f"{sum('generators' in p.verifier_args for p in out)} of {len(out)} problems have generators")


if __name__ == "__main__":
    main()
