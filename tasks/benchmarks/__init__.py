r"""Named benchmarks (paper D.1): a YAML file each says where its questions come from and how they are asked.

    evaluation: {benchmarks: {aime24: {}, math500: {samples: 4}, gpqa-diamond: {path: data/gpqa.csv}}}

The defaults are the paper's: 64 samples a question for AIME and GPQA, 16 for MATH, 8 for LiveCodeBench (of
the others it says only "4 to 64": 4 here), answers in a box. A benchmark without a file here needs a `map`
and `samples` in the preset. Its name becomes the `source` of its problems, by which every table can group;
their domain stays one of five.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, field_validator

from tasks.settings import Positive, Settings

FOLDER = Path(__file__).parent
_QUESTION = "{question}"


class BenchmarkSettings(Settings):
    """How one benchmark is asked. What a preset leaves out comes from the benchmark's own file."""

    map: str
    """Ready map of its columns (`tasks/problems/maps`)."""
    samples: Positive
    """Completions of each question."""
    pass_at: tuple[Positive, ...] = ()
    """The k of pass@k beside 1; by default those of the evaluation."""
    prompt: str = _QUESTION
    """What is asked, around `{question}`, before the prompt template of the evaluation."""
    path: str = ""
    """A local copy, a file or folder; by default it is downloaded from the hub."""
    revision: str = "main"
    """Commit or branch of the hub's data set."""
    count: Positive | None = None
    """Questions, drawn by the seed of the problems; all of them by default."""
    since: datetime.date | None = None
    """Only questions published from that day on, where the set has dates."""
    until: datetime.date | None = None

    @field_validator("prompt")
    @classmethod
    def _asks_the_question(cls, prompt: str) -> str:
        if prompt.count(_QUESTION) != 1:
            raise ValueError(f"the prompt holds {_QUESTION} {prompt.count(_QUESTION)} times: write it once")
        return prompt

    def asked(self, question: str) -> str:
        """Return the question as it is asked."""
        return self.prompt.replace(_QUESTION, question)

    def source(self, name: str) -> dict[str, Any]:
        """Return the settings of the problem source that reads it."""
        of_data = {"map", "path", "revision", "count", "since", "until"}
        return {"name": "benchmark", "benchmark": name, **self.model_dump(mode="json", include=of_data)}


def known() -> list[str]:
    """Return the names of the benchmarks that have a file."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def defaults(name: str) -> dict[str, Any]:
    """Return what a benchmark's file says; nothing where it has none."""
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8")) if name in known() else {}


def with_defaults(given: Any) -> Any:
    """Fill in the benchmarks of a preset from their files.

    Raises:
        ValueError: a benchmark without a file that has no `map`.
    """
    if not isinstance(given, Mapping):
        return given
    filled = {}
    for name, settings in given.items():
        if settings is not None and not isinstance(settings, Mapping):
            filled[name] = settings
            continue
        filled[name] = {**defaults(str(name)), **(settings or {})}
        if "map" not in filled[name]:
            raise ValueError(
                f"there is no benchmark {str(name)[:60]!r}: use one of {', '.join(known())}, or give it a "
                "`map` and `samples`"
            )
    return filled


Name = Annotated[str, Field(pattern=r"^[\w.-]{1,40}$")]
Benchmarks = Annotated[dict[Name, BenchmarkSettings], BeforeValidator(with_defaults)]
"""The setting: name -> how it is asked."""
