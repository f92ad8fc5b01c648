"""The report as one HTML file: no scripts, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tasks.recipe import role, title
from tasks.report import run_summary
from tasks.report.claims import ClaimResult, ClaimVerdict
from tasks.report.data import Example, Funnel, RunRecord, ShownCompletion
from tasks.report.names import DOMAIN_TITLES
from tasks.report.plot import SvgFigure, color
from tasks.report.style import STYLE
from tasks.report.tables import LEGEND, Column, StageRow, duration, shown_columns

MAX_COMPLETION = 1_600
"""Characters shown of a sample completion."""

_TONES = {ClaimVerdict.reproduces: "good", ClaimVerdict.does_not: "bad", ClaimVerdict.noise: "unsure"}
_TAG = re.compile(r"&lt;(/?(?:think|answer))&gt;")


def render(run: RunRecord, figures: Mapping[str, SvgFigure]) -> str:
    """The whole page."""
    sections = [
        _section("The recipe and what it scored", _figure(figures, "recipe", _RECIPE_NOTE)),
        _section("Every stage under one protocol", _stage_table(run.rows), _figure(figures, "scores", "")),
        _section("The paper's claims, checked", _claims(run.claims)),
        _section("Training", *_training(figures)),
        _section("Curation", _funnels(run.funnels)),
        _section("What the checkpoints write", *map(_example, run.examples)),
        _section("Cost", _figure(figures, "cost", _COST_NOTE), _costs(run)),
        _section("Lineage, versions and how to reproduce", _lineage(run), _versions(run)),
    ]
    name = f"R1 recipe, preset {run.preset}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>{STYLE}</style></head><body><main>{_masthead(run)}{''.join(sections)}"
        "</main></body></html>\n"
    )


_RECIPE_NOTE = (
    "pass@1 over the verifiable held-out questions with its 95% interval. Edges are those of the artifacts' "
    "manifests; every stage also reads the problems. The base is loaded three times."
)
_COST_NOTE = "Seconds of the jobs that built the artifacts, also where this run reused them."


def _section(head: str, *parts: str) -> str:
    body = "".join(parts)
    return f"<section><h2>{escape(head)}</h2>{body}</section>" if body else ""


def _masthead(run: RunRecord) -> str:
    facts = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in run_summary.facts(run))
    lead = " ".join(run_summary.headline(run))
    return (
        f"<header><p class=kicker>DeepSeek-R1 recipe</p><h1>Preset {escape(run.preset or 'none')}</h1>"
        f"<p class=lead>{escape(lead)}</p><dl class=facts>{facts}</dl></header>"
    )


def _figure(figures: Mapping[str, SvgFigure], name: str, note: str) -> str:
    if name not in figures:
        return ""
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return f"<figure>{figures[name].svg}{caption}</figure>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Cells are HTML already; the first column is the row's head."""
    top = "".join(f"<th scope=col>{h}</th>" for h in head)
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    inner = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class=scroll><table class="{kind}">{inner}</table></div>'


def _swatch(node: str) -> str:
    return f'<i class=swatch style="background:{color(role(node))}"></i>{escape(title(node))}'


def _stage_table(rows: Sequence[StageRow]) -> str:
    columns = shown_columns(rows)
    body = [
        [_swatch(row.node), *(_score_cell(row, c) for c in columns), duration(row.seconds)] for row in rows
    ]
    note = f"<p class=note>{escape(LEGEND)}.</p>"
    return table(["Stage", *(escape(c.head) for c in columns), "Time"], body, "numbers") + note


def _score_cell(row: StageRow, column: Column) -> str:
    """The value over its interval."""
    value, _, interval = column.cell(row).partition(" ")
    return f"{value}<small>{interval.strip('[]').replace(', ', '–')}</small>" if interval else value


def _claims(claims: Sequence[ClaimResult]) -> str:
    body = [
        [
            escape(f.says),
            escape(f.paper),
            escape(f.measured),
            f'<span class="verdict {_TONES.get(f.verdict, "")}">{escape(f.verdict)}</span>',
        ]
        for f in claims
    ]
    note = (
        "<p class=note>Checkpoints are compared question by question; a claim reproduces only where the "
        "whole 95% interval lies on its side, and is inside the noise where the interval holds zero. The "
        "published numbers are another model's on other tasks: direction is what can be compared.</p>"
    )
    return table(["Claim", "Published", "This run", "Verdict"], body, "claims") + note


def _training(figures: Mapping[str, SvgFigure]) -> list[str]:
    notes = {
        "rl-curves": "RL stages by policy update. Pale: single steps; strong: mean over a tenth of the run.",
        "rl-domains": "Share of correct completions in training, by domain.",
        "sft-curves": "Fine-tuning stages by optimizer step.",
    }
    return [_figure(figures, name, note) for name, note in notes.items()]


def _funnels(funnels: Sequence[Funnel]) -> str:
    return f"<div class=columns>{''.join(map(_funnel, funnels))}</div>" if funnels else ""


def _funnel(funnel: Funnel) -> str:
    widest = max([funnel.sampled, funnel.kept_total, *funnel.rejected.values(), 1])
    lines = [("Sampled", funnel.sampled, "muted")]
    lines += [(reason.replace("_", " "), count, "bad") for reason, count in funnel.rejected.items()]
    lines += [(f"Kept: {DOMAIN_TITLES.get(d, d)}", count, "good") for d, count in funnel.kept.items()]
    lines += [("Kept in all", funnel.kept_total, "good")]
    body = "".join(
        f"<tr><th scope=row>{escape(label)}</th><td>{count:,}</td>"
        f'<td class=bar><i style="width:{100 * count / widest:.1f}%;background:var(--{tone})"></i></td></tr>'
        for label, count, tone in lines
    )
    return (
        f"<div><h3>{escape(title(funnel.node))}</h3><table class=funnel><tbody>{body}</tbody></table></div>"
    )


def _example(example: Example) -> str:
    problem = example.problem
    head = f"{DOMAIN_TITLES.get(problem.domain, problem.domain)}, {problem.language}, answer {problem.answer}"
    nodes = dict.fromkeys(s.node for s in example.samples)
    body = [
        [_swatch(node), *(_sample(example.samples, node, right) for right in (True, False))] for node in nodes
    ]
    return f"<h3>{escape(problem.prompt)}</h3><p class=note>{escape(head)}</p>" + table(
        ["Checkpoint", "A correct completion", "One that is not"], body, "samples"
    )


def _sample(samples: Sequence[ShownCompletion], node: str, right: bool) -> str:
    found = [s for s in samples if s.node == node and (s.verdict == "correct") == right]
    if not found:
        return "<span class=none>none among the samples</span>"
    sample = found[0]
    verdict = "" if right else f"{escape(sample.verdict)}, "
    shown = completion(sample.completion)
    return f"<p class=completion>{shown}</p><small>{verdict}{sample.tokens} tokens</small>"


def completion(words_of_model: str) -> str:
    """Model text, escaped; the recipe's four tags set apart, long text cut with a count."""
    cut = len(words_of_model) - MAX_COMPLETION
    tail = f" <span class=none>… {cut:,} more characters</span>" if cut > 0 else ""
    return _TAG.sub(r"<b>&lt;\1&gt;</b>", escape(words_of_model[:MAX_COMPLETION])) + tail


def _costs(run: RunRecord) -> str:
    body = [
        [
            escape(title(c.node)),
            escape(c.stage),
            str(c.artifacts),
            f"{c.seconds:,.1f}",
            f"{c.accelerator_hours:.3f}",
        ]
        for c in run.costs
    ]
    hours = sum(c.accelerator_hours for c in run.costs)
    body.append(["All", "", str(sum(c.artifacts for c in run.costs)), f"{run.seconds:,.1f}", f"{hours:.3f}"])
    return table(["Node", "Stage", "Artifacts", "Seconds", "Accelerator-hours"], body, "numbers ledger")


def _lineage(run: RunRecord) -> str:
    body = [
        [
            _swatch(node.name),
            escape(run.parts[node.name].manifest.stage),
            f"<code>{node.digest[:12]}</code>",
            escape(", ".join(title(p) for p in node.parents) or "–"),
        ]
        for node in run.nodes
    ]
    return table(["Artifact", "Stage", "Digest", "Made from"], body, "lineage")


def _versions(run: RunRecord) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in run_summary.versions(run).items())
    code = (
        f"<p class=note>Code {escape(run_summary.revisions(run))}.</p>" if run_summary.revisions(run) else ""
    )
    return f"<p class=note>{escape(libraries)}</p>{code}<pre>{escape(run_summary.reproduce(run))}</pre>"
