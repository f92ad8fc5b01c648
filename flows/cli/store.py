"""Questions to the store and its upkeep: ls, show, lineage, verify, gc, sql, export.

    r1 ls                         every named artifact
    r1 lineage r1                 the graph from tiny/r1 back to the base and the problems
    r1 sql "SELECT verdict, count(*) FROM samples WHERE node = 'evaluation' GROUP BY 1"

The store is `$R1_STORE` (`.r1/store` by default). An artifact is called by its name (`tiny/r1-zero`, or
`r1-zero` of `--preset`), its digest or a unique beginning of it. Exit codes: 0 fine, 1 `verify` found
damage, 2 bad input.
"""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.shared import complain, one_line_errors, open_store, print_table, scope_of
from flows.cli.shared import show as show_text
from tasks.text_safety import for_page, for_terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from artifacts.errors import StoreError
    from artifacts.manifest import Manifest
    from artifacts.store import ArtifactStore, NamedRef

Named = Annotated[str, typer.Argument(help="A name, a digest or a unique beginning of it.")]
PresetOption = Annotated[str, typer.Option("--preset", "-p", help="Where plain node names are looked up.")]


_SHOWN_ROWS = 200
"""Of a table on the terminal; `--format csv` and `json` print every row."""
_SHOWN_CHARACTERS = 2_000
"""Of one cell of such a table."""


class Drawing(StrEnum):
    tree = "tree"
    mermaid = "mermaid"


class Layout(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


def ls(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Unnamed artifacts too.")] = False,
) -> None:
    """List the artifacts by name: kind, digest, size, age and cost."""
    with one_line_errors():
        store = open_store()
        names = store.refs(_report)
        by_digest: dict[str, list[str]] = {}
        for name, named in names.items():
            by_digest.setdefault(named.ref.digest, []).append(name)
        manifests = {manifest.digest: manifest for manifest in store.objects(_report)}
        rows = [
            [name, *_columns(manifests[named.ref.digest])]
            if named.ref.digest in manifests
            else [name, named.ref.kind, named.ref.short, "gone", "", ""]
            for name, named in names.items()
        ]
        if all_:
            rows += [["", *_columns(m)] for digest, m in manifests.items() if digest not in by_digest]
        for row in rows:
            row.append(_which(row[0], names, manifests))
        if rows:
            columns = ["name", "kind", "digest", "size", "made", "took", ""]
            print_table(columns, rows, right=("size", "took"))
        elif not manifests:
            show_text(
                f"{store.url} holds no artifacts yet: `r1 run` makes some (R1_STORE names another store)"
            )
        hidden = len(manifests.keys() - by_digest.keys())
        if hidden and not all_:
            typer.echo(f"{hidden} more without a name: `r1 ls --all`, or `r1 gc` to remove them")


def show(artifact: Named, preset: PresetOption = "tiny") -> None:
    """Show one artifact: what made it, from what, its files and settings."""
    from tasks.review import note

    with one_line_errors():
        store = open_store()
        manifest = store.manifest(store.resolve(artifact, scope_of(preset)).digest)
        names = [name for name, named in store.refs().items() if named.ref == manifest.ref]
        reviewed = note(store, manifest.ref)
        print_table(["", ""], [*_facts(manifest, names), *([["review", reviewed]] if reviewed else [])])
        print_table(
            ["file", "bytes", "rows", "sha256"],
            [
                [f.path, f"{f.size:,}", "" if f.rows is None else f"{f.rows:,}", f.sha256[:12]]
                for f in manifest.files
            ],
            right=("bytes", "rows"),
        )
        settings = {"config": manifest.config, "summary": manifest.summary}
        show_text(json.dumps(settings, indent=2, ensure_ascii=False))


def lineage(
    artifact: Named,
    preset: PresetOption = "tiny",
    draw: Annotated[Drawing, typer.Option("--draw", "-d", help="How.")] = Drawing.tree,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file.")] = None,
) -> None:
    """Draw where an artifact comes from, back to the base and the problems."""
    from artifacts.lineage import lineage as trace
    from tasks.review import note

    with one_line_errors():
        store = open_store()
        graph = trace(store, store.resolve(artifact, scope_of(preset)), note)
        text = graph.tree() if draw is Drawing.tree else graph.mermaid()
        if out is None:
            show_text(text)
        else:
            out.write_text(for_page(text) + "\n")  # it is shown on a terminal too, by `cat`
            show_text(f"wrote {out}")


def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged artifacts to quarantine/, rewrite the key index.")
    ] = False,
) -> None:
    """Hash the whole store: every changed byte, missing or extra file, bad entry. Exit code 1 on damage."""
    from artifacts import catalog
    from flows.remedies import remedy_of

    with one_line_errors():
        store = open_store()
        findings = catalog.verify(store)
        for finding in findings:
            show_text(f"{finding.where} {finding.what}: {remedy_of(finding.fault)}")
        if not findings:
            show_text(f"{len(store.digests())} artifacts in {store.url} are whole")
            return
        if not repair:
            raise typer.Exit(1)
        for line in catalog.repair(store, findings):
            show_text(line)
        left = catalog.verify(store)
        typer.echo(
            f"{len(findings)} findings, {len(left)} left; run the pipeline again to rebuild what was moved"
        )
        raise typer.Exit(1 if left else 0)


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is shown.")] = False,
    forget: Annotated[
        list[str] | None, typer.Option("--forget", help="Names (or a preset) that keep nothing any more.")
    ] = None,
) -> None:
    """Show, and with --yes delete, what no name reaches through parents."""
    from artifacts import catalog

    with one_line_errors():
        store = open_store()
        forgotten = _names(store, forget or [])
        garbage = catalog.gc(store, forget=forgotten, report=_report)
        print_table(
            ["node", "kind", "digest", "size", "made", "took"] if garbage.objects else [],
            [[m.node, *_columns(m)] for m in garbage.objects],
            right=("size", "took"),
        )
        leftovers = len(garbage.stale) + len(garbage.keys) + len(garbage.cached)
        if yes:
            garbage = catalog.gc(store, dry_run=False, forget=forgotten, report=_report)
        done = "deleted" if yes else "would be deleted (add --yes)"
        typer.echo(
            f"{len(garbage.objects)} artifacts, {_size(garbage.size)}, {leftovers} leftovers, "
            f"{len(forgotten)} names: {done}"
        )


def sql(
    query: Annotated[str, typer.Argument(help="Views: artifacts, refs and one per table name.")],
    layout: Annotated[Layout, typer.Option("--format", "-f", help="How rows are printed.")] = Layout.table,
    unrestricted: Annotated[
        bool,
        typer.Option(
            "--unrestricted",
            help="Let the query read and write every file that you can, attach databases, reach the network "
            "and load extensions. Without it: one SELECT over the store's tables.",
        ),
    ] = False,
) -> None:
    """Ask DuckDB about every table in the store; by default read-only, and nothing but the store."""
    from artifacts.query import first_rows
    from tasks.tables import TABLES

    with one_line_errors():
        # All rows only where they are all written: a table of 31,000 rows of text takes minutes to lay out.
        limit = _SHOWN_ROWS if layout is Layout.table else None
        table, total = first_rows(open_store(), query, TABLES, limit, _report, unrestricted)
    rows = table.to_pylist()
    if layout is Layout.json:
        for row in rows:
            typer.echo(_json_line(row))
    elif layout is Layout.csv:
        _print_csv(table.column_names, rows)
    else:
        print_table(table.column_names, [[_shortened(_cell(v)) for v in row.values()] for row in rows])
        if total > len(rows):
            typer.echo(
                f"{total - len(rows):,} rows more: `--format csv` or `json` prints all, LIMIT asks for fewer"
            )
        elif not rows and table.column_names:
            typer.echo("no rows")


def export(
    context: typer.Context,
    artifact: Named,
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    preset: PresetOption = "tiny",
) -> None:
    """Write a Hugging Face model folder with chat template, generation config and model card."""
    from tasks.export import export_model

    with one_line_errors():
        store = open_store()
        os.umask(context.obj)  # the folder is for others to read, unlike the store
        export_model(store, store.resolve(artifact, scope_of(preset)), out)
        show_text(f"wrote {out}")


def _which(name: str, names: Mapping[str, NamedRef], manifests: Mapping[str, Manifest]) -> str:
    """Of an experiment's artifact: the recipe's own one that it is, or what makes it another one."""
    from flows.experiments import recipes_own
    from flows.plan import what_differs

    own = names.get(recipes_own(name))
    if own is None or own.name == name:
        return ""
    mine, recipes = manifests.get(names[name].ref.digest), manifests.get(own.ref.digest)
    if names[name].ref == own.ref:
        return f"is {own.name}"
    return what_differs(mine, recipes) if mine and recipes else ""


_reported: set[str] = set()


def _report(error: StoreError) -> None:
    """Name what is skipped, once a process."""
    if str(error) not in _reported:
        _reported.add(str(error))
        complain(f"skipped: {error}")


def _names(store: ArtifactStore, wanted: list[str]) -> list[str]:
    """The names meant by names and presets."""
    from artifacts.errors import UnknownArtifact

    found = []
    for text in wanted:
        names = [name for name in store.ref_names() if name == text or name.startswith(f"{text}/")]
        if not names:
            raise UnknownArtifact(f"no name is or begins with {text!r}")
        found += names
    return sorted(set(found))


def _columns(manifest: Manifest) -> list[str]:
    """kind, digest, size, made, took"""
    made = f"{manifest.created_at.astimezone():%Y-%m-%d %H:%M}"
    return [manifest.kind, manifest.ref.short, _size(manifest.size), made, f"{manifest.seconds:,.0f} s"]


def _facts(manifest: Manifest, names: list[str]) -> list[list[str]]:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    return [
        ["digest", manifest.digest],
        ["names", ", ".join(names) or "none"],
        ["kind", manifest.kind],
        ["node", f"{manifest.node} of preset {manifest.preset}"],
        ["stage", f"{manifest.stage} (version {manifest.stage_version})"],
        ["key", manifest.key],
        ["made", f"{manifest.created_at.astimezone():%Y-%m-%d %H:%M:%S} in {manifest.seconds:,.1f} s, "
                 f"{manifest.accelerator_hours:.3g} accelerator-hours"],
        ["code", manifest.code_revision or "unknown"],
        ["libraries", versions],
        *(["from", f"{name}: {ref.kind} {ref.short}"] for name, ref in sorted(manifest.parents.items())),
    ]  # fmt: skip


def _size(count: int) -> str:
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB"))
    unit = next(units)
    while value >= 1024 and unit != "GiB":
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str("" if value is None else value)
    return text.replace("\n", "⏎")


def _shortened(cell: str) -> str:
    left = len(cell) - _SHOWN_CHARACTERS
    return cell if left <= 0 else f"{cell[:_SHOWN_CHARACTERS]} … {left:,} more characters"


def _json_line(row: dict[str, Any]) -> str:
    """One row as JSON: readable text stays, what a terminal would act on becomes an escape of JSON."""
    line = json.dumps(row, ensure_ascii=False, default=str)
    return line if line.isprintable() else json.dumps(row, default=str)


def _print_csv(columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Print CSV. A file or a pipe gets the values unchanged, a terminal gets them made safe."""
    import csv
    import sys

    shown = (lambda value: for_terminal(_cell(value))) if sys.stdout.isatty() else (lambda value: value)
    writer = csv.writer(sys.stdout)
    writer.writerow(map(shown, columns))
    writer.writerows(map(shown, row.values()) for row in rows)


COMMANDS = (ls, show, lineage, verify, gc, sql, export)
