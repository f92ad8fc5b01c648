"""The `r1` command: one module for each group of commands.

    r1 run --preset tiny       everything: server, workers, the pipeline, its table and report
    r1 plan --preset tiny      what a run would do, and why
    r1 plan --skip r1 --set dev2.learning_rate=1e-5   the same for a run that departs from it
    r1 eval CHECKPOINT --on aime24    any checkpoint on a named benchmark, without a pipeline
    r1 import FOLDER --as dev1 an artifact of your own, for `r1 run --use dev1=NAME`
    r1 estimate --preset tiny  what its RL stages will cost
    r1 doctor --preset tiny    whether this machine can run it
    r1 compare RUN_A RUN_B     what differs: settings, scores on the same questions, curves
    r1 distill STUDENT         one student on the newest mixture
    r1 ablate NAME             a preset beside a variant of it
    r1 report [--live]         where a run's report lies; a page of the run that goes on
    r1 review [RUN]            data sets that wait for a person: list, show, decide
    r1 serve CHECKPOINT        a trained model behind OpenAI's interface
    r1 chat CHECKPOINT         talk to it in the terminal
    r1 down                    stop what was started
    r1 ls | show | lineage | verify | gc | sql | export    the store
    r1 trust on | off | list | add | remove | sign         whose artifacts count in a shared store

Exit codes: 0 done, 1 failed, 2 bad input or something missing, 130 interrupted.

Importing this package imports Typer only, so that `r1 --help` answers at once: every command imports what
it needs when it runs.
"""

from __future__ import annotations

import os

import typer

from flows.cli import ablate, bring, compare, distill, eval, plan, report, review, run, serve, store, trust

COMMANDS = (
    *run.COMMANDS, *plan.COMMANDS, *compare.COMMANDS, *distill.COMMANDS, *ablate.COMMANDS, *review.COMMANDS,
    *report.COMMANDS, *serve.COMMANDS, *store.COMMANDS,
)  # fmt: skip

app = typer.Typer(
    help="The DeepSeek-R1 recipe as a cached, restartable workflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)
for brought, name in (*bring.COMMANDS, *eval.COMMANDS):
    app.command(name)(brought)
app.add_typer(trust.commands, name="trust")


@app.callback()
def keep_files_private(context: typer.Context) -> None:
    """The DeepSeek-R1 recipe as a cached, restartable workflow."""
    # The server, the workers and the jobs that a command starts inherit the mask, so the database, logs,
    # work folders and store are closed to other users as well. `export` asks for the user's own mask.
    context.obj = os.umask(0o077)
    context.call_on_close(lambda: os.umask(context.obj))


def main() -> None:
    """Run the command line; the console script `r1`."""
    app()
