"""What a stage is. Each kind of work has a folder whose light `stage.py` declares the stages it does.

A node of the graph (`tasks.recipe`) is a stage with settings and inputs: Dev1 and Dev3 are both `sft`.
Nothing here imports torch or Prefect, and neither does any `stage.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.kinds import Kind
from tasks.settings import Settings


@dataclass(frozen=True)
class Place:
    """Where a node stands in the recipe figure (paper Fig. 2)."""

    title: str
    column: int
    lane: int
    """Counted from the top."""
    how: str
    """A few words below the title: how the artifact is made."""
    color: str = ""
    """Of the node in every figure: after Okabe and Ito for colour-blind readers, of middle lightness so that
    it stands out from a white page and from a black one. Grey where there is none."""
    mark: str = ""
    """Letter in the figure on what this node feeds, in place of arrows: for one that feeds most others."""


@dataclass(frozen=True)
class Stage:
    """One kind of step of the recipe: what it needs, makes and runs on."""

    name: str
    version: int
    """Raise it when the meaning of the output changes: every cached result of the stage is then stale."""
    title: str
    summary: str
    """One sentence with the paper's section; the description of the stage's deployment."""
    pool: str
    """The work pool it runs on, one of `flows.pools.POOLS`."""
    config: type[Settings]
    inputs: Mapping[str, Kind]
    """Input name -> kind. A name ending in `.*` stands for any number of inputs with that prefix."""
    output: Kind
    entry: str
    """`module:function` of `run(config, job) -> None` (`tasks.job.Job`); imported in the job process only."""
    nodes: Mapping[str, Place | str] = field(default_factory=dict)
    """The nodes that it makes in the recipe -> their place in the figure, or only a title where they have
    none. A student's nodes are written `student-...`. The deployment makes the first one by default."""
    each: str = ""
    """Name of an input that may be given several times: the stage then makes one artifact for each of them,
    in one job, and node and artifact are called `NODE.LABEL`."""
    optional: Mapping[str, Callable[[Any], Settings]] = field(default_factory=dict)
    """Inputs that it can do without -> its settings where that input is not there, from those where it is.
    Raises ValueError where these settings need the input."""
    for_student: bool = False
    """Its deployment is asked by the name of a student and not by that of a node."""

    @property
    def uses_gpu(self) -> bool:
        """Whether its pool is one of those whose jobs hold a card."""
        return self.pool.startswith("gpu")


MODEL_AND_PROBLEMS = {"checkpoint": Kind.checkpoint, "problems": Kind.problems}
"""The inputs of every stage that samples."""
