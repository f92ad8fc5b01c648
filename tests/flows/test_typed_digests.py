"""Digests that look like numbers: Prefect's command line reads parameters as JSON."""

import pytest

from flows.stage_flows import FLOWS, as_typed
from tasks.presets import PresetError


@pytest.mark.parametrize("flow", ["rl-zero", "evaluate", "distill"])
def test_a_flow_takes_a_digest_of_digits(flow):
    checked = FLOWS[flow].validate_parameters({"checkpoint": 12345678})
    assert as_typed(checked["checkpoint"]) == "12345678"
    schema = FLOWS[flow].parameters.model_dump()["properties"]["checkpoint"]
    assert "integer" in str(schema)


def test_names_and_mappings_stay_what_they_are():
    assert as_typed({"a": 1234, "b": "tiny/r1", "c": None}) == {"a": "1234", "b": "tiny/r1", "c": None}


def test_a_digest_whose_digits_are_lost_is_refused():
    with pytest.raises(PresetError, match="quote it"):
        as_typed(float("1234e56"))
