"""One question with what is needed to grade it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

if TYPE_CHECKING:
    import pyarrow as pa

VerifierName = Literal["math", "choice", "code", "exact", "reasoning_gym", "judge", "rubric", "instructions"]
Split = Literal["train", "held_out"]
Domain = Literal["math", "code", "stem", "logic", "general"]
Language = Literal["en", "zh"]
DOMAINS: tuple[Domain, ...] = ("math", "code", "stem", "logic", "general")
Domains = Annotated[tuple[Domain, ...], Field(min_length=1)]
"""The setting of stages that work on some domains."""
LANGUAGES: tuple[Language, ...] = ("en", "zh")
SPLITS: tuple[Split, ...] = ("train", "held_out")
_JSON = ("verifier_args", "metadata")
"""Columns that hold JSON objects as text."""
LEVELS = (1, 2, 3, 4, 5)
VERIFIABLE: tuple[Domain, ...] = ("math", "code", "stem", "logic")
"""Domains whose answers rules can check; general prompts need a judge or a reward model."""
GROUPINGS = ("domain", "level", "language", "source")
"""What questions are grouped by in the tables of scores."""
RUBRIC_SETS = ("helpfulness", "harmlessness")
"""The two kinds of general problems, by `verifier_args["set"]`."""


@dataclass(frozen=True)
class Problem:
    """A row of the `problems` table, `verifier_args` decoded.

    Verifiers and their arguments:
        math           answer is the gold expression; no arguments
        choice         answer is the label or text of an option; args {"options": {"A": text, ...}} or a list
        code           args {"entry_point": name, "cases": [{"args": [...], "expected": ...}, ...]} or
                       {"cases": [{"stdin": text, "stdout": text}, ...]} or {"unit_tests": text}, and what
                       else `tasks.rewards.cases` knows; answer is a reference solution or empty
        exact          answer compared after white space and case are folded
        reasoning_gym  args {"dataset": name, "entry": {...}}: scored by reasoning-gym itself
        instructions   args {"instructions": [{"kind": "keywords:existence", "keywords": [...]}, ...]}, the
                       kinds of IFEval; no answer
        judge          free text: a language model compares it with answer, the reference; no rule reward
        rubric         general prompts; args {"set": "helpfulness" | "harmlessness", ...}: no rule reward
    """

    id: str
    domain: Domain
    language: Language
    prompt: str
    answer: str
    verifier: VerifierName
    verifier_args: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    licence: str = "Apache-2.0"
    split: Split = "train"
    metadata: dict[str, Any] = field(default_factory=dict)
    """Other columns of the file that it came from (JSON values); nothing is decided by it."""
    level: int | None = None
    """Difficulty from 1 (easiest) to 5, as the MATH data set has it; None where it is not known."""


def to_table(problems: Iterable[Problem]) -> pa.Table:
    """The problems as an Arrow table of the `problems` schema."""
    import pyarrow as pa

    from tasks.tables import PROBLEMS

    rows = [
        asdict(p) | {name: json.dumps(getattr(p, name), ensure_ascii=False) for name in _JSON}
        for p in problems
    ]
    return pa.Table.from_pylist(rows, schema=PROBLEMS)


def from_table(table: pa.Table) -> list[Problem]:
    """The rows of a `problems` table, in order. Raises ValueError for a cell that is not JSON."""
    return [
        Problem(**{name: _decoded(name, value) for name, value in row.items()}) for row in table.to_pylist()
    ]


def _decoded(name: str, value: str) -> Any:
    try:
        return json.loads(value) if name in _JSON else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"column {name} is not JSON ({str(error).splitlines()[0]})") from None


def select(problems: Sequence[Problem], split: str, domains: Sequence[str] = DOMAINS) -> list[Problem]:
    """The problems of one split and some domains, in order."""
    return [p for p in problems if p.split == split and p.domain in domains]


def counts(problems: Sequence[Problem]) -> dict[str, int | str]:
    """How many rows there are of each split and domain, of general training rows with what later stages need
    of them, and which verifiers are asked for."""
    found = Counter(f"{p.split}_{p.domain}" for p in problems)
    general = [p for p in select(problems, "train") if p.domain == "general"]
    found["general_with_answer"] = sum(bool(p.answer.strip()) for p in general)
    for p in select(problems, "train"):
        if (name := p.verifier_args.get("set")) in RUBRIC_SETS:
            found[f"rubric_{name}"] += 1
    return {**dict(sorted(found.items())), "verifiers": " ".join(sorted({p.verifier for p in problems}))}


def group_name(by: str, group: str) -> str:
    """Return what a group of `scores` is called: `math`, `verifiable`, `level 3`, `source aime24`."""
    return group if by == "domain" else f"{by} {group}"
