"""Where an artifact comes from: the graph of its parents back to the base and the problems."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from artifacts.errors import UnknownArtifact
from artifacts.refs import Ref
from artifacts.store import ArtifactStore

_BOX, _GAP = (170, 44), (60, 22)  # width and height in pixels
Place = tuple[int, int]
"""Column and row in a drawing."""


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

    def svg(self) -> str:
        """A drawing: a box per artifact right of its parents, a line per input that passes no box."""
        places, lanes = self._layout()
        used = [*places.values(), *((column, row) for lane in lanes.values() for column, row in lane.items())]
        columns, rows = (max(place[axis] for place in used) + 1 for axis in (0, 1))
        width, height = (n * (box + gap) for n, box, gap in zip((columns, rows), _BOX, _GAP, strict=True))
        body = [
            _line(_route(places[e.parent], places[e.child], lanes[e.parent]), e.input) for e in self.edges
        ]
        body += [_box(_corner(places[digest]), node) for digest, node in self.nodes.items()]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
            '<rect width="100%" height="100%" fill="white"/>' + "".join(body) + "</svg>"
        )

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

    def _layout(self) -> tuple[dict[str, Place], dict[str, dict[int, int]]]:
        """Where each box is, and for each artifact the row of its lane in the columns it passes."""
        places: dict[str, Place] = {}
        lanes: dict[str, dict[int, int]] = {digest: {} for digest in self.nodes}
        rows: Counter[int] = Counter()
        for digest in self.nodes:
            parents = [edge.parent for edge in self.inputs(digest)]
            column = max((places[parent][0] + 1 for parent in parents), default=0)
            for parent in parents:
                for passed in range(places[parent][0] + 1, column):
                    if passed not in lanes[parent]:
                        lanes[parent][passed] = rows[passed]
                        rows[passed] += 1
            places[digest] = (column, rows[column])
            rows[column] += 1
        return places, lanes


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


def _corner(place: Place) -> tuple[int, int]:
    """The upper left corner of the box at (column, row), in pixels."""
    return (
        place[0] * (_BOX[0] + _GAP[0]) + _GAP[0] // 2,
        place[1] * (_BOX[1] + _GAP[1]) + _GAP[1] // 2,
    )


def _route(parent: Place, child: Place, lane: dict[int, int]) -> list[tuple[int, int]]:
    """The points of a line from box to box: through the parent's lane, past the columns between."""
    middle = _BOX[1] // 2
    points = []
    for place in (parent, *((column, lane[column]) for column in range(parent[0] + 1, child[0])), child):
        x, y = _corner(place)
        points += [(x, y + middle), (x + _BOX[0], y + middle)]
    return points[1:-1]


def _line(points: list[tuple[int, int]], label: str) -> str:
    path = f"M{points[0][0]},{points[0][1]}"
    for (x1, y1), (x2, y2) in pairwise(points):
        bend = (x1 + x2) // 2
        path += f" C{bend},{y1} {bend},{y2} {x2},{y2}"
    return f'<path d="{path}" fill="none" stroke="#999"><title>{escape(label)}</title></path>'


def _box(corner: tuple[int, int], node: LineageNode) -> str:
    x, y = corner
    return (
        f'<rect x="{x}" y="{y}" width="{_BOX[0]}" height="{_BOX[1]}" rx="6" fill="#eef3fb" stroke="#4a6fa5"/>'
        f'<text x="{x + 10}" y="{y + 18}" font-weight="bold">{escape(node.name)}</text>'
        f'<text x="{x + 10}" y="{y + 34}" fill="#555">{escape(node.stage)} {node.ref.short[:8]}</text>'
    )
