"""The graph of the paper (Fig. 2), once: the pipeline runs it, `r1 plan` prices it, the report draws it.

    base --GRPO(accuracy+format)--------------------------------> R1-Zero
    R1-Zero --sample, filter, refine--> cold-start set
    base --SFT(cold start)--> Dev1 --GRPO(+language)--> Dev2
    Dev2 --rejection sampling--> reasoning set + general set = mixture
    base --SFT(mixture)--> Dev3 --GRPO(rules + reward models late)--> R1
    mixture --SFT--> students        control: GRPO on the student's own base

The base is loaded three times (R1-Zero, Dev1, Dev3): Dev3 does not continue Dev2.

A line of `recipe` is a node: its name, its stage, its section of the preset, and the nodes that feed it.
Everything else about the graph is read off that function: which stages there are (`STAGES`), which
sections a preset has (`SECTIONS`), and which node feeds which (`wiring`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from tasks.base.stage import BASE
from tasks.cold_start.stage import COLD_START
from tasks.evaluate.stage import EVALUATE
from tasks.kinds import Kind
from tasks.problems.stage import PROBLEMS
from tasks.rejection_sampling.stage import REJECTION_SAMPLING
from tasks.report.stage import REPORT
from tasks.reward_models.stage import REWARD_MODELS
from tasks.rl.stage import FINAL_RL, REASONING_RL, RL_ZERO
from tasks.settings import Settings
from tasks.sft.stage import DISTILL, SFT
from tasks.stage import Place, Stage

Handle = TypeVar("Handle")
"""What stands for an artifact: a `Ref` when running, a planned key when planning."""


class Maker(Protocol[Handle]):
    """What walks the recipe: it makes artifacts, plans them, or only notes them down."""

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Handle) -> Handle:
        """Make (or reuse) the artifact of `node`."""
        ...

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, Handle], **inputs: Handle
    ) -> dict[str, Handle]:
        """`node` once for every handle of `each` (label -> the input that `stage.each` names), in one job."""
        ...


def recipe(maker: Maker[Handle], preset: Any, student: Any, student_name: str) -> Handle:
    """The whole recipe; returns the report. `preset` and `student` hold each node's settings by section."""
    r1 = made = _Made(maker)
    problems = r1.make("problems", PROBLEMS, preset.problems)
    base = r1.make("base", BASE, preset.base)

    r1_zero = r1.make("r1-zero", RL_ZERO, preset.rl_zero, checkpoint=base, problems=problems)
    cold_start = r1.make("cold-start", COLD_START, preset.cold_start, checkpoint=r1_zero, problems=problems)

    dev1 = r1.make("dev1", SFT, preset.dev1, checkpoint=base, dataset=cold_start)
    dev2 = r1.make("dev2", REASONING_RL, preset.reasoning_rl, checkpoint=dev1, problems=problems)
    mixture = r1.make(
        "mixture", REJECTION_SAMPLING, preset.rejection_sampling, checkpoint=dev2, problems=problems
    )

    dev3 = r1.make("dev3", SFT, preset.dev3, checkpoint=base, dataset=mixture)
    reward_models = r1.make(
        "reward-models", REWARD_MODELS, preset.reward_models, checkpoint=dev3, problems=problems
    )
    r1.make("r1", FINAL_RL, preset.final_rl, checkpoint=dev3, problems=problems, reward_models=reward_models)

    student_base = r1.make(f"{student_name}-base", BASE, student.base)
    r1.make(f"{student_name}-distilled", DISTILL, student.distill, checkpoint=student_base, dataset=mixture)
    r1.make(f"{student_name}-rl-only", RL_ZERO, preset.student_rl, checkpoint=student_base, problems=problems)

    evaluations = r1.make_each(
        "evaluation", EVALUATE, preset.evaluate, each=made.of_kind(Kind.checkpoint), problems=problems
    )
    return r1.make("report", REPORT, preset.report, problems=problems, **made.for_report(evaluations))


class _Made(Generic[Handle]):
    """Walks the recipe through another maker and remembers what was made, for the last two lines."""

    def __init__(self, maker: Maker[Handle]) -> None:
        self._maker = maker
        self._made: dict[str, tuple[Kind, Handle]] = {}
        self.make_each = maker.make_each

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Handle) -> Handle:
        handle = self._maker.make(node, stage, config, **inputs)
        self._made[node] = stage.output, handle
        return handle

    def of_kind(self, kind: Kind) -> dict[str, Handle]:
        return {node: handle for node, (made, handle) in self._made.items() if made == kind}

    def for_report(self, evaluations: Mapping[str, Handle]) -> dict[str, Handle]:
        """Inputs like `checkpoint.dev1`, of the kinds that the report shows any number of."""
        shown = {f"{Kind.evaluation}.{label}": handle for label, handle in evaluations.items()}
        return shown | {
            f"{kind}.{node}": handle
            for node, (kind, handle) in self._made.items()
            if f"{kind}.*" in REPORT.inputs
        }


@dataclass(frozen=True)
class Node:
    """A stage at one place of the graph; its name is what refs, runs and tables call it."""

    name: str
    stage: Stage
    config: Settings


@dataclass
class Wiring:
    """The `Maker` that makes nothing: it notes the nodes, and which node feeds which input."""

    nodes: dict[str, Node] = field(default_factory=dict)
    """By name, in the order of the recipe; a stage that makes several artifacts is one node."""
    feeds: dict[str, dict[str, str]] = field(default_factory=dict)
    """Artifact (`dev1`, `evaluation.dev1`) -> input name -> the artifact that feeds it."""

    def make(self, node: str, stage: Stage, config: Settings, **inputs: str) -> str:
        self.nodes[node] = Node(node, stage, config)
        self.feeds[node] = inputs
        return node

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, str], **inputs: str
    ) -> dict[str, str]:
        self.nodes[node] = Node(node, stage, config)
        made = {label: f"{node}.{label}" for label in each}
        self.feeds |= {name: {stage.each: each[label], **inputs} for label, name in made.items()}
        return made


def wiring(preset: Any, student: Any, student_name: str) -> Wiring:
    """The graph of a preset and a student."""
    noted = Wiring()
    recipe(noted, preset, student, student_name)
    return noted


class _SectionNames:
    """Stands for a preset or a student: the name of a section in the place of its settings."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix

    def __getattr__(self, name: str) -> str:
        return self._prefix + name


STUDENT = "student"
"""Stands for the name of any student in the names of nodes."""

_ANY = wiring(_SectionNames(), _SectionNames(f"{STUDENT}."), STUDENT)

STAGES: dict[str, Stage] = {node.stage.name: node.stage for node in _ANY.nodes.values()}
"""Every stage by name, in the order of the recipe."""

SECTIONS: dict[str, Stage] = {
    str(node.config): node.stage
    for node in _ANY.nodes.values()
    if not str(node.config).startswith(f"{STUDENT}.")
}
"""Every section of a preset, and the stage whose settings it holds."""


def role(node: str) -> str:
    """`node` without its student's name: `tiny-student-distilled` -> `student-distilled`."""
    if node in _ANY.nodes:
        return node
    endings = (name for name in _ANY.nodes if name.startswith(f"{STUDENT}-"))
    return next((name for name in endings if node.endswith(name.removeprefix(STUDENT))), node)


def section(node: str) -> str:
    """The section of a preset with a node's settings (a student's: `student.distill`); empty if unknown."""
    found = _ANY.nodes.get(role(node))
    return str(found.config) if found else ""


def title(node: str) -> str:
    """What a person calls a node; an unknown one keeps its name."""
    found = _place(node)
    return found.title if isinstance(found, Place) else found or node


def place(node: str) -> Place | None:
    """Where a node stands in the recipe figure; None for nodes that are not drawn."""
    found = _place(node)
    return found if isinstance(found, Place) else None


def in_order(nodes: Mapping[str, Any] | list[str]) -> list[str]:
    """The recipe's nodes first and in its order, others after them by name."""
    return sorted(nodes, key=lambda node: (position(node), node))


def position(node: str) -> int:
    """Where a node stands in the order of the recipe: `evaluation.r1` with `evaluation`, unknown last."""
    order = list(_ANY.nodes)
    name = role(node) if role(node) in order else node.partition(".")[0]
    return order.index(name) if name in order else len(order)


def _place(node: str) -> Place | str | None:
    known = _ANY.nodes.get(role(node))
    return known.stage.nodes.get(known.name) if known else None
