"""How a run may depart from its preset's recipe, and how what it makes is then called.

    tiny/r1-zero                    the recipe of preset `tiny`, and nothing else, ever
    tiny@lower-lr/r1-zero           `r1 run --preset tiny --set ... --name lower-lr`: every node of that run
    tiny@dev2.steps=9-1a2b/r1-zero  the same without `--name`: made from what differs, and a digest of it
    tiny/r1-zero@steps=3-1a2b       a stage run by itself with another setting or input
    tiny/r1-zero@quick              the same with `--param name=quick`

Keys decide what is reused, names only how it is found: a run under another name reuses all that it does not
change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from artifacts.keys import canonical_json
from tasks.presets import PresetError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_LABEL = 48
"""Characters of a name that is made from what differs, its digest left out."""
_VALUE = 20
REVIEW = "review."
"""What the settings of the human review begin with: they ask for a person and make nothing different."""


@dataclass(frozen=True)
class Variant:
    """What a user asks to be different from a preset's own recipe."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    """`NODE.SETTING` -> value, e.g. `dev2.learning_rate`."""
    skip: Sequence[str] = ()
    """Nodes left out, beside the preset's own `skip`."""
    use: Mapping[str, str] = field(default_factory=dict)
    """Node -> an artifact of the store in its place."""
    until: str = ""
    """The last node."""
    name: str = ""
    """Of the experiment; made from the rest where it is empty."""

    def parameters(self) -> dict[str, Any]:
        """Those of the flow `r1-full-pipeline`; only what is given."""
        given = {
            "changes": dict(self.changes), "skip": list(self.skip), "use": dict(self.use),
            "until": self.until, "name": self.name,
        }  # fmt: skip
        return {name: value for name, value in given.items() if value}

    def scope(self, preset: str) -> str:
        """What the names of the run's artifacts begin with. Ending early alone makes nothing different.

        Raises:
            PresetError: the name has characters that names of the store may not have.
        """
        if self.name:
            return f"{preset}@{checked_name(self.name)}"
        skipped = {"skip": "+".join(sorted(self.skip))} if self.skip else {}
        changes = {key: value for key, value in self.changes.items() if not key.startswith(REVIEW)}
        differs = {**changes, **skipped, **{f"use.{n}": a for n, a in self.use.items()}}
        return f"{preset}@{label(differs)}" if differs else preset


def recipes_own(name: str) -> str:
    """The name of the recipe's artifact there: `tiny@low/dev2` and `tiny/dev2@low` -> `tiny/dev2`."""
    return "/".join(part.partition("@")[0] for part in name.split("/"))


def checked_name(name: str) -> str:
    """`name`, if it can be part of the names of artifacts.

    Raises:
        PresetError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise PresetError(f"name {name!r}: use up to 64 letters, digits and . _ + -, a letter or digit first")
    return name


def label(differs: Mapping[str, Any]) -> str:
    """A name from what differs (`steps=3-1a2b`): readable, and another one for every other difference."""
    words = [f"{_plain(name)}={_plain(value)[:_VALUE]}" for name, value in sorted(differs.items())]
    digest = hashlib.sha256(canonical_json(differs)).hexdigest()
    return f"{'+'.join(words)[:_LABEL].rstrip('=+-.')}-{digest[:4]}"


def _plain(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", str(value)).strip("-") or "none"


def parsed_changes(given: Sequence[str]) -> dict[str, Any]:
    """`NODE.SETTING=VALUE` texts as a mapping; values are read as YAML (`1e-5` too, which YAML calls a text).

    Raises:
        PresetError: one of them is not of that form.
    """
    changes = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise PresetError(f"--set {text!r}: write NODE.SETTING=VALUE, such as dev2.learning_rate=1e-5")
        try:
            changes[key.strip()] = _number(yaml.safe_load(value))
        except yaml.YAMLError:
            raise PresetError(f"--set {text!r}: {value!r} is not a YAML value: quote it") from None
    return changes


def parsed_uses(given: Sequence[str]) -> dict[str, str]:
    """`NODE=ARTIFACT` texts as a mapping.

    Raises:
        PresetError: one of them is not of that form.
    """
    pairs = [text.partition("=") for text in given]
    if bad := [
        text for text, (node, _, artifact) in zip(given, pairs, strict=True) if not node or not artifact
    ]:
        raise PresetError(f"--use {bad[0]!r}: write NODE=ARTIFACT, such as dev1=tiny/dev1@mine")
    return {node.strip(): artifact.strip() for node, _, artifact in pairs}


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
