"""One made-up run and its report for all tests here."""

from pathlib import Path

import pytest

from artifacts.manifest import ManifestDraft, seal
from tasks.job import Job
from tasks.kinds import Kind
from tasks.report.data import RunRecord, load_run
from tasks.report.stage import ReportConfig
from tasks.report.write import run
from tests.report.synthetic import report_job, write_run


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Job:
    """The job after it ran: `report.inputs` are the artifacts, `report.draft` is the report."""
    root = tmp_path_factory.mktemp("report")
    job = report_job(root, write_run(root / "inputs"))
    run(ReportConfig(), job)
    draft = ManifestDraft(
        kind=Kind.report, stage="report", stage_version=1, node="report", preset="tiny", key="0" * 64
    )
    (job.draft / "manifest.json").write_bytes(seal(draft, ())[0])
    return job


@pytest.fixture(scope="session")
def loaded(report) -> RunRecord:
    return load_run(report.inputs)


@pytest.fixture(scope="session")
def r1_zero(report) -> Path:
    """The folder of a checkpoint that RL made."""
    return report.inputs["checkpoint.r1-zero"].path
