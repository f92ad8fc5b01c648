"""A process that waits for its job notes the code as it imported it, not as it is when the job comes."""

import subprocess
import sys

from tasks.job import build
from tasks.recipe import STAGES
from tasks.settings import REPOSITORY
from tasks.source_code import sources
from tasks.spare import import_stages


def test_the_code_of_every_stage_is_noted_at_its_import(monkeypatch):
    build.imported_code.cache_clear()
    import_stages()
    edited = "the files were edited since"
    monkeypatch.setattr(build, "sources", lambda entry: {edited: entry})
    for stage in STAGES.values():
        assert build.imported_code(stage.entry) == sources(stage.entry)
    build.imported_code.cache_clear()
    assert edited in build.imported_code(STAGES["base"].entry)
    build.imported_code.cache_clear()


def test_what_publishing_needs_is_imported_before_the_work():
    """A job ended with a missing module after its last step, as its checkout was replaced meanwhile."""
    asked = "import sys, tasks.job.__main__; sys.exit('artifacts.draft' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], cwd=REPOSITORY).returncode == 0
