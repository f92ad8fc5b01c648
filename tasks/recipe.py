"""The graph of the paper (Fig. 2), once: the pipeline runs it, `r1 plan` prices it, the report draws it.

    base --GRPO(accuracy+format)--------------------------------> R1-Zero
    R1-Zero --sample, filter, refine--> cold-start set
    base --SFT(cold start)--> Dev1 --GRPO(+language)--> Dev2
    Dev2 --rejection sampling--> reasoning set + general set = mixture
    base --SFT(mixture)--> Dev3 --GRPO(rules + reward models late)--> R1
    mixture --SFT--> students        control: GRPO on the student's own base

The base is loaded three times (R1-Zero, Dev1, Dev3): Dev3 does not continue Dev2.

A line of `recipe` is a node: its name, its stage, its section of the preset, and the nodes that feed it. A
section is called as its node; in Python `r1_zero` stands for `r1-zero`. Everything else about the graph is
read off that function: which stages there are (`STAGES`), which sections a preset has (`SECTIONS`), and which
node feeds which (`wiring`).

`Shape` says how a run departs from the figure: nodes that are left out, nodes that an artifact of the user's
stands for, and where the recipe ends. A skipped checkpoint is replaced by the one that it would have started
from; an input that a stage can do without (`Stage.optional`) is dropped; everything else is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar, cast

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

    def use(self, node: str, stage: Stage, artifact: str) -> Handle:
        """Take an artifact of the store, called as a user calls it, in the place of what `stage` makes."""
        ...

    def review(self, node: str, made: Handle) -> Handle:
        """What stands for `made` once a person has reviewed it; called for the nodes of `Shape.review`."""
        ...


class RecipeError(ValueError):
    """A shape that leaves nothing sensible; one sentence with the remedy."""


@dataclass(frozen=True)
class Shape:
    """How a run departs from the figure. Nodes are called as in `wiring`."""

    skip: frozenset[str] = frozenset()
    use: Mapping[str, str] = field(default_factory=dict)
    """Node -> the artifact that stands for it."""
    until: str = ""
    """The last node (`evaluation.dev2` is one); nothing that it does not need is made."""
    review: frozenset[str] = frozenset()
    """Nodes whose data set a person reviews before it is used."""
    kept: frozenset[str] | None = None
    """The artifacts that are made, as `wiring` finds them; None while it looks."""


def recipe(
    maker: Maker[Handle], preset: Any, student: Any, student_name: str, shape: Shape | None = None
) -> Handle:
    """The whole recipe; returns its last artifact, the report where `shape` does not leave that out.

    `preset` and `student` hold each node's settings by section.
    """
    r1 = made = _Made(maker, shape or Shape())
    problems = r1.make("problems", PROBLEMS, preset.problems)
    base = r1.make("base", BASE, preset.base)

    r1_zero = r1.make("r1-zero", RL_ZERO, preset.r1_zero, checkpoint=base, problems=problems)
    cold_start = r1.make("cold-start", COLD_START, preset.cold_start, checkpoint=r1_zero, problems=problems)

    dev1 = r1.make("dev1", SFT, preset.dev1, checkpoint=base, dataset=cold_start)
    dev2 = r1.make("dev2", REASONING_RL, preset.dev2, checkpoint=dev1, problems=problems)
    mixture = r1.make("mixture", REJECTION_SAMPLING, preset.mixture, checkpoint=dev2, problems=problems)

    dev3 = r1.make("dev3", SFT, preset.dev3, checkpoint=base, dataset=mixture)
    reward_models = r1.make(
        "reward-models", REWARD_MODELS, preset.reward_models, checkpoint=dev3, problems=problems
    )
    r1.make("r1", FINAL_RL, preset.r1, checkpoint=dev3, problems=problems, reward_models=reward_models)

    student_base = r1.make(f"{student_name}-base", BASE, student.base)
    r1.make(f"{student_name}-distilled", DISTILL, student.distill, checkpoint=student_base, dataset=mixture)
    r1.make(
        f"{student_name}-rl-only", RL_ZERO, preset.student_rl_only, checkpoint=student_base, problems=problems
    )

    evaluations = r1.make_each(
        "evaluation", EVALUATE, preset.evaluation, each=made.of_kind(Kind.checkpoint), problems=problems
    )
    r1.make("report", REPORT, preset.report, problems=problems, **made.for_report(evaluations))
    return made.last


@dataclass(frozen=True)
class _Absent:
    """Stands for the handle of a node that is not made."""

    node: str
    skipped: bool


class _Made(Generic[Handle]):
    """Walks the recipe through another maker in the shape asked for, and remembers what was made."""

    def __init__(self, maker: Maker[Handle], shape: Shape) -> None:
        self._maker, self._shape = maker, shape
        self._made: dict[str, tuple[Kind, Handle]] = {}

    @property
    def last(self) -> Handle:
        """The last artifact made; with `until`, that node's."""
        return list(self._made.values())[-1][1]

    def make(self, node: str, stage: Stage, config: Settings, **inputs: Handle) -> Handle:
        if node in self._shape.skip:
            replaced = stage.output == Kind.checkpoint and "checkpoint" in inputs
            return inputs["checkpoint"] if replaced else self._absent(node)
        if self._left_out(node):
            return self._absent(node)
        if node in self._shape.use:
            return self._noted(node, stage, self._maker.use(node, stage, self._shape.use[node]))
        absent = {name: handle for name, handle in inputs.items() if isinstance(handle, _Absent)}
        for name, handle in absent.items():
            if name not in stage.optional:
                return self._broken(node, f"{node} has no {_plain(name)}", handle)
            try:
                config = stage.optional[name](config)
            except ValueError as error:
                return self._broken(node, f"{node} cannot do without {handle.node}: {error}", handle)
        present = {name: handle for name, handle in inputs.items() if name not in absent}
        made = self._maker.make(node, stage, config, **present)
        if node in self._shape.review:
            made = self._maker.review(node, made)
        return self._noted(node, stage, made)

    def make_each(
        self, node: str, stage: Stage, config: Settings, each: Mapping[str, Handle], **inputs: Handle
    ) -> dict[str, Handle]:
        wanted = {label: h for label, h in each.items() if not self._left_out(f"{node}.{label}")}
        absent = [h for h in inputs.values() if isinstance(h, _Absent)]
        if node in self._shape.skip or not wanted or absent:
            return {}
        made = self._maker.make_each(node, stage, config, wanted, **inputs)
        for label, handle in made.items():
            self._noted(f"{node}.{label}", stage, handle)
        return made

    def of_kind(self, kind: Kind) -> dict[str, Handle]:
        return {node: handle for node, (made, handle) in self._made.items() if made == kind}

    def for_report(self, evaluations: Mapping[str, Handle]) -> dict[str, Handle]:
        """Inputs like `checkpoint.dev1`, of the kinds that the report shows any number of."""
        if not evaluations:
            return {"evaluation.*": self._absent("evaluation")}
        shown = {f"{Kind.evaluation}.{label}": handle for label, handle in evaluations.items()}
        return shown | {
            f"{kind}.{node}": handle
            for node, (kind, handle) in self._made.items()
            if kind != Kind.evaluation and f"{kind}.*" in REPORT.inputs
        }

    def _noted(self, node: str, stage: Stage, handle: Handle) -> Handle:
        self._made[node] = stage.output, handle
        return handle

    def _left_out(self, node: str) -> bool:
        return self._shape.kept is not None and node not in self._shape.kept

    def _absent(self, node: str) -> Handle:
        return cast(Handle, _Absent(node, node in self._shape.skip))

    def _broken(self, node: str, complaint: str, by: _Absent) -> Handle:
        """Only whether `node` is wanted decides whether this is an error; `wiring` knows."""
        why = "skipped" if by.skipped else "left out"
        own = "" if by.node == "evaluation" else f", or bring your own (`r1 import FOLDER --as {by.node}`)"
        if isinstance(self._maker, Wiring):
            self._maker.broken[node] = f"{complaint}, as {by.node} is {why}: skip {node} too{own}"
        return self._absent(node)


def _plain(name: str) -> str:
    return name.removesuffix(".*").replace("_", " ")


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
    used: dict[str, tuple[Stage, str]] = field(default_factory=dict)
    """Node -> its stage, and the artifact that stands for what that would make."""
    broken: dict[str, str] = field(default_factory=dict)
    """Node -> why it cannot be made in this shape."""
    shape: Shape = field(default_factory=Shape)
    departures: tuple[str, ...] = ()
    """What differs from the whole recipe, a sentence each."""

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

    def use(self, node: str, stage: Stage, artifact: str) -> str:
        self.used[node] = stage, artifact
        self.feeds[node] = {}
        return node

    def review(self, node: str, made: str) -> str:
        return made

    def stage_of(self, artifact: str) -> Stage:
        """The stage whose output `artifact` is."""
        name = artifact if artifact in self.nodes or artifact in self.used else artifact.partition(".")[0]
        return self.used[name][0] if name in self.used else self.nodes[name].stage


def wiring(preset: Any, student: Any, student_name: str, shape: Shape | None = None) -> Wiring:
    """The graph of a preset and a student in a shape; its `shape` says in `kept` what of it is made.

    Data sets and reward models that nothing but the report would read are not made: they are of no use
    themselves. Checkpoints are.

    Raises:
        RecipeError: an unknown node, or a shape in which a wanted node lacks an input.
    """
    whole = _noted(preset, student, student_name, Shape())
    if shape is None or shape == Shape():
        return whole
    names = [*whole.nodes, *(name for name in whole.feeds if name not in whole.nodes)]
    shape = Shape(
        frozenset(node_called(name, names, student_name) for name in shape.skip),
        {node_called(name, names, student_name): artifact for name, artifact in shape.use.items()},
        node_called(shape.until, names, student_name) if shape.until else "",
        frozenset(node_called(name, names, student_name) for name in shape.review),
    )
    reviewable = [node for node in whole.nodes if whole.stage_of(node).output == Kind.dataset]
    if others := sorted(shape.review.difference(reviewable)):
        raise RecipeError(f"{others[0]} cannot be reviewed: name data sets ({', '.join(reviewable)})")
    if both := sorted(shape.skip & shape.use.keys()):
        raise RecipeError(f"{both[0]} is skipped and has an artifact in its place: leave one of them out")
    if shape.until in shape.skip:
        raise RecipeError(f"the recipe cannot end at {shape.until}, which is skipped: leave one of them out")
    drawn = _noted(preset, student, student_name, shape)
    kept = _kept(drawn, whole, shape)
    for node, complaint in drawn.broken.items():
        if node in kept or (not shape.until and node not in drawn.feeds):
            raise RecipeError(complaint)
    if not kept:
        raise RecipeError("nothing is left of the recipe: skip fewer nodes")
    final = _noted(preset, student, student_name, replace(shape, kept=frozenset(kept)))
    final.departures = tuple(_departures(final, whole, shape))
    return final


def _noted(preset: Any, student: Any, student_name: str, shape: Shape) -> Wiring:
    noted = Wiring(shape=shape)
    recipe(noted, preset, student, student_name, shape)
    return noted


def _kept(drawn: Wiring, whole: Wiring, shape: Shape) -> set[str]:
    """The artifacts of `drawn` that are made."""
    if shape.until:
        if shape.until not in drawn.feeds:
            if shape.until in drawn.broken:
                raise RecipeError(drawn.broken[shape.until])
            raise RecipeError(f"the recipe cannot end at {shape.until}: name one of {', '.join(drawn.feeds)}")
        return _ancestors(drawn, shape.until)
    kept = set(drawn.feeds)
    while True:
        read = {f for n in kept if drawn.stage_of(n) is not REPORT for f in drawn.feeds[n].values()}
        idle = {
            node
            for node in kept - read - set(shape.use)
            if drawn.stage_of(node).output in (Kind.dataset, Kind.reward_models)
            and _readers(whole, node)  # a node that nothing ever reads is there for itself
        }
        if not idle:
            return kept
        kept -= idle


def _readers(wired: Wiring, node: str) -> list[str]:
    return [n for n, feeds in wired.feeds.items() if node in feeds.values() and n != "report"]


def _ancestors(wired: Wiring, node: str) -> set[str]:
    found = {node}
    for feed in wired.feeds[node].values():
        found |= _ancestors(wired, feed)
    return found


def _departures(final: Wiring, whole: Wiring, shape: Shape) -> Iterable[str]:
    for node, artifact in shape.use.items():
        if node in final.used:
            yield f"{node} is {artifact}, which is not made here"
    for node in sorted(shape.review & final.nodes.keys()):
        yield f"{node} is used after a person has reviewed it"
    gone = [n for n in whole.nodes if n not in final.feeds and not _has_parts(final, n)]
    if skipped := [n for n in gone if n in shape.skip]:
        yield f"skipped: {', '.join(skipped)}"
    if others := [n for n in gone if n not in shape.skip]:
        ends = f"the recipe ends at {shape.until}" if shape.until else "nothing reads them"
        yield f"not made, as {ends}: {', '.join(others)}"
    for node, feeds in final.feeds.items():
        if node == "report" or node in final.used:
            continue
        for name, feed in whole.feeds[node].items():
            if name not in feeds:
                changes = _changes(whole.nodes[node], final.nodes[node])
                yield f"{node} is made without {_plain(name)}: {changes}"
            elif feeds[name] != feed:
                yield f"{node} starts from {feeds[name]} in the place of {feed}"


def _has_parts(wired: Wiring, node: str) -> bool:
    return any(name.startswith(f"{node}.") for name in wired.feeds)


def _changes(before: Node, after: Node) -> str:
    """The settings that a node without an input has another value of."""
    old, new = (node.config.model_dump(mode="json") for node in (before, after))
    return ", ".join(f"{name} = {_value(new[name])}" for name in new if new[name] != old[name]) or "as it is"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(str(v['name'] if isinstance(v, dict) and 'name' in v else v) for v in value)}]"
    return "null" if value is None else str(value)


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

FORMER_NAMES = {
    "rl-zero": "r1-zero", "reasoning-rl": "dev2", "rejection-sampling": "mixture", "final-rl": "r1",
    "student-rl": "student-rl-only", "evaluate": "evaluation",
}  # fmt: skip
"""What sections were called when they bore the names of stages -> their nodes; both are understood."""


def current_name(name: str) -> str:
    """How a node or section is called now: `rl_zero` -> `r1-zero`, `cold_start` -> `cold-start`."""
    written = name.replace("_", "-")
    return FORMER_NAMES.get(written, written)


def node_called(name: str, known: Iterable[str], student_name: str) -> str:
    """The one of `known` that a user means by `name`; `student-distilled` is that of whatever student.

    Raises:
        RecipeError: none is; the sentence names the nearest.
    """
    known = list(known)
    meant = current_name(name)
    for text in (name, meant, meant.replace(STUDENT, student_name, 1)):
        if text in known:
            return text
    near = difflib.get_close_matches(meant, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
    raise RecipeError(f"the recipe has no node {name!r}: {hint}")


def role(node: str) -> str:
    """`node` without its student's name: `tiny-student-distilled` -> `student-distilled`."""
    if node in _ANY.nodes:
        return node
    endings = (name for name in _ANY.nodes if name.startswith(f"{STUDENT}-"))
    return next((name for name in endings if node.endswith(name.removeprefix(STUDENT))), node)


def is_students(node: str) -> bool:
    """Whether a node makes a student or its base."""
    return role(node).startswith(f"{STUDENT}-")


def goes_on_without(node: str) -> bool:
    """Whether only the report waits for a node: a student or an evaluation."""
    return is_students(node) or node.startswith("evaluation.")


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
