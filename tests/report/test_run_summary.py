"""Sentences of the report's head."""

from types import SimpleNamespace

import pytest

from tasks.report.claims import ClaimVerdict
from tasks.report.names import short_revision
from tasks.report.run_summary import _claims

COMMIT = "8bdd1926cf8cc57f4f6bc41de95de590fc03485b"


@pytest.mark.parametrize(
    ("noise", "does_not", "said"),
    [
        (0, 0, "2 of 2 claims of the paper reproduce."),
        (0, 1, "2 of 3 claims of the paper reproduce (1 does not reproduce)."),
        (5, 3, "2 of 10 claims of the paper reproduce (5 inside the noise, 3 do not reproduce)."),
    ],
)
def test_the_claims_in_a_sentence(noise, does_not, said):
    verdicts = [ClaimVerdict.reproduces] * 2 + [ClaimVerdict.noise] * noise
    verdicts += [ClaimVerdict.does_not] * does_not
    assert _claims(SimpleNamespace(claims=[SimpleNamespace(verdict=v) for v in verdicts])) == said


@pytest.mark.parametrize(("changed", "shown"), [("", "8bdd1926cf8c"), ("-dirty", "8bdd1926cf8c-dirty")])
def test_changed_files_stay_said_in_a_short_revision(changed, shown):
    assert short_revision(COMMIT + changed) == shown
