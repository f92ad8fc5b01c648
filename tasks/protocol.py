"""How an evaluation was made, and how two evaluations differ apart from their checkpoints (paper D.1).

Scores are comparable where nothing but the weights differs. Everything else that decides a score is read from
the evaluation's manifest; whoever puts two evaluations side by side shows what `differences` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from artifacts.keys import canonical_json
from artifacts.manifest import Manifest

_VERIFIER_CODE = ("tasks/rewards/", "tasks/evaluate/", "tasks/sandbox/")
_SETTINGS_OF_QUESTIONS = ("problems_per_domain", "benchmarks")
_NAMES = {
    "template": "prompt template", "samples": "samples a question", "verifier": "verifier code",
    "problems": "problems artifact",
}  # fmt: skip
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Protocol:
    """What decides an evaluation's scores beside the checkpoint, as text by part."""

    template: str
    sampling: Mapping[str, Any]
    samples: int | None
    """Of a held-out question; those of benchmarks are in `questions`."""
    seed: int | None
    engine: str
    """Name and version."""
    verifier: str
    """Stage version, and a digest of the code that reads and judges answers."""
    versions: Mapping[str, str]
    """Library -> version."""
    problems: str
    """Digest of the artifact that the questions came from."""
    questions: Mapping[str, Any]
    """Which of its questions were asked, and how those of benchmarks."""

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Read the protocol of an evaluation from its manifest."""
        config = manifest.config
        engine = str((config.get("engine") or {}).get("name", NOT_RECORDED))
        problems = manifest.parents.get("problems")
        code = {file: digest for file, digest in manifest.sources.items() if file.startswith(_VERIFIER_CODE)}
        digest = hashlib.sha256(canonical_json(code)).hexdigest()[:12] if code else NOT_RECORDED
        return cls(
            template=str(config.get("template", NOT_RECORDED)),
            sampling=config.get("sampling") or {},
            samples=config.get("samples_per_problem"),
            seed=config.get("seed"),
            engine=str(manifest.summary.get("engine") or engine),
            verifier=f"version {manifest.stage_version}, code {digest}",
            versions=manifest.versions,
            problems=problems.short if problems else NOT_RECORDED,
            questions={name: config[name] for name in _SETTINGS_OF_QUESTIONS if config.get(name)},
        )


def differences(one: Protocol, other: Protocol) -> list[str]:
    """Return what differs, a sentence each, the values of `one` first; empty where scores are comparable."""
    return [
        f"{place}: {_shown(first)} against {_shown(second)}"
        for field in fields(Protocol)
        for place, first, second in _unequal(
            _NAMES.get(field.name, field.name), getattr(one, field.name), getattr(other, field.name)
        )
    ]


def warnings(evaluations: Mapping[str, Manifest]) -> list[str]:
    """Return a line for each group of evaluations (label -> manifest) made in another way than the first."""
    protocols = {label: Protocol.of(manifest) for label, manifest in evaluations.items()}
    groups: dict[tuple[str, ...], list[str]] = {}
    first = next(iter(protocols), "")
    for label, protocol in protocols.items():
        if found := differences(protocols[first], protocol):
            groups.setdefault(tuple(found), []).append(label)
    return [
        f"{_listed(labels)} {'was' if len(labels) == 1 else 'were'} evaluated under another protocol than "
        f"{first}, so their scores are not comparable: {'; '.join(found)}"
        for found, labels in groups.items()
    ]


def _unequal(place: str, one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """The innermost values that differ, with their place (`versions transformers`)."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return [
            entry
            for name in sorted({*one, *other})
            for entry in _unequal(f"{place} {name}", one.get(name), other.get(name))
        ]
    return [] if one == other else [(place, one, other)]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
