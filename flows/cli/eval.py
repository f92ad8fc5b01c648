"""Evaluate a checkpoint on named benchmarks, without a pipeline: eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.shared import complain, one_line_errors, open_store, print_table, say


class SampleFormat(StrEnum):
    """What other tools read samples from."""

    lm_eval = "lm-eval"
    lighteval = "lighteval"


def evaluate(
    checkpoint: Annotated[
        str,
        typer.Argument(help="An artifact (tiny/r1, a digest), a model folder, or a hub name (owner/name)."),
    ],
    on: Annotated[
        list[str],
        typer.Option("--on", help="A benchmark, or NAME=PATH for a local copy; as often as needed."),
    ],
    samples: Annotated[int | None, typer.Option(help="Of each question; by default the paper's.")] = None,
    count: Annotated[int | None, typer.Option(help="Questions of each benchmark; all by default.")] = None,
    pass_at: Annotated[list[int] | None, typer.Option(help="k of pass@k; repeat it for several.")] = None,
    template: Annotated[
        str,
        typer.Option(
            help="Prompt template; by default that of its training, else its chat template, else r1."
        ),
    ] = "",
    engine: Annotated[str, typer.Option(help="transformers, or vllm on a GPU.")] = "transformers",
    max_new_tokens: Annotated[
        int, typer.Option(help="Of a completion, where the context has room.")
    ] = 32_768,
    temperature: float = 0.6,
    top_p: float = 0.95,
    by: Annotated[str, typer.Option(help="Group by source, domain, level or language.")] = "source",
    format_: Annotated[
        SampleFormat | None, typer.Option("--format", help="Write samples as this tool does, to --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for --format.")] = None,
    allow_weak_sandbox: bool = False,
) -> None:
    """Evaluate CHECKPOINT on benchmarks: a job of its own, kept in the store, so that it runs only once."""
    from artifacts.tables import read_table
    from flows.evaluating import evaluated
    from flows.runner import JobFailed
    from tasks.presets import PresetError
    from tasks.problem import GROUPINGS
    from tasks.samples_export import write_lighteval, write_lm_eval

    with one_line_errors():
        if by not in GROUPINGS:
            raise PresetError(f"--by {by}: use one of {', '.join(GROUPINGS)}")
        if (format_ is None) != (out is None):
            raise PresetError("--format and --out need each other: give both or neither")
        if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise PresetError(f"{out} is not empty: name a new folder")
        of_each = {"samples": samples, "count": count, "pass_at": pass_at}
        settings = {
            "benchmarks": {
                name: {key: value for key, value in (of_each | _copy(path)).items() if value}
                for name, _, path in (text.partition("=") for text in on)
            },
            "engine": {"name": engine},
            "sampling": {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens},
            "allow_weak_sandbox": allow_weak_sandbox,
        } | ({"template": template} if template else {})
        try:
            found = evaluated(store := open_store(), checkpoint, settings, say)
        except JobFailed as error:
            complain(str(error))
            raise typer.Exit(1) from None
        folder, manifest = store.fetch(found.evaluation), store.manifest(found.evaluation.digest)
        _show(read_table(folder / "scores").to_pylist(), by)
        if out is not None:
            write = write_lm_eval if format_ == SampleFormat.lm_eval else write_lighteval
            say(f"wrote {', '.join(write(out, checkpoint, folder, store.fetch(found.problems), manifest))}")
    say(f"{found.name} is evaluation {found.evaluation.short}, template {manifest.config['template']}")


def _show(scores: Sequence[Mapping[str, Any]], by: str) -> None:
    """Print the scores of one kind of group."""
    from tasks.problem import group_name

    print_table(
        ("questions of", "metric", "value", "95% interval", "questions", "samples"),
        [
            (
                group_name(by, row["group"]), row["metric"], f"{row['value']:.4g}",
                f"{row['low']:.4g} to {row['high']:.4g}", str(row["questions"]),
                str(row["samples_per_question"]),
            )
            for row in scores
            if row["by"] == by
        ],
        right=("value", "95% interval", "questions", "samples"),
    )  # fmt: skip


def _copy(path: str) -> dict[str, object]:
    """The setting of a local copy, which a user names from where the command runs."""
    return {"path": str(Path(path).expanduser().resolve())} if path else {}


COMMANDS = ((evaluate, "eval"),)
