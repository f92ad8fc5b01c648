"""Names that mean one thing: no two classes of the tree are called the same."""

import ast
from collections import defaultdict

from tasks.settings import REPOSITORY


def test_class_names_are_unique():
    found = defaultdict(list)
    for folder in ("artifacts", "flows", "tasks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    found[node.name].append(str(path.relative_to(REPOSITORY)))
    twice = {name: places for name, places in found.items() if len(places) > 1}
    assert not twice
