"""Reads a YAML file of settings that a stranger may have written.

YAML lets a small file stand for a huge document: an alias repeats a whole branch, and aliases of aliases
repeat it exponentially. Deep nesting exhausts the stack, and Python refuses or takes long to convert very
long numbers. The limits here are far above what a preset needs (the longest one shipped has 3 KB, about 250
values and 5 levels) and every refusal is one sentence with the line where the limit is exceeded.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
"""Levels of nesting; the innermost settings of a preset stand at 5."""
MAX_VALUES = 20_000
"""Keys and values of the document, each counted as often as aliases repeat it."""
MAX_DIGITS = 40
"""Characters of an integer. Longer ones fit no setting, and above 4,300 Python cannot even print them."""


class SettingsFileError(ValueError):
    """A file that cannot be read as settings; the message continues a sentence that begins with its path."""


def read_settings(path: Path) -> dict[str, Any]:
    """Return the mapping that the file holds.

    Raises:
        SettingsFileError: the file is too large, is not YAML, exceeds a limit, or holds no mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SettingsFileError(f"cannot be read ({error.strerror}): check its permissions") from None
    if len(data) > MAX_BYTES:
        raise SettingsFileError(f"is larger than {MAX_BYTES // 1024} KiB: a preset has a few; shorten it")
    try:
        document = yaml.load(data, Loader=_SettingsLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise SettingsFileError(f"line {line}: {error.problem}: fix the YAML there") from None
    except yaml.reader.ReaderError as error:
        raise SettingsFileError(
            f"holds a character that YAML does not allow ({error.character!r} at position {error.position}): "
            "save it as UTF-8 text without control characters"
        ) from None
    if not isinstance(document, dict):
        raise SettingsFileError("holds no settings: write `key: value` lines")
    return document


class _SettingsLoader(yaml.SafeLoader):
    """PyYAML's safe loader with limits; it also refuses a key that stands twice in one mapping."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Build a node of the document; the limits are checked before anything is constructed from it."""
        event = self.peek_event()
        if self._depth == MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent) and node not in self._sizes:
            # PyYAML knows an anchor before its branch is complete, and would build an endless document.
            raise _refusal("an alias refers to the branch that it stands in", event)
        if node is not None and self._size(node) > MAX_VALUES:
            raise _refusal(f"more than {MAX_VALUES:,} values, aliases written out", event)
        return node

    def _size(self, node: yaml.Node) -> int:
        """How many keys and values `node` stands for with its aliases written out.

        Children are composed before their parents, so every node is summed once.
        """
        if node not in self._sizes:
            match node:
                case yaml.MappingNode():
                    children = [part for pair in node.value for part in pair]
                case yaml.SequenceNode():
                    children = node.value
                case _:
                    children = []
            self._sizes[node] = 1 + sum(self._sizes[child] for child in children)
        return self._sizes[node]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping whose keys are distinct; YAML alone would keep the last of two equal keys."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _refusal("a key is a list or a mapping", key_node)
            if key in seen:
                raise _refusal(f"key {key!r} stands twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value; an impossible number or date is an error with its line."""
        if node.tag == "tag:yaml.org,2002:int" and len(node.value) > MAX_DIGITS:
            raise _refusal(f"an integer of {len(node.value):,} characters", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            raise _refusal(str(error), node) from None


def _refusal(problem: str, at: yaml.Node | yaml.Event) -> ConstructorError:
    mark: Any = at.start_mark  # two classes, with and without PyYAML's C part
    return ConstructorError(problem=problem, problem_mark=mark)
