"""What `r1 estimate` asks of the probe, and how it shows the answer."""

from artifacts.store import ArtifactStore
from flows.estimate import COLUMNS, _spec, cells
from flows.graph import load_pipeline
from tasks.estimate import ProbeSpec


def test_every_rl_stage_of_the_preset_is_asked_with_its_own_base(tmp_path):
    pipeline = load_pipeline("tiny")
    spec = ProbeSpec.model_validate(_spec(pipeline, ArtifactStore.open(str(tmp_path))))
    assert [s.node for s in spec.stages] == ["r1-zero", "dev2", "r1", "tiny-student-rl-only"]
    assert spec.stages[0].config == pipeline.preset.r1_zero
    assert spec.stages[-1].base != spec.stages[0].base
    assert spec.problems_folder == spec.stages[0].base_folder == ""


def test_an_estimate_is_a_line_of_the_table():
    row = {
        "node": "r1-zero", "parameters": 2_400_000, "steps": 50, "tokens": 123456.0, "seconds_per_step": 1.5,
        "hours": 0.02, "hours_at_most": 2.5, "memory_gib": 0.44,
    }  # fmt: skip
    shown = cells(row)
    assert len(shown) == len(COLUMNS)
    assert shown == ["r1-zero", "2.4 M", "50", "123,456", "1.50", "1.2 min", "2.5 h", "0.4 GiB"]
