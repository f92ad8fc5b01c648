"""The whole recipe as one flow: `tasks.recipe.recipe` is the figure, this runs it.

    prefect deployment run r1-full-pipeline --param preset=tiny

What the store has is reused; each missing stage runs as its own deployment on its work pool. The whole
preset is checked before anything starts.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from artifacts.store import ArtifactStore
from flows import paths, ui
from flows.builder import PrefectBuilder
from flows.graph import load_pipeline


@flow(name="r1-full-pipeline", flow_run_name="r1 pipeline of {preset}", persist_result=False)
def r1_full_pipeline(preset: str = "tiny") -> State:
    """Base, R1-Zero, Dev1, Dev2, Dev3, R1, the students, their evaluations, and the report.

    Raises:
        PresetError: the preset cannot be used; nothing was started.
        StageFailed: with the reason of the stage.
    """
    pipeline = load_pipeline(preset)
    store = ArtifactStore.open(paths.absolute_store_url())
    report = pipeline.walk(PrefectBuilder(pipeline, preset, store))
    ui.publish_pipeline_artifacts(store.fetch(report))
    return Completed(message=f"{pipeline.ref_name('report')} is {report.digest}")
