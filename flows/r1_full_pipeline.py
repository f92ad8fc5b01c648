"""The whole recipe as one flow: `tasks.recipe.recipe` is the figure, this runs it.

    prefect deployment run r1-full-pipeline --param preset=tiny
    prefect deployment run r1-full-pipeline --param 'changes={"dev2.learning_rate": 1e-5}' --param name=low

The parameters beside `preset` are those of `flows.experiments.Variant`. What the store has is reused; each
missing stage runs as its own deployment on its work pool. The whole preset is checked before anything starts.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from artifacts.store import ArtifactStore
from flows import checkout, paths, ui
from flows.builder import PrefectBuilder, Undecided
from flows.experiments import Variant
from flows.graph import load_pipeline
from flows.review_form import Questions
from tasks.kinds import Kind


@flow(name="r1-full-pipeline", flow_run_name="r1 pipeline of {preset}", persist_result=False)
def r1_full_pipeline(
    preset: str = "tiny",
    changes: dict[str, Any] | None = None,
    skip: list[str] | None = None,
    use: dict[str, str] | None = None,
    until: str = "",
    name: str = "",
) -> State:
    """Base, R1-Zero, Dev1, Dev2, Dev3, R1, the students, their evaluations, and the report.

    Raises:
        PresetError: the preset cannot be used; nothing was started.
        StageFailed: with the reason of the stage.
    """
    checkout.refuse_other_code()
    pipeline = load_pipeline(preset, variant=Variant(changes or {}, skip or (), use or {}, until, name))
    store = ArtifactStore.open(paths.absolute_store_url())
    questions = Questions(store, pipeline.name)
    questions.take_answers()
    while True:
        builder = PrefectBuilder(pipeline, preset, store)
        try:
            last = builder.finish(pipeline.walk(builder))
            break
        except Undecided as waiting:
            questions.ask(waiting.sets)  # returns only where they were decided meanwhile
    if last.kind == Kind.report:
        ui.publish_pipeline_artifacts(store.fetch(last))
    return Completed(message=f"the last artifact of {pipeline.name} is {last.kind} {last.digest}")
