"""Deciding on data sets that wait for a person: review."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.shared import (
    Preset,
    complain,
    load_pipeline,
    one_line_errors,
    open_store,
    print_table,
    say,
    scope_of,
)

if TYPE_CHECKING:
    from artifacts.refs import Ref
    from artifacts.store import ArtifactStore
    from flows.api import SuspendedRun
    from tasks.review import Review

_WIDEST = 300
"""Characters shown of a text."""


def review(
    what: Annotated[
        str, typer.Argument(metavar="[RUN]", help="A run's id, or a data set's name or digest.")
    ] = "",
    preset: Preset = "tiny",
    approve: Annotated[bool, typer.Option("--approve", help="Use the data set as it is.")] = False,
    reject: Annotated[str, typer.Option("--reject", help="Fail the run, with this reason.")] = "",
    rows: Annotated[
        str, typer.Option("--rows", help="Use it with the rows of this Parquet or JSONL file.")
    ] = "",
    whole: Annotated[bool, typer.Option("--whole", help="The file's rows are the whole set.")] = False,
    author: Annotated[str, typer.Option("--author", help="Your name, recorded as claimed.")] = "",
    comment: Annotated[str, typer.Option("--comment", help="Recorded with the decision.")] = "",
    save: Annotated[
        Path | None, typer.Option("--save", help="Write all rows to this new JSONL file.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Sampled rows to show.")] = 10,
) -> None:
    """List the data sets that wait for a review; show rows of one; decide on it."""
    from flows import services
    from tasks.review import ReviewError, save_rows

    with one_line_errors():
        store, runs = open_store(), _suspended()
        if not what:
            _list(store, runs, preset)
            return
        ref = _meant(store, runs, what, preset)
        try:
            decision = _decision(approve, reject, rows, author, comment)
            if save is not None:
                say(f"wrote {save_rows(store.fetch(ref), save)} rows to {save}")
            elif decision is None:
                _show(store, ref, count)
            else:
                _decide(store, runs, ref, decision, rows, whole)
        except ReviewError as error:
            raise services.ServiceError(str(error)) from None


def _decision(approve: bool, reject: str, rows: str, author: str, comment: str) -> Review | None:
    """What the options decide; None where they decide nothing."""
    from pydantic import ValidationError

    from artifacts.checks import first_reason
    from tasks.review import Decision, Review, ReviewError

    asked = {Decision.approve: approve, Decision.reject: bool(reject), Decision.edit: bool(rows)}
    chosen = [decision for decision, wanted in asked.items() if wanted]
    if not chosen:
        return None
    if len(chosen) > 1:
        raise ReviewError("give one of --approve, --reject and --rows")
    if not author.strip():
        raise ReviewError("say who decides: --author NAME")
    try:
        return Review(decision=chosen[0], author=author, comment=reject or comment)
    except ValidationError as error:
        raise ReviewError(first_reason(error)) from None


def _decide(
    store: ArtifactStore, runs: list[SuspendedRun], ref: Ref, decision: Review, rows: str, whole: bool
) -> None:
    """Record the decision, and resume the runs that wait for it."""
    from flows import api, paths
    from flows.review_key import parsed_key
    from tasks.review import decide

    recorded = decide(store, ref, decision, paths.work_root() / "reviews", rows, whole)
    say(f"{ref.kind} {ref.short}: {recorded.sentence}")
    if recorded.result != ref:
        say(f"{recorded.result.kind} {recorded.result.short} is used in its place")
    waiting = [run for run in runs if (key := parsed_key(run.pause_key)) and key.digest == ref.digest]
    for run in waiting:
        # What is in the store counts. A worker that does not see it there, or does not trust its key, gets
        # the same decision by the form; of an edit it lacks the rows and asks again.
        given = decision.model_dump(mode="json", include={"decision", "author", "comment"})
        api.resume(run, given)
        say(f"{run.name} goes on")


def _list(store: ArtifactStore, runs: list[SuspendedRun], preset: str) -> None:
    from flows import plan
    from flows.review_key import parsed_key

    cells = []
    for run in runs:
        if key := parsed_key(run.pause_key):
            cells.append([run.id, run.name, key.node, key.digest[:12], "waits for its review"])
    seen = {row[3] for row in cells}
    pipeline = load_pipeline(preset)
    rows = plan.plan(pipeline, store) if pipeline.wired.shape.review else []
    cells += [
        ["", "", pipeline.ref_name(row.node), row.ref.short, row.review]
        for row in rows
        if row.review and row.ref and row.ref.short not in seen
    ]
    print_table(["run", "", "data set", "digest", ""] if cells else [], cells)
    if not cells:
        say("nothing waits for a review (a preset asks for one: `review: {nodes: [cold-start]}`)")


def _meant(store: ArtifactStore, runs: list[SuspendedRun], what: str, preset: str) -> Ref:
    """The data set that a run waits for, or that is named; of an edited one, the set that was reviewed."""
    from artifacts.refs import Ref
    from flows.review_key import parsed_key
    from tasks.kinds import Kind

    for run in runs:
        key = parsed_key(run.pause_key)
        if key and run.id == what:
            return Ref(kind=Kind.dataset, digest=key.digest)
    ref = store.resolve(what, scope_of(preset))
    return store.manifest(ref.digest).parents.get("reviewed", ref)


def _show(store: ArtifactStore, ref: Ref, count: int) -> None:
    from tasks.review import ROW, count_rows, newest, sampled

    folder = store.fetch(ref)
    found = newest(store, ref)
    state = found.sentence if found else "not reviewed yet"
    say(f"{ref.kind} {ref.short}, {count_rows(folder):,} rows, {state}")
    print_table(
        ["row", "domain", "question", "completion"],
        [
            [str(row[ROW]), row["domain"], _cut(row["question"] or row["prompt"]), _cut(row["completion"])]
            for row in sampled(folder, count)
        ],
    )
    say(f"`r1 review {ref.short} --author NAME` with --approve, --reject REASON or --rows FILE decides")


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]} … {len(text) - _WIDEST:,} more characters"


def _suspended() -> list[SuspendedRun]:
    """The runs that wait for a person; none where no server answers, since the store has all else."""
    import httpx

    from flows import api

    try:
        return api.suspended_runs("r1-full-pipeline")
    except httpx.HTTPError:
        complain("no Prefect server answers: runs that wait there are not listed and not resumed")
        return []


COMMANDS = (review,)
