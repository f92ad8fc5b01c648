"""What makes two evaluations incomparable, read from their manifests."""

import pytest

from artifacts.manifest import ManifestDraft, seal
from artifacts.refs import Ref
from tasks.protocol import Protocol, differences, warnings

CONFIG = {
    "template": "plain", "samples_per_problem": 16, "seed": 4, "problems_per_domain": 500,
    "sampling": {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 80}, "engine": {"name": "transformers"},
    "benchmarks": {"aime24": {"samples": 64}},
}  # fmt: skip
FIELDS = {
    "kind": "evaluation", "stage": "evaluate", "stage_version": 4, "node": "evaluation.r1", "key": "1" * 64,
    "config": CONFIG, "parents": {"problems": Ref(kind="problems", digest="a" * 64)},
    "versions": {"transformers": "5.17.0", "math-verify": "0.9.0"},
    "sources": {"tasks/rewards/equivalence.py": "x", "tasks/rl/objective.py": "y"},
    "summary": {"engine": "transformers 5.17.0"},
}  # fmt: skip


def manifest(**changes):
    return seal(ManifestDraft(**FIELDS | changes), ())[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": CONFIG | {"template": "r1"}}, ["prompt template: plain against r1"]),
        (
            {"config": CONFIG | {"sampling": CONFIG["sampling"] | {"temperature": 0.8}}},
            ["sampling temperature: 0.6 against 0.8"],
        ),
        ({"config": CONFIG | {"samples_per_problem": 4}}, ["samples a question: 16 against 4"]),
        ({"config": CONFIG | {"seed": 5}}, ["seed: 4 against 5"]),
        (
            {"config": CONFIG | {"benchmarks": {"aime24": {"samples": 32}}}},
            ["questions benchmarks aime24 samples: 64 against 32"],
        ),
        ({"summary": {"engine": "vllm 0.31.0"}}, ["engine: transformers 5.17.0 against vllm 0.31.0"]),
        (
            {"versions": {"transformers": "5.18.0", "math-verify": "0.9.0", "vllm": "0.31.0"}},
            ["versions transformers: 5.17.0 against 5.18.0", "versions vllm: none against 0.31.0"],
        ),
        (
            {"parents": {"problems": Ref(kind="problems", digest="b" * 64)}},
            [f"problems artifact: {'a' * 12} against {'b' * 12}"],
        ),
    ],
)
def test_a_difference_is_named_with_both_values(changes, said):
    one, other = Protocol.of(manifest()), Protocol.of(manifest(**changes))
    assert differences(one, other) == said
    assert len(differences(other, one)) == len(said)


def test_another_verifier_differs_and_code_that_judges_nothing_does_not():
    one = Protocol.of(manifest())
    judging = manifest(sources=FIELDS["sources"] | {"tasks/rewards/equivalence.py": "z"})
    training = manifest(sources=FIELDS["sources"] | {"tasks/rl/objective.py": "z"})
    assert differences(one, Protocol.of(training)) == []
    (said,) = differences(one, Protocol.of(judging))
    assert said.startswith("verifier code: version 4, code ")
    assert differences(one, Protocol.of(manifest(stage_version=3)))


def test_only_the_checkpoint_differs():
    checkpoints = (
        manifest(node=f"evaluation.{name}", key=key * 64) for name, key in (("r1", "2"), ("base", "3"))
    )
    assert warnings(dict(zip("ab", checkpoints, strict=True))) == []


def test_a_warning_names_who_differs_and_in_what():
    odd = manifest(config=CONFIG | {"template": "r1"})
    said = warnings({"Base": manifest(), "Dev1": odd, "Dev2": odd, "R1": manifest()})
    assert said == [
        "Dev1 and Dev2 were evaluated under another protocol than Base, so their scores are not comparable: "
        "prompt template: plain against r1"
    ]
