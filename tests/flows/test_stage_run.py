"""What a stage's run asks of its job."""

import pytest

from flows import stage_run


class Asked(Exception):
    """Carries the job that would have run."""


@pytest.fixture
def job(built, preset, monkeypatch):
    """The job for a node with a new seed, asked for by the pipeline or by a person."""

    def run_job(spec, *_, **__):
        raise Asked(spec)

    monkeypatch.setattr(stage_run, "run_job", run_job)

    def asked(name, by_pipeline):
        node = built.nodes[name]
        names = {inner: built.ref_name(outer) for inner, outer in built.feeds[name].items()}
        config = node.config.model_dump(mode="json") | {"seed": 77}
        scope = f"{built.name}/" if by_pipeline else ""
        with pytest.raises(Asked) as caught:
            stage_run.run_stages(node.stage.name, preset(), {name: names}, config, name=scope)
        return caught.value.args[0]

    return asked


@pytest.mark.parametrize(
    ("node", "by_pipeline", "aside"),
    [
        ("tiny-student-distilled", True, True),
        ("tiny-student-distilled", False, False),  # `make distill`: nothing is waited for but this
        ("r1", True, False),
    ],
)
def test_only_what_the_pipeline_can_go_on_without_steps_aside(job, node, by_pipeline, aside):
    asked = job(node, by_pipeline)
    assert [build.node for build in asked.builds] == [node]
    assert asked.aside is aside
