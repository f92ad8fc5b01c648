"""Maps the columns of a data set to the `problems` schema: a few lines of YAML, no code.

`maps/` holds the maps of known data sets. A row that cannot become a problem is rejected with a reason:

    no-question, no-answer   the cell is empty, or says that there is none
    proof                    asks for a proof: reinforcement learning needs an answer that can be checked
    language                 neither English nor Chinese
    too-new, too-old         newer than the source's `until`, older than its `since`
    not-selected             its set marks it, for example as an invalid problem (`only` of the map)
    unusable-row             anything else; the detail says which column
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from tasks.problem import LEVELS, Domain, Language, Problem, Split
from tasks.problems import golds
from tasks.problems.languages import detect_language, named_language
from tasks.settings import Settings

MAPS = Path(__file__).parent / "maps"
Columns = tuple[str, ...]
"""Columns by name; `a.b` is key `b` of column `a`."""

_LEVEL = re.compile(r"(?:level\s*)?([1-5])(?:\.0)?")
_LEVEL_WORDS = {"easy": 1, "medium": 3, "hard": 5}
_NONE = frozenset({"", "none", "nan", "null", "n/a", "notfound", "not found", "-"})
_PROVE = re.compile(r"\b(?:prove|show|demonstrate|verify)\s(?:that|the|by|for|if)\b|证明|求证", re.IGNORECASE)
_ASK = re.compile(
    r"\?|？|\b(?:find|determine|compute|calculate|evaluate|how\s(?:many|much)|what|which|solve|express)\b|求(?!证)|计算|多少|几",
    re.IGNORECASE,
)


class ColumnMap(Settings):
    """Which columns of a data set hold what."""

    dataset: str = ""
    """Name on the hub, `owner/name`. Only for source `hub`."""
    splits: dict[Split, Columns] = Field(default_factory=dict)
    """Patterns of the files of each split, such as `{train: [main/train-*.parquet], held_out:
    [main/test-*]}`."""
    question: Annotated[Columns, Field(min_length=1)]
    """Texts that are joined by an empty line; of chat messages the user's one."""
    remove: tuple[str, ...] = ()
    """Texts that are cut out of the question, such as a set's own instructions."""
    template: str = "{question}"
    """What the prompt becomes; `{test}` is the first assertion of a code problem."""
    answer: Columns = ()
    """The gold. `#### 42` and the last box of a solution are read; the parts of a program are joined."""
    choices: Columns = ()
    """A list or an object of options, or one column an option."""
    correct: str = ""
    """Text of the correct option. Options are then shuffled by the seed."""
    incorrect: Columns = ()
    tests: Columns = ()
    """Assertions (a list, or a test file with `check`), or test cases as `tests_form` says."""
    tests_form: Literal["assertions", "contest"] = "assertions"
    """`contest`: JSON lists of `input`, `output` and `testtype` (LiveCodeBench). What is not JSON is left
    out."""
    setup: Columns = ()
    """Code that stands before the assertions."""
    entry_point: str = ""
    """The function that tests call."""
    domain: str = ""
    language: str = ""
    licence: str = ""
    split: str = ""
    date: str = ""
    """When the question was published; compared with the source's `since` and `until`."""
    level: str = ""
    """Difficulty: a number from 1 to 5, also as `Level 3`, or `easy`, `medium`, `hard` (1, 3, 5). Any other
    value leaves the problem without a level."""
    instructions: Columns = ()
    """Checkable instructions of verifier `instructions`: a column with their kinds and one with the arguments
    of each (IFEval)."""
    kind: Columns = ()
    """Rows where one of these is `proof` are rejected."""
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Column -> the values with which a row is taken."""
    metadata: Columns = ()
    """Columns that are kept beside the problem."""
    fixed: dict[str, str] = Field(default_factory=dict)
    """The same value for every row: `domain`, `language`, `licence`, `verifier`."""

    def columns(self) -> list[str]:
        """Return the columns of the file that are read, sorted."""
        several = (
            self.question, self.answer, self.choices, self.incorrect, self.tests, self.setup, self.kind,
            self.metadata, self.instructions,
            tuple(self.only), (self.correct, self.entry_point, self.domain, self.language, self.licence),
            (self.split, self.date, self.level),
        )  # fmt: skip
        return sorted({name.partition(".")[0] for names in several for name in names} - {""})


def ready_maps() -> list[str]:
    """Return the names of the maps in `maps/`, sorted."""
    return sorted(path.stem for path in MAPS.glob("*.yaml"))


def ready_map(name: str) -> ColumnMap:
    """Return a map of `maps/`. Raises ValueError where there is none of that name."""
    if name not in ready_maps():
        raise ValueError(
            f"there is no ready map {name[:60]!r}: use one of {', '.join(ready_maps())}, or write a map"
        )
    return ColumnMap.model_validate(yaml.safe_load((MAPS / f"{name}.yaml").read_text("utf-8")))


class RowRefused(Exception):
    """Why a row does not become a problem."""

    def __init__(self, reason: str, detail: str, text: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.text = reason, detail, text


@dataclass(frozen=True)
class RowReader:
    """Makes problems of the rows of one data set."""

    columns: ColumnMap
    label: str
    """Beginning of the problems' ids."""
    source: str
    """What column `source` says: the data set with its revision, or the file."""
    seed: int
    until: datetime.date | None = None
    since: datetime.date | None = None

    def problem(self, row: Mapping[str, Any], number: int, split: Split) -> Problem:
        """Return row `number` of the data set as a problem.

        Raises:
            RowRefused: it cannot be used.
        """
        question = ""
        try:
            question = self._question(row)
            self._refuse(row, question)
            return self._made(row, number, split, question)
        except RowRefused as rejection:
            raise RowRefused(rejection.reason, rejection.detail, question) from None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise RowRefused(
                "unusable-row",
                str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
                question,
            ) from None

    def _made(self, row: Mapping[str, Any], number: int, split: Split, question: str) -> Problem:
        given, fixed = self.columns, self.columns.fixed
        verifier = fixed.get("verifier") or (
            "code" if given.tests
            else "choice" if given.choices or given.correct
            else "instructions" if given.instructions
            else "math"
        )  # fmt: skip
        arguments: dict[str, Any] = {}
        metadata = {name: value for name in given.metadata if (value := cell(row, name)) is not None}
        if verifier == "code":
            answer, prompt = self._program(row), question
            arguments, left_out = self._tests(row)
            metadata |= left_out
            prompt = given.template.replace("{question}", question).replace(
                "{test}", _first_assertion(arguments)
            )
        elif verifier == "choice":
            options, answer = self._options(row, number)
            prompt = given.template.replace("{question}", with_options(question, options))
            arguments = {"options": options}
        elif verifier == "instructions":
            answer, prompt = "", given.template.replace("{question}", question)
            arguments = {"instructions": self._instructions(row)}
        else:
            answer, prompt = self._gold(row, question), given.template.replace("{question}", question)
        return Problem(
            f"{self.label}-{number}", self._domain(row, verifier), self._language(row, question), prompt,
            answer, verifier, arguments, self.source, self._text(row, "licence") or "unknown",  # type: ignore[arg-type]
            self._split(row, split), metadata, level_of(cell(row, given.level)) if given.level else None,
        )  # fmt: skip

    def _question(self, row: Mapping[str, Any]) -> str:
        text = "\n\n".join(
            filter(None, (message_text(cell(row, name)).strip() for name in self.columns.question))
        )
        for cut in self.columns.remove:
            text = text.replace(cut, "")
        if not text.strip():
            raise RowRefused("no-question", f"column {', '.join(self.columns.question)} is empty")
        return text.strip()

    def _refuse(self, row: Mapping[str, Any], question: str) -> None:
        given = self.columns
        for name, values in given.only.items():
            if (value := _plain(cell(row, name))) not in values:
                raise RowRefused("not-selected", f"{name} is {value[:60]!r}, taken are {', '.join(values)}")
        if any(_plain(cell(row, name)).strip().lower() == "proof" for name in given.kind):
            raise RowRefused("proof", f"column {', '.join(given.kind)} says proof")
        asks_for_a_value = given.fixed.get("verifier", "math") == "math" and not (
            given.tests or given.instructions
        )
        if asks_for_a_value and is_proof_task(question):
            raise RowRefused("proof", "it asks for a proof and for no value")
        if (self.since or self.until) and given.date:
            published = cell(row, given.date)
            day = published.date() if isinstance(published, datetime.datetime) else published
            day = day if isinstance(day, datetime.date) else datetime.date.fromisoformat(str(day)[:10])
            if self.until and day > self.until:
                raise RowRefused("too-new", f"published {day}, the limit is {self.until}")
            if self.since and day < self.since:
                raise RowRefused("too-old", f"published {day}, the first day is {self.since}")

    def _gold(self, row: Mapping[str, Any], question: str) -> str:
        for name in self.columns.answer:  # the first that holds an answer: a set may have answer and solution
            value = golds.final_value(_plain(cell(row, name)))
            if value.lower() == "proof":
                raise RowRefused("proof", f"column {name} says proof")
            if value.lower() not in _NONE:
                return value
        reason = "proof" if _PROVE.search(question) else "no-answer"
        raise RowRefused(reason, f"column {', '.join(self.columns.answer) or 'answer'} holds no answer")

    def _program(self, row: Mapping[str, Any]) -> str:
        return "".join(_plain(cell(row, name)) for name in self.columns.answer)

    def _options(self, row: Mapping[str, Any], number: int) -> tuple[dict[str, str], str]:
        given = self.columns
        if given.correct:
            incorrect = [_plain(cell(row, name)) for name in given.incorrect]
            return golds.shuffled(
                _plain(cell(row, given.correct)), incorrect, f"{self.seed} {self.label} {number}"
            )
        several = [cell(row, name) for name in given.choices]
        options = golds.options_of(several if len(several) > 1 else several[0])
        answer = cell(row, given.answer[0]) if given.answer else None
        if answer is None or _plain(answer).strip().lower() in _NONE:
            raise RowRefused("no-answer", f"column {', '.join(given.answer)} is empty")
        return options, golds.letter_of(answer, options)

    def _instructions(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the instructions, each with its kind and those of its arguments that have a value."""
        kinds, arguments = (cell(row, name) for name in self.columns.instructions)
        return [
            {"kind": kind} | {name: value for name, value in (given or {}).items() if value is not None}
            for kind, given in zip(kinds, arguments, strict=True)
        ]

    def _tests(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arguments of the verifier, and a note on tests that cannot be read."""
        given = self.columns
        function = _plain(self._function(row)) or None
        cells = {name: cell(row, name) for name in given.tests}
        if given.tests_form == "assertions":
            lines = [line for name in (*given.setup, *given.tests) for line in _as_list(cell(row, name))]
            arguments = {"unit_tests": "\n".join(filter(None, lines))}
            return arguments | ({"entry_point": function} if function else {}), {}
        method = f"Solution().{function}" if function else None
        cases, unread = [], []
        for name, value in cells.items():
            if (read := golds.contest_cases(value, function)) is None:
                unread.append(name)
            else:
                cases += read
        if not cases:
            raise ValueError(f"no test case of {', '.join(cells)} is JSON")
        note = {"tests_left_out": unread} if unread else {}
        return {"cases": cases} | ({"entry_point": method} if method else {}), note

    def _function(self, row: Mapping[str, Any]) -> Any:
        return cell(row, self.columns.entry_point) if self.columns.entry_point else None

    def _text(self, row: Mapping[str, Any], field: str) -> str:
        column = getattr(self.columns, field)
        return (_plain(cell(row, column)).strip() if column else "") or self.columns.fixed.get(field, "")

    def _domain(self, row: Mapping[str, Any], verifier: str) -> Domain:
        found = self._text(row, "domain").lower()
        usual = {"code": "code", "choice": "stem", "rubric": "general"}.get(verifier, "math")
        return found or usual  # type: ignore[return-value]  # checked with the other values of the row

    def _language(self, row: Mapping[str, Any], question: str) -> Language:
        given = self._text(row, "language")
        found = named_language(given) if given else detect_language(question)
        if found is None:
            raise RowRefused(
                "language", f"it is in {given[:20]!r}" if given else "it is neither English nor Chinese"
            )
        return found

    def _split(self, row: Mapping[str, Any], split: Split) -> Split:
        given = self._text(row, "split").lower()
        if not given:
            return split
        return "train" if given.startswith("train") else "held_out"


def level_of(value: Any) -> int | None:
    """Return the level of difficulty that a cell names, None where it names none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) if value in LEVELS else None
    word = _plain(value).strip().lower()
    number = _LEVEL.fullmatch(word)
    return int(number[1]) if number else _LEVEL_WORDS.get(word)


def is_proof_task(question: str) -> bool:
    """Tell whether a question asks for a proof and for nothing that can be compared."""
    return bool(_PROVE.search(question)) and not _ASK.search(question)


def with_options(question: str, options: Mapping[str, str]) -> str:
    """Return the question with its options, a line each, unless it shows them already."""
    if all(text in question for text in options.values()):
        return question
    return "\n".join([question, "", *(f"{label}. {text}" for label, text in options.items())])


def cell(row: Mapping[str, Any], name: str) -> Any:
    """Return a cell by the name of its column; `a.b` looks into an object, or into JSON text of one."""
    name, *keys = name.split(".") if name not in row else [name]
    value = row.get(name)
    for key in keys:
        if isinstance(value, str):
            value = json.loads(value) if value.strip() else None
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def message_text(value: Any) -> str:
    """Return the text of a question; of chat messages that of the only message of the user.

    Raises:
        ValueError: several turns, or no message of a user.
    """
    if not isinstance(value, list):
        return _plain(value)
    said = [
        m for m in value if isinstance(m, Mapping) and (m.get("role") or m.get("from")) in ("user", "human")
    ]
    if len(said) != 1:
        raise ValueError(f"the question has {len(said)} messages of the user: one is supported")
    return _plain(said[0].get("content", said[0].get("value")))


def _plain(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else str(value)


def _as_list(value: Any) -> list[str]:
    return [_plain(part) for part in value] if isinstance(value, list) else [_plain(value)]


def _first_assertion(arguments: Mapping[str, Any]) -> str:
    lines = str(arguments.get("unit_tests", "")).splitlines()
    return next((line for line in lines if line.lstrip().startswith("assert ")), "")
