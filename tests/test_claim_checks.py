"""`benchmarks.claim_checks` on synthetic runs."""

from benchmarks.claim_checks import told, without
from benchmarks.seeds import pooled_claims
from tests.test_seeds import of, run


def test_claims_are_told_as_over_the_seeds_and_curves_are_none_of_its_matter():
    runs = [run(seed, 0.05) for seed in range(3)]
    claims = told([r.measures for r in runs])
    assert all("completions grow" not in claim["says"] for claim in claims)
    (found,) = (claim for claim in claims if "Dev2 above Dev1" in claim["says"])
    pooled = of(pooled_claims(runs), "Dev2 above Dev1")
    assert (found["by_seed"], found["measured"]) == (pooled.by_seed, pooled.measured)
    assert found["verdict"] == pooled.verdict.value
    assert (found["seed_low"], found["seed_high"]) == (pooled.seed_low, pooled.seed_high)


def test_questions_that_a_run_trained_on_do_not_count():
    means = {"math/pass_at_1": {"a": 1.0, "b": 0.5}, "format": {"b": 1.0}}
    assert without(means, {"b"}) == {"math/pass_at_1": {"a": 1.0}, "format": {}}
