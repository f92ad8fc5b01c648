"""A process that waits for its job notes the code as it imported it, not as it is when the job comes."""

from tasks.job import build
from tasks.recipe import STAGES
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
