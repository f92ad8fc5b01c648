"""The README's result file from the report of a run."""

import shutil

from artifacts.manifest import ManifestDraft
from artifacts.store import ArtifactStore
from docs import results
from tasks.kinds import Kind
from tasks.report.claims import CLAIMS
from tasks.report.tables import load_stage_rows
from tasks.tables import TABLES


def test_a_result_comes_from_a_finished_run(report, tmp_path):
    """From a store that holds the report of a run, through its file, into the README."""
    store = ArtifactStore.open(str(tmp_path / "store"))
    draft = shutil.copytree(report.draft, tmp_path / "draft", ignore=shutil.ignore_patterns("manifest.json"))
    parents = {name: given.ref for name, given in report.inputs.items()}
    fields = ManifestDraft(
        kind=Kind.report, stage="report", stage_version=2, node="report", preset="tiny", key="1" * 64,
        parents=parents,
    )  # fmt: skip
    store.set_ref("tiny/report", store.publish(draft, fields, TABLES))
    result = results.from_store(store, "tiny", 493.0, 1.5)
    assert [row.node for row in result.rows] == [r.node for r in load_stage_rows({"report": report.draft})]
    assert set(result.digests) >= {"base", "cold-start", "r1", "reward-models"}
    assert len(result.claims) == len(CLAIMS)
    assert result.digests["cold-start"][:8] in results.draw(result)
