"""Sentences of the report, made from its numbers."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass

from tasks.recipe import role
from tasks.report.claims import ClaimVerdict
from tasks.report.data import Curation, RunRecord
from tasks.report.names import domain_title, short_revision
from tasks.report.tables import StageRow, duration
from tasks.settings import REPOSITORY

CONFIGS = REPOSITORY / "configs"


def headline(run: RunRecord) -> list[str]:
    """What the run shows, in a few sentences; what was not measured is not mentioned."""
    rows = {role(row.node): row for row in run.rows}
    sentences = [_pure_rl(rows), _final(rows), _students(rows), _claims(run)]
    return [s for s in sentences if s]


def _pure_rl(rows: dict[str, StageRow]) -> str:
    base, zero = (_percent(rows, name, "math", "pass_at_1") for name in ("base", "r1-zero"))
    if not (base and zero):
        return ""
    return f"Reinforcement learning alone takes held-out math from {base} (base) to {zero} (R1-Zero)."


def _final(rows: dict[str, StageRow]) -> str:
    final = _percent(rows, "r1", "verifiable", "pass_at_1")
    zero, after = (_percent(rows, name, "verifiable", "language_consistency") for name in ("r1-zero", "r1"))
    if not final:
        return ""
    language = (
        f" with {after} of its thinking in the question's language (R1-Zero {zero})" if zero and after else ""
    )
    return f"R1 answers {final} of the verifiable questions{language}."


def _students(rows: dict[str, StageRow]) -> str:
    taught, alone = (
        _percent(rows, name, "verifiable", "pass_at_1") for name in ("student-distilled", "student-rl-only")
    )
    if not (taught and alone):
        return ""
    return f"The distilled student answers {taught}, the same student trained by RL alone {alone}."


def _claims(run: RunRecord) -> str:
    counts = Counter(finding.verdict for finding in run.claims)
    count = counts[ClaimVerdict.does_not]
    said = {ClaimVerdict.does_not: "does not reproduce" if count == 1 else "do not reproduce"}
    parts = [
        f"{counts[v]} {said.get(v, v)}"
        for v in (ClaimVerdict.noise, ClaimVerdict.does_not, ClaimVerdict.not_measured)
        if counts[v]
    ]
    rest = f" ({', '.join(parts)})" if parts else ""
    return f"{counts[ClaimVerdict.reproduces]} of {len(run.claims)} claims of the paper reproduce{rest}."


def _percent(rows: dict[str, StageRow], name: str, domain: str, metric: str) -> str:
    score = rows[name].score(domain, metric) if name in rows else None
    return f"{100 * score.value:.0f}%" if score else ""


def facts(run: RunRecord) -> list[tuple[str, str]]:
    """Preset, protocol, cost and date of the run."""
    newest = max(part.manifest.created_at for part in (*run.parts.values(), *run.evaluations.values()))
    total = run.total_cost
    return [
        ("Preset", run.preset or "none"),
        ("Evaluation", protocol(run)),
        ("Compute", f"{duration(total.seconds)} of jobs, {total.accelerator_hours:.2f} accelerator-hours"),
        ("Newest artifact", f"{newest:%Y-%m-%d %H:%M} UTC"),
    ]


def protocol(run: RunRecord) -> str:
    """How every checkpoint was evaluated."""
    config = next(iter(run.evaluations.values())).manifest.config
    sampling = config.get("sampling", {})
    return (
        f"temperature {sampling.get('temperature', '?')}, top-p {sampling.get('top_p', '?')}, "
        f"{config.get('samples_per_problem', '?')} samples a question"
    )


def versions(run: RunRecord) -> dict[str, str]:
    """Library -> version; where stages ran under different ones, all of them."""
    found: dict[str, set[str]] = {}
    for part in (*run.parts.values(), *run.evaluations.values()):
        for library, version in part.manifest.versions.items():
            found.setdefault(library, set()).add(version)
    return {library: ", ".join(sorted(found[library])) for library in sorted(found)}


def revisions(run: RunRecord) -> str:
    """The code revisions that built the artifacts."""
    parts = (*run.parts.values(), *run.evaluations.values())
    found = {p.manifest.code_revision for p in parts if p.manifest.code_revision}
    return ", ".join(sorted(map(short_revision, found)))


def reproduce(run: RunRecord) -> str:
    """The command that makes this report again, with PATH for a preset that is no file of `configs/`."""
    if (CONFIGS / f"{run.preset}.yaml").is_file() and "/" not in run.preset:
        return f"make run PRESET={shlex.quote(run.preset)}"
    return "r1 run --preset PATH"


def reproduce_note(run: RunRecord) -> str:
    """What PATH stands for in `reproduce`; empty where there is none."""
    path = reproduce(run).endswith(" PATH")
    return (
        f"PATH is the YAML file of preset {run.preset or 'none'}, which is not in configs/." if path else ""
    )


def edges(run: RunRecord) -> list[tuple[int, int]]:
    """The lineage as pairs of places in `run.nodes`: parent, child."""
    index = {node.name: i for i, node in enumerate(run.nodes)}
    return [(index[parent], index[node.name]) for node in run.nodes for parent in node.parents]


@dataclass(frozen=True)
class FunnelLine:
    """One count of a curation stage as the pages show it."""

    label: str
    count: int
    tone: str
    """Name of the colour of its bar (`tasks.report.style`)."""


def funnel_lines(funnel: Curation) -> list[FunnelLine]:
    """From what was sampled over what was rejected and why to what was kept."""
    return [
        FunnelLine("Sampled", funnel.sampled, "muted"),
        *(FunnelLine(f"Rejected: {r.replace('_', ' ')}", n, "bad") for r, n in funnel.rejected.items()),
        *(FunnelLine(f"Kept: {domain_title(d)}", n, "good") for d, n in funnel.kept.items()),
        FunnelLine("Kept in all", funnel.kept_total, "good"),
    ]
