"""A preset beside a variant of it: ablate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.shared import Preset, complain, one_line_errors, open_store, print_table, say

if TYPE_CHECKING:
    from artifacts.refs import Ref
    from flows.ablation import AblationResult, CurveTrend, MeasureDifference
    from flows.graph import Pipeline

_SHARES = ("pass_at_", "cons_at_", "vote_gain", "format", "language_consistency", "truncated", "safe_share")
"""Metrics that are shown in percent."""


def ablate(
    name: Annotated[str, typer.Argument(help="One of configs/ablations, or a YAML file.")] = "",
    preset: Preset = "tiny",
    seeds: Annotated[int, typer.Option(min=1, max=16, help="Repetitions with other seeds.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write ablation.json and questions.parquet here.")] = None,
) -> None:
    """Run a preset beside a variant of it, and tell the difference with 95% intervals."""
    from flows import ablation as ablations
    from flows.local_builder import LocalBuilder
    from flows.runner import JobFailed

    if not name:
        known = ablations.available()
        print_table(["ablation", "variant"], [[n, ablations.load_ablation(n).title] for n in known])
        return
    with one_line_errors():
        asked, store = ablations.load_ablation(name), open_store()

        def build(pipeline: Pipeline) -> Ref:
            say(f"{pipeline.name}: up to {pipeline.wired.shape.until}")
            return pipeline.walk(LocalBuilder(pipeline, store, say))

        try:
            runs = ablations.run_sides(asked, Path(name).stem, preset, seeds, store, build)
        except JobFailed as error:
            complain(str(error))
            raise typer.Exit(1) from None
        result, rows = ablations.result_of(asked, Path(name).stem, preset, runs, store)
        if out is not None:
            ablations.write_result(out, result, rows)
    show_result(result)
    if out is not None:
        say(f"wrote {out / 'ablation.json'} and {out / 'questions.parquet'}")


def show_result(result: AblationResult) -> None:
    """Print the tables."""
    say(f"{result.title} (variant) beside preset {result.preset} (baseline), {result.seeds} seed(s)")
    say(f"published: {result.paper}")
    if result.measures:
        columns = ["measure", "baseline", "variant", "difference", "95% over questions", "p", "questions"]
        over_seeds = ["95% over seeds"] if result.seeds > 1 else []
        rows = [_measure_cells(m)[: len(columns) + len(over_seeds)] for m in result.measures]
        print_table([*columns, *over_seeds], rows, right=tuple(columns[1:]))
    if result.curves:
        columns = ["in training", "", "first steps", "last steps", "change", "95%", "steps"]
        print_table(columns, [_curve_cells(curve) for curve in result.curves], right=tuple(columns[2:]))
    for missing in result.not_measured:
        say(f"not measured: {missing}")
    for warning in result.warnings:
        complain(warning)


def _measure_cells(found: MeasureDifference) -> list[str]:
    share = found.measure.rpartition("/")[2].startswith(_SHARES)
    seeds = ""
    if found.low_over_seeds is not None and found.high_over_seeds is not None:
        seeds = _interval(found.low_over_seeds, found.high_over_seeds, share)
    return [
        found.measure, _number(found.baseline, share), _number(found.variant, share),
        _number(found.value, share, signed=True), _interval(found.low, found.high, share),
        f"{found.p_value:.3f}", str(found.questions), seeds,
    ]  # fmt: skip


def _curve_cells(found: CurveTrend) -> list[str]:
    share = found.metric.startswith(_SHARES)
    change = _number(found.last - found.first, share, signed=True)
    return [
        found.metric, found.side, _number(found.first, share), _number(found.last, share), change,
        _interval(found.low, found.high, share), str(found.steps),
    ]  # fmt: skip


def _number(value: float, share: bool, signed: bool = False) -> str:
    scaled, digits = (100 * value, 1) if share else (value, 2)
    return f"{scaled:{'+' if signed else ''}.{digits}f}{'%' if share else ''}"


def _interval(low: float, high: float, share: bool) -> str:
    return f"[{_number(low, share, signed=True)}, {_number(high, share, signed=True)}]"


COMMANDS = (ablate,)
