"""Endpoints: a real server over HTTP, faults before it, the cache after a kill, the secrecy of the key."""

import email.utils
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.job import StopRequested
from tasks.kinds import Kind
from tasks.language_models.cache import AnswerCache
from tasks.language_models.chat import ChatAnswer, ChatRequest, Message, ModelLost, sections, visible
from tasks.language_models.opening import open_model
from tasks.language_models.settings import Checkpoint, Endpoint, StandIn, host_of
from tasks.rollout.settings import Sampling
from tests.jobs import local_job
from tests.language_models.servers import questions, scripted, transformers_serve, with_chat_template

SECRET = "sk-very-secret-0123456789"


def ask(text, seed=0):
    return ChatRequest((Message("user", text),), seed)


def endpoint(url, **changes):
    # A pause of this process (collected garbage, a busy machine) must not look like a server's.
    settings = {"url": url, "model": "tiny", "timeout_seconds": 30, "attempts": 3, "concurrency": 4}
    return Endpoint.model_validate(settings | changes)


@pytest.fixture
def job(tmp_path):
    return local_job(tmp_path, "cold-start", "cold-start", {})


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """The back-off as it is, but from hundredths of a second on."""
    from tasks.language_models import endpoint as module

    monkeypatch.setattr(module._BACK_OFF, "multiplier", 0.01)


def test_answers_are_in_order_and_equal_requests_are_asked_once(job):
    def echo(body):
        time.sleep(0.05 * (questions(body)[0] == "a"))
        return f"said {questions(body)[0]} {body['seed']}"

    with scripted(text=echo) as server:
        model = open_model(endpoint(server.url), job, {})
        answers = model.answer([ask("a"), ask("b"), ask("a"), ask("a", 1)])
        assert [answer.text for answer in answers] == ["said a 0", "said b 0", "said a 0", "said a 1"]
        assert len(server.seen) == 3
        assert {name: server.seen[0][name] for name in ("model", "temperature", "top_p", "max_tokens")} == {
            "model": "tiny", "temperature": 0.6, "top_p": 0.95, "max_tokens": 8_192,
        }  # fmt: skip
        assert model.summary("judge") == {
            "judge_completion_tokens": 12, "judge_from_cache": 0, "judge_prompt_tokens": 28,
            "judge_requests": 4,
        }  # fmt: skip
        model.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [429, 500, 503, 408, "slow", "cut", "html", "empty"])
def test_what_may_pass_is_asked_again(job, fault):
    with scripted(fault) as server:
        model = open_model(endpoint(server.url, timeout_seconds=1 if fault == "slow" else 30), job, {})
        assert model.answer([ask("a")]) == [ChatAnswer("hello", "", 7, 3)]
        assert len(server.seen) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason", "times"),
    [
        (429, "rate-limited", 3), (500, "server-error", 3), ("slow", "timeout", 3), ("cut", "no-answer", 3),
        ("html", "no-answer", 3), ("empty", "no-answer", 3), (400, "refused-request", 1),
        (422, "refused-request", 1),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_counted_and_nothing_is_invented(job, fault, reason, times):
    seconds = 1 if fault == "slow" else 30
    with scripted(*[fault] * times) as server:
        model = open_model(endpoint(server.url, concurrency=1, timeout_seconds=seconds), job, {})
        assert model.answer([ask("a"), ask("b")]) == [ChatAnswer(None, reason), ChatAnswer("hello", "", 7, 3)]
        assert model.summary("judge")[f"judge_failed_{reason}"] == 1
        assert len(server.seen) == times + 1
        # A failure is not remembered: another run asks again.
        assert model.answer([ask("a")])[0].text == "hello"


def test_nobody_there_is_unreachable(job):
    with scripted() as server:
        url = server.url
    assert open_model(endpoint(url), job, {}).answer([ask("a")])[0].failure == "unreachable"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_followed(job, form):
    header = {"seconds": "1", "date": email.utils.formatdate(time.time() + 2.5, usegmt=True)}[form]
    with scripted((429, {"retry-after": header})) as server:
        assert open_model(endpoint(server.url), job, {}).answer([ask("a")])[0].text == "hello"
        assert 0.9 < server.times[1] - server.times[0] < 3


@pytest.mark.parametrize("status", [401, 403, 404, (307, {"location": "http://127.0.0.1:1/"})])
def test_where_no_request_can_succeed_the_job_ends(job, status):
    with scripted(*[status] * 9) as server:
        model = open_model(endpoint(server.url, concurrency=1), job, {})
        with pytest.raises(ModelLost, match="fix the settings"):
            model.answer([ask(str(i)) for i in range(9)])
        assert len(server.seen) < 9


def test_a_server_that_is_down_ends_the_job_and_answers_are_kept(job):
    with scripted(*["pass"] * 5, *[500] * 200) as server:
        model = open_model(endpoint(server.url, attempts=1, concurrency=1), job, {})
        with pytest.raises(ModelLost, match="32 requests one after another"):
            model.answer([ask(str(i)) for i in range(100)])
        server.replies.clear()
        again = open_model(endpoint(server.url), job, {})
        asked = len(server.seen)
        assert all(answer.text == "hello" for answer in again.answer([ask(str(i)) for i in range(100)]))
        assert len(server.seen) == asked + 95


@pytest.mark.slow
def test_the_rate_is_kept(job):
    with scripted() as server:
        open_model(endpoint(server.url, requests_per_minute=600), job, {}).answer(
            [ask(str(i)) for i in range(6)]
        )
        assert 0.45 < max(server.times) - min(server.times) < 2


def test_a_stop_ends_the_waiting(job):
    with scripted((429, {"retry-after": "60"})) as server:
        model = open_model(endpoint(server.url), job, {})
        started = time.monotonic()
        import threading

        threading.Timer(0.3, job.stop.set).start()
        with pytest.raises(StopRequested):
            model.answer([ask("a")])
        assert time.monotonic() - started < 5
        job.stop.clear()


def test_the_key_is_sent_and_shown_nowhere(job, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("TEST_API_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    with scripted("pass", 500, 500, 400, 401) as server:
        settings = endpoint(server.url, key="TEST_API_KEY", attempts=2, concurrency=1)
        model = open_model(settings, job, {})
        model.answer([ask("a"), ask("b"), ask("c")])
        with pytest.raises(ModelLost) as lost:
            model.answer([ask("d")])
        assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
        assert not server.headers[0].get("openai-organization")
    shown = [caplog.text, str(lost.value), settings.model_dump_json(), repr(model.summary("judge"))]
    shown += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text[max(0, text.index(SECRET) - 200) :] for text in shown if SECRET in text]
    assert "TEST_API_KEY" in str(lost.value)


def test_a_missing_key_is_told_before_anything_is_asked(job, monkeypatch):
    monkeypatch.delenv("TEST_API_KEY", raising=False)
    with pytest.raises(ModelLost, match="environment variable TEST_API_KEY is not set"):
        open_model(endpoint("http://127.0.0.1:1/v1", key="TEST_API_KEY"), job, {})


@pytest.mark.parametrize("key", [SECRET, "my_key", "A" * 200, "A-B"])
def test_a_key_in_place_of_its_name_is_not_repeated(key):
    with pytest.raises(ValidationError) as refused:
        endpoint("http://127.0.0.1:1/v1", key=key)
    (error,) = refused.value.errors()
    assert "NAME of the environment variable" in str(error["ctx"]["error"])
    assert key not in str(error["ctx"]["error"])


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/v1", "ftp://127.0.0.1", "https://user:pw@example.com/v1", "https://example.com/v1?key=1",
        "example.com", "https://", "http://127.0.0.1.example.com/v1", "https://a\\@b/v1",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(url):
    with pytest.raises(ValidationError, match="url must be https"):
        endpoint(url)


@pytest.mark.parametrize(
    ("url", "host"),
    [("https://api.example.com/v1/", "api.example.com"), ("http://[::1]:8000/v1", "::1"),
     ("http://localhost:1/v1", "localhost")],
)  # fmt: skip
def test_addresses_that_are_taken(url, host):
    assert host_of(endpoint(url).url) == host


def test_the_cost_is_counted(job):
    with scripted() as server:
        model = open_model(endpoint(server.url, price_prompt=1e6, price_completion=2e6), job, {})
        model.answer([ask("a"), ask("b")])
        assert model.summary("refiner")["refiner_cost"] == 2 * 7 + 2 * 2 * 3


KILLED = """
import sys, threading
from pathlib import Path
from tasks.language_models.opening import open_model
from tests.language_models.test_endpoint import ask, endpoint
from tests.jobs import local_job
job = local_job(Path(sys.argv[1]), "cold-start", "s", {})
model = open_model(endpoint(sys.argv[2], concurrency=2), job, {})
model.answer([ask(str(i)) for i in range(40)])
"""


@pytest.mark.slow
def test_a_kill_loses_at_most_the_requests_in_flight(tmp_path):
    def slowly(body):
        time.sleep(0.05)
        return "hello"

    root = Path(__file__).parents[2]
    with scripted(text=slowly) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), server.url],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        while len(server.seen) < 12:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
        asked = len(server.seen)
        job = local_job(tmp_path, "cold-start", "s", {})
        answers = open_model(endpoint(server.url), job, {}).answer([ask(str(i)) for i in range(40)])
        assert all(answer.text == "hello" for answer in answers)
        assert len(server.seen) - asked <= 40 - (asked - 4)


def test_a_half_line_in_the_cache_is_skipped(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    cache.put("aa" * 32, {"text": "一\n二"})
    cache.close()
    with (tmp_path / "answers.jsonl").open("ab") as file:
        file.write(b'{"request": "bb", "ans')
    again = AnswerCache(tmp_path / "answers.jsonl")
    again.put("cc" * 32, {"text": "c"})
    assert len(AnswerCache(tmp_path / "answers.jsonl")) == 2
    assert again.get("aa" * 32) == {"text": "一\n二"}
    assert AnswerCache(tmp_path / "answers.jsonl").get("cc" * 32) == {"text": "c"}


def test_rules_answer_without_asking(job):
    model = open_model(StandIn(name="echo"), job, {"echo": lambda request: str(request.facts["x"])})
    assert model.answer([ChatRequest((), 0, {"x": 3})])[0].text == "3"
    assert open_model(StandIn(name="none"), job, {}) is None


def test_a_checkpoint_answers_through_its_engine(tmp_path, tiny_model):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").symlink_to(tiny_model)
    job = local_job(tmp_path, "cold-start", "cold-start", {"checkpoint": (Kind.checkpoint, tmp_path / "in")})
    settings = Checkpoint(template="plain", sampling=Sampling(max_new_tokens=8))
    requests = [ask("compute 1 + 1"), ask("compute 2 + 2"), ask("compute 1 + 1", 1)]
    first = open_model(settings, job, {}).answer(requests)
    model = open_model(settings, job, {})
    assert model.answer(requests) == first
    assert model.summary("judge")["judge_from_cache"] == 3
    assert all(answer.text and answer.completion_tokens for answer in first)
    for kept in job.kept.values():
        kept.close()


def test_sections_of_an_answer():
    text = "<think> hidden </think> sure: <a> one </a> and <b>two\n</b>"
    assert visible(text).startswith("sure")
    assert sections(text, "a", "b") == {"a": "one", "b": "two"}
    assert sections("<a></a>", "a") is None
    assert sections("<a>1</a><a>2</a>", "a") is None
    assert sections("</a>1<a>", "a") is None


@pytest.mark.slow
def test_a_real_server_over_http_with_faults_in_front(tmp_path, tiny_model, job):
    model = with_chat_template(tiny_model, tmp_path / "served")
    with (
        transformers_serve(model, tmp_path / "serve.log") as url,
        scripted(429, "pass", 500, "cut", "pass", behind=url) as proxy,
    ):
        settings = endpoint(
            proxy.url, model=str(model), timeout_seconds=60, concurrency=2, attempts=6,
            sampling=Sampling(max_new_tokens=8, temperature=1.0),
        )  # fmt: skip
        asker = open_model(settings, job, {})
        answers = asker.answer([ask(f"compute {i} + 1") for i in range(6)])
        assert all(answer.text and not answer.failure for answer in answers)
        assert all(0 < answer.completion_tokens <= 8 for answer in answers)
        assert len(proxy.seen) == 9
        asked = len(proxy.seen)
        assert open_model(settings, job, {}).answer([ask("compute 3 + 1")])[0] == answers[3]
        assert len(proxy.seen) == asked
