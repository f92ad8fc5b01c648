"""The report in Markdown: what fits a repository's page or a workflow's interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tasks.recipe import title
from tasks.report import run_summary
from tasks.report.claims import ClaimResult
from tasks.report.data import Cost, Funnel, RunRecord
from tasks.report.names import DOMAIN_TITLES
from tasks.report.plot import SvgFigure
from tasks.report.tables import duration, to_markdown


def render(run: RunRecord, figures: Mapping[str, SvgFigure]) -> str:
    """The page; figures are linked by file name (`NAME.svg` beside it)."""
    images = {name: f"![{figure.label}]({name}.svg)\n" for name, figure in figures.items()}
    facts = "\n".join(f"- {name}: {value}" for name, value in run_summary.facts(run))
    training = [images[name] for name in ("rl-curves", "rl-domains", "sft-curves") if name in images]
    libraries = ", ".join(f"{name} {version}" for name, version in run_summary.versions(run).items())
    return "\n".join(
        [
            f"# R1 recipe, preset {run.preset}\n",
            f"{' '.join(run_summary.headline(run))}\n\n{facts}\n",
            images.get("recipe", ""),
            f"## Every stage under one protocol\n\n{to_markdown(run.rows)}",
            images.get("scores", ""),
            f"## The paper's claims, checked\n\n{claims(run.claims)}",
            *(["## Training\n", *training] if training else []),
            *([f"## Curation\n\n{funnels(run.funnels)}"] if run.funnels else []),
            f"## Cost\n\n{costs(run.costs)}",
            f"## Lineage\n\n```mermaid\n{run_summary.mermaid(run)}\n```\n",
            f"## Versions\n\n{libraries}\n",
            f"## Reproduce\n\n```\n{run_summary.reproduce(run)}\n```\n",
        ]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A GitHub table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join(f"| {' | '.join(str(c).replace('|', '&#124;') for c in line)} |" for line in lines) + "\n"
    )


def claims(claims: Sequence[ClaimResult]) -> str:
    return table(
        ["Claim", "Published", "This run", "Verdict"],
        [[f.says, f.paper, f.measured, f"**{f.verdict}**"] for f in claims],
    )


def funnels(stages: Sequence[Funnel]) -> str:
    return "\n".join(table([title(f.node), "Rows"], _funnel_rows(f)) for f in stages)


def _funnel_rows(funnel: Funnel) -> list[list[object]]:
    return [
        ["Sampled", funnel.sampled],
        *([f"Rejected: {reason.replace('_', ' ')}", count] for reason, count in funnel.rejected.items()),
        *([f"Kept: {DOMAIN_TITLES.get(domain, domain)}", count] for domain, count in funnel.kept.items()),
        ["Kept in all", funnel.kept_total],
    ]


def costs(entries: Sequence[Cost]) -> str:
    rows: list[list[object]] = [
        [title(c.node), c.stage, duration(c.seconds), f"{c.accelerator_hours:.3f}"] for c in entries
    ]
    total = [sum(c.seconds for c in entries), sum(c.accelerator_hours for c in entries)]
    rows.append(["**All**", "", duration(total[0]), f"{total[1]:.3f}"])
    return table(["Node", "Stage", "Time", "Accelerator-hours"], rows)
