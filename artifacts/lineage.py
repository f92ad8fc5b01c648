"""Where an artifact comes from: the graph of its parents back to the base and the problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape

from artifacts.errors import StoreError, StoreUnavailable, UnknownArtifact
from artifacts.refs import Ref
from artifacts.store import ArtifactStore

MAX_NODES = 10_000
"""Artifacts that are followed; what lies beyond them is `unread`."""
MAX_DRAWN = 500
"""Artifacts in a drawing."""
Note = Callable[[ArtifactStore, Ref], str]


@dataclass(frozen=True)
class LineageNode:
    ref: Ref
    name: str
    """The node's name, e.g. `dev2`; `missing`, `damaged` or `unread` where its manifest was not read."""
    stage: str
    note: str = ""
    """What else is known of it."""

    @property
    def label(self) -> str:
        note = f", {self.note}" if self.note else ""
        return f"{self.name} ({self.ref.kind}, {self.ref.short}){note}"


@dataclass(frozen=True)
class Edge:
    parent: str
    child: str
    input: str
    """The child's name for it."""


@dataclass(frozen=True)
class Lineage:
    """`nodes` by digest, parents before children; the last one is what was asked for."""

    nodes: dict[str, LineageNode]
    edges: tuple[Edge, ...]

    @property
    def root(self) -> LineageNode:
        return list(self.nodes.values())[-1]

    def tree(self) -> str:
        """An indented text tree, parents below children; a branch shown before is only named again."""
        inputs = self._inputs()
        lines: list[str] = []
        seen: set[str] = set()
        # What is still to be drawn, the next one last: (digest, lead of its line, indent below it, input).
        waiting = [(self.root.ref.digest, "", "", "")]
        while waiting and len(lines) < MAX_DRAWN:
            digest, lead, indent, name = waiting.pop()
            again, found = digest in seen, inputs.get(digest, [])
            note = " (see above)" if again and found else ""
            lines.append(f"{lead}{name}{self.nodes[digest].label}{note}")
            if again:
                continue
            seen.add(digest)
            for edge in reversed(found):
                last = edge is found[-1]
                branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
                waiting.append((edge.parent, indent + branch, indent + below, f"{edge.input}: "))
        return "\n".join([*lines, *([f"… {len(self.nodes)} artifacts in all"] if waiting else [])])

    def mermaid(self) -> str:
        """A Mermaid flowchart, parents on the left; the last `MAX_DRAWN` artifacts of a large one."""
        drawn = list(self.nodes.items())[-MAX_DRAWN:]
        ids = {digest: f"n{number}" for number, (digest, _) in enumerate(drawn)}
        boxes = [
            f'  {ids[d]}["{_plain(n.name)}<br/>{_plain(n.stage)} {n.ref.short[:8]}'
            f'{"<br/>" if n.note else ""}{_plain(n.note)}"]'
            for d, n in drawn
        ]
        arrows = [
            f'  {ids[e.parent]} -->|"{_plain(e.input)}"| {ids[e.child]}'
            for e in self.edges
            if e.parent in ids and e.child in ids
        ]
        return "\n".join(["flowchart LR", *boxes, *arrows[: 4 * MAX_DRAWN]])

    def _inputs(self) -> dict[str, list[Edge]]:
        """The edges into each artifact, in the order of their names."""
        found: dict[str, list[Edge]] = {}
        for edge in sorted(self.edges, key=lambda edge: edge.input):
            found.setdefault(edge.child, []).append(edge)
        return found


def lineage(store: ArtifactStore, ref: Ref, note: Note | None = None) -> Lineage:
    """Everything `ref` was built from, directly or not; each artifact is read once.

    `note` tells what else the caller knows of an artifact.

    Raises:
        UnknownArtifact: the store does not have `ref`. Parents it lost appear as `missing`.
    """
    store.manifest(ref.digest)
    nodes: dict[str, LineageNode] = {}
    edges: list[Edge] = []
    begun: set[str] = set()
    # Depth first without recursion, as a chain may be long. An entry comes up again, as a finished node, once
    # all its parents have their place: so parents stand before children.
    waiting: list[Ref | LineageNode] = [ref]
    while waiting:
        current = waiting.pop()
        if isinstance(current, LineageNode):
            nodes[current.ref.digest] = current
            continue
        if current.digest in begun:
            continue
        begun.add(current.digest)
        node, parents = _read(store, current, note) if len(begun) <= MAX_NODES else (_unread(current), {})
        edges += [Edge(parent.digest, current.digest, name) for name, parent in parents.items()]
        waiting += [node, *reversed(parents.values())]
    return Lineage(nodes, tuple(edges))


def _read(store: ArtifactStore, ref: Ref, note: Note | None) -> tuple[LineageNode, dict[str, Ref]]:
    """A node, and its parents by the names of its inputs."""
    try:
        manifest = store.manifest(ref.digest)
        known = note(store, ref) if note else ""
    except UnknownArtifact:
        return LineageNode(ref, "missing", "missing"), {}
    except StoreUnavailable:
        raise
    except StoreError:
        return LineageNode(ref, "damaged", "damaged"), {}
    return LineageNode(ref, manifest.node, manifest.stage, known), dict(sorted(manifest.parents.items()))


def _unread(ref: Ref) -> LineageNode:
    return LineageNode(ref, "unread", "unread")


def _plain(text: str) -> str:
    """Text that ends no Mermaid label."""
    return escape(text.replace("\n", " "), quote=True)
