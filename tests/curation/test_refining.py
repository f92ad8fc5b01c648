"""The refiner behind a server: what it is asked, what is kept of its rewrites, what is dropped and why."""

import json

import pytest

from tasks.cold_start.curate import Tools, curate
from tasks.cold_start.refine import Refiner, read_examples
from tasks.cold_start.stage import ColdStartConfig
from tasks.curation.candidates import Candidate
from tasks.curation.filtering import first_objections
from tasks.curation.readability import FILTERS, Readability
from tasks.language_models.opening import open_model
from tasks.language_models.settings import Endpoint
from tasks.problem import Problem
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict
from tests.jobs import local_job
from tests.language_models.servers import questions, scripted

EN = Problem("m1", "math", "en", "compute 1 + 2", "3", "math")
OTHER = Problem("m2", "math", "en", "compute 2 + 2 and explain it", "4", "math")


def candidate(index=0, problem=EN, thinking="we add so 3 .", verdict="correct"):
    text = f" <think> {thinking} {index} </think> <answer> {problem.answer} </answer>"
    return Candidate(problem, "p", text, verdict, "stop", index)


def rewrite(thinking, solution):
    return f"<think> my own </think> Here: <thinking_text>{thinking}</thinking_text>\n<solution_text>{solution}</solution_text>"  # noqa: E501


@pytest.fixture(scope="module")
def pool():
    with VerifierPool() as pool:
        yield pool


@pytest.fixture
def refine(tmp_path, pool):
    """Curates candidates with a refiner whose replies a function of the request's body gives."""

    def run(sampled, reply, keep=1, **how):
        def readable(names):
            return lambda rows: first_objections(
                [(c.thinking, c.problem.language) for c in rows], names, Readability()
            )

        def verify(problems, texts):
            return [j.verdict == Verdict.correct for j in pool.verify(problems, texts)]

        job = local_job(tmp_path, "cold-start", "cold-start", {})
        with scripted(text=reply) as server:
            model = open_model(Endpoint(url=server.url, model="refiner", attempts=1), job, {})
            tools = Tools(
                Refiner(model, **how), verify, readable(list(FILTERS)[:-1]), readable(list(FILTERS))
            )
            return curate(sampled, keep, tools), [questions(body) for body in server.seen]

    return run


def reasons(sieve):
    return {c.sample_index: rejection.reason for c, rejection in sieve.dropped}


def test_a_rewrite_takes_the_place_of_thinking_and_answer(refine):
    good = rewrite("I add 1 and 2. That gives 3.", r"$1 + 2 = \boxed{3}$")
    sieve, asked = refine([candidate(0), candidate(1)], lambda body: good)
    (kept,) = sieve.kept
    assert kept.completion == (
        r" <think> I add 1 and 2. That gives 3. </think> <answer> $1 + 2 = \boxed{3}$ </answer>"
    )
    assert reasons(sieve) == {1: "over-quota"}
    ((instruction, request),) = asked  # the second candidate was not needed, so it was not paid for
    assert "English" in instruction
    assert r"\boxed{}" in instruction
    assert "{" not in instruction.replace(r"\boxed{}", "")
    for part in ("compute 1 + 2", "we add so 3 . 0", "<final_answer>\n3\n"):
        assert part in request


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (rewrite("I add.", r"\boxed{4}"), "rewrite-changed-answer"),
        (rewrite("I add.", "it is some number"), "rewrite-changed-answer"),
        (rewrite("所以结果是三", r"\boxed{3}"), "mixed-language"),
        (rewrite("I add a b c d e f g " * 9, r"\boxed{3}"), "repetition"),
        (rewrite("I add ```python```", r"\boxed{3}"), "code-block"),
        (rewrite("I </think> add", r"\boxed{3}"), "malformed"),
        ("no layout at all", "refiner-unreadable"),
        ("<thinking_text>only half</thinking_text>", "refiner-unreadable"),
    ],
)  # fmt: skip
def test_a_bad_rewrite_is_dropped_with_its_reason(refine, reply, reason):
    reply = reply.replace("I </think> add", "I <answer> add")
    sieve, asked = refine([candidate(0)], lambda body: reply)
    assert sieve.kept == []
    assert reasons(sieve) == {0: reason}
    assert len(asked) == (3 if reason == "refiner-unreadable" else 1)


def test_where_a_rewrite_fails_the_next_sample_is_refined(refine):
    def reply(body):
        right = "3 . 1" in questions(body)[1]
        return rewrite("I add.", r"\boxed{3}" if right else r"\boxed{5}")

    sieve, asked = refine([candidate(0), candidate(1), candidate(2), candidate(3, OTHER)], reply)
    assert [(c.problem.id, c.sample_index) for c in sieve.kept] == [("m1", 1)]
    assert reasons(sieve) == {0: "rewrite-changed-answer", 2: "over-quota", 3: "rewrite-changed-answer"}
    assert len(asked) == 3


def test_reviewed_rewrites_are_shown_as_examples(refine, tmp_path):
    rows = [
        {"question": "compute 5 + 5", "completion": "<think> I see two fives. </think><answer> 10 </answer>"}
    ]
    path = tmp_path / "reviewed.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    _, asked = refine(
        [candidate()], lambda body: rewrite("I add.", r"\boxed{3}"), examples=read_examples(path)
    )
    assert "I see two fives." in asked[0][1]
    assert asked[0][1].index("compute 5 + 5") < asked[0][1].index("compute 1 + 2")
    path.write_text('{"question": "q", "completion": "no tags"}')
    with pytest.raises(
        ValueError, match=r"reviewed\.jsonl, row 0: give it a question and a completion of one"
    ):
        read_examples(path)


def test_trivial_math_gets_a_short_answer(refine):
    def reply(body):
        short = questions(body)[0].startswith("Answer very simple")
        return rewrite("I add 1 and 2.", r"$\boxed{3}$" if short else r"long $\boxed{3}$")

    sampled = [candidate(0), candidate(1), candidate(0, OTHER), candidate(1, OTHER, verdict="wrong")]
    sieve, asked = refine(sampled, reply, short=True)
    asked = sorted(asked)  # they are asked at the same time
    assert [messages[0][:6] for messages in asked] == ["Answer", "You ed"]
    assert r"<answer> $\boxed{3}$ </answer>" in sieve.kept[0].completion
    assert asked[0][1] == "Question: compute 1 + 2"


def test_settings_that_need_a_language_model_are_refused_without_one():
    with pytest.raises(ValueError, match="need a language model"):
        ColdStartConfig(refiner="lexicon", short_answers=True)
    assert ColdStartConfig(refiner="lexicon", examples="").files() == {}
    url = {"name": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}
    assert ColdStartConfig(refiner=url, examples="x.jsonl").files() == {"examples": "x.jsonl"}
