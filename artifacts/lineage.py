"""Where an artifact comes from: the graph of its parents back to the base and the problems."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from artifacts.errors import UnknownArtifact
from artifacts.refs import Ref
from artifacts.store import ArtifactStore


@dataclass(frozen=True)
class LineageNode:
    ref: Ref
    name: str
    """The node's name, e.g. `dev2`; `missing` where the store no longer has it."""
    stage: str

    @property
    def label(self) -> str:
        return f"{self.name} ({self.ref.kind}, {self.ref.short})"


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

    def inputs(self, digest: str) -> list[Edge]:
        """The edges into one artifact, in the order of their names."""
        return sorted((e for e in self.edges if e.child == digest), key=lambda e: e.input)

    def tree(self) -> str:
        """An indented text tree, parents below children; a branch shown before is only named again."""
        lines: list[str] = []
        self._branch(self.root.ref.digest, "", "", "", set(), lines)
        return "\n".join(lines)

    def mermaid(self) -> str:
        """A Mermaid flowchart, parents on the left."""
        ids = {digest: f"n{number}" for number, digest in enumerate(self.nodes)}
        boxes = [
            f'  {ids[d]}["{_plain(n.name)}<br/>{_plain(n.stage)} {n.ref.short[:8]}"]'
            for d, n in self.nodes.items()
        ]
        arrows = [f'  {ids[e.parent]} -->|"{_plain(e.input)}"| {ids[e.child]}' for e in self.edges]
        return "\n".join(["flowchart LR", *boxes, *arrows])

    def _branch(
        self, digest: str, lead: str, indent: str, name: str, seen: set[str], lines: list[str]
    ) -> None:
        inputs, again = self.inputs(digest), digest in seen
        lines.append(f"{lead}{name}{self.nodes[digest].label}{' (see above)' if again and inputs else ''}")
        if again:
            return
        seen.add(digest)
        for edge in inputs:
            last = edge is inputs[-1]
            self._branch(
                edge.parent,
                indent + ("└─ " if last else "├─ "),
                indent + ("   " if last else "│  "),
                f"{edge.input}: ",
                seen,
                lines,
            )


def lineage(store: ArtifactStore, ref: Ref) -> Lineage:
    """Everything `ref` was built from, directly or not.

    Raises:
        UnknownArtifact: the store does not have `ref`. Parents it lost appear as `missing`.
    """
    store.manifest(ref.digest)
    nodes: dict[str, LineageNode] = {}
    edges: list[Edge] = []
    _visit(store, ref, nodes, edges)
    return Lineage(nodes, tuple(edges))


def _visit(store: ArtifactStore, ref: Ref, nodes: dict[str, LineageNode], edges: list[Edge]) -> None:
    """Depth first; an artifact cannot be its own ancestor, its digest covers its parents'."""
    if ref.digest in nodes:
        return
    try:
        manifest = store.manifest(ref.digest)
    except UnknownArtifact:
        nodes[ref.digest] = LineageNode(ref, "missing", "missing")
        return
    for name, parent in sorted(manifest.parents.items()):
        _visit(store, parent, nodes, edges)
        edges.append(Edge(parent.digest, ref.digest, name))
    nodes[ref.digest] = LineageNode(ref, manifest.node, manifest.stage)


def _plain(text: str) -> str:
    """Text that ends no Mermaid label."""
    return escape(text.replace("\n", " "), quote=True)
