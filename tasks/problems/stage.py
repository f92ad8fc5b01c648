"""Declares the stage `problems` (paper B.3.1, Table 4); `draw.py` here does the work."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, model_validator

from tasks.kinds import Kind
from tasks.problem import Domain
from tasks.settings import NEUTRAL, Count, Positive, Settings
from tasks.stage import Stage


class GymTask(Settings):
    """Problems of one reasoning-gym dataset."""

    domain: Literal["math", "code", "stem", "logic"]
    train: Count
    held_out: Count
    settings: dict[str, JsonValue] = {}
    """The dataset's own settings, e.g. `{max_terms: 3, max_digits: 2}`; its defaults for the rest."""


class ProblemsConfig(Settings):
    """Where the problems come from (paper B.3.1, Table 4)."""

    source: Literal["tiny-world", "reasoning-gym", "parquet"] = "parquet"
    path: str = ""
    """`parquet`: a file or folder of the `problems` schema, absolute or relative to the repository."""
    tasks: Annotated[dict[str, GymTask], Field(json_schema_extra=NEUTRAL)] = {}
    """`reasoning-gym`: its datasets by name."""
    train: dict[Domain, Count] = {}
    """`tiny-world`: how many training problems of each domain; beside `reasoning-gym`, which has no
    general problems, the tiny world can give some."""
    held_out: dict[Domain, Count] = {}
    """`tiny-world`: how many questions of each domain no stage trains on."""
    decontamination_ngram: Positive = 10
    """Training problems that share an n-gram of this many words with a held-out one are rejected."""
    seed: int = 0

    @model_validator(mode="after")
    def _a_source_has_what_it_needs(self) -> Self:
        if self.source == "parquet" and not self.path:
            raise ValueError("source 'parquet' needs `path`: a Parquet file of the problems schema")
        if self.source == "tiny-world" and not (self.train and self.held_out):
            raise ValueError("source 'tiny-world' needs `train` and `held_out`: how many problems a domain")
        if self.source == "reasoning-gym" and not self.tasks:
            raise ValueError("source 'reasoning-gym' needs `tasks`: its datasets by name, with their sizes")
        if self.source != "reasoning-gym" and self.tasks:
            raise ValueError(f"`tasks` are reasoning-gym's and the source is {self.source!r}: remove one")
        return self


PROBLEMS = Stage(
    "problems", 1, "Problems", "Training and held-out problems that share no question (paper B.3.1).",
    "cpu", ProblemsConfig, {}, Kind.problems, "tasks.problems.draw:run",
    nodes={"problems": "Problems"},
)  # fmt: skip
