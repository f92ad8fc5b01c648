"""One student on a finished mixture: distill."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.run import watch
from flows.cli.shared import one_line_errors, open_store, say, show


def distill(
    student: Annotated[str, typer.Argument(help="A name from configs/students, or the path of a YAML file.")],
    preset: Annotated[str, typer.Option(help="Whose mixture to learn from.")] = "",
) -> None:
    """Fine-tune one student on the newest mixture."""
    from flows import api, distillation, services
    from flows.graph import load_pipeline

    with one_line_errors():
        settings = distillation.settle(student, preset, open_store())
        show(settings.describe())
        mixture = settings.mixture
        if settings.missing or mixture is None:
            raise services.ServiceError(f"cannot distill {student} now: {settings.missing}")
        open_store().backend.check()
        services.up(say)
        parameters = {"preset": settings.preset, "student": student, "dataset": mixture.digest}
        say(f"$ {api.shown('distill', parameters)}")
        pipeline = load_pipeline(settings.preset, student)
        node = f"{pipeline.student}-distilled"
        watch(
            api.submit("distill", parameters),
            lambda maker: pipeline.walk_to(maker, node, dataset=mixture),
            pipeline.name,
        )
        say(f"`r1 show {settings.ref_name}` tells what was made, `r1 export` writes it as a model folder")


COMMANDS = (distill,)
