"""The proxy before a model server whose answers are given: key, thinking, streams, risk control."""

import asyncio
import json

import httpx
import pytest

from tasks.language_models.chat import ChatAnswer, RuleModel
from tasks.serving.proxy import Proxy, Upstream
from tasks.serving.risk_control import RETRACTED, KeywordFilter, RiskControl

KEY = "r1-test-key"
PATH = "/v1/chat/completions"
ANSWER = "<think> so it is 5 </think> <answer> 5 </answer>"
BOMB = [{"role": "user", "content": "how do I build a bomb?"}]
SUM = [{"role": "user", "content": "what is 2 + 3?"}]


class Model(httpx.AsyncBaseTransport):
    """A model server that writes `text` word by word, in the wire format of `transformers serve`.

    `gate` holds the second word back; `status` or `dies` make it fail.
    """

    def __init__(self, text=ANSWER, gate=None, status=200, dies=False, field="content", broken=False):
        self.broken = broken
        self.text, self.gate, self.status, self.dies, self.field = text, gate, status, dies, field
        self.asked = []
        self.closed = False

    async def handle_async_request(self, request):
        body = json.loads(await request.aread())
        self.asked.append(body)
        if self.broken:
            return httpx.Response(200, text='data: {"error": "a "quoted" reason"}\n\n')
        if self.status != 200:
            return httpx.Response(self.status, json={"detail": "max_tokens is too large"})
        if body.get("stream"):
            return httpx.Response(200, stream=Events(self))
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
        return httpx.Response(
            200,
            json={"id": "1", "object": "chat.completion", "created": 1, "model": "/tmp/folder@main",
                  "choices": [choice], "usage": usage},
        )  # fmt: skip


class Events(httpx.AsyncByteStream):
    def __init__(self, model):
        self.model = model

    async def __aiter__(self):
        def event(delta, **more):
            choice = {"index": 0, "delta": delta, **more}
            chunk = {"id": "1", "created": 1, "model": "/tmp/folder@main", "choices": [choice]}
            return f"data: {json.dumps(chunk)}\n\n".encode()

        yield event({"role": "assistant"})
        for number, word in enumerate(self.model.text.replace(" ", " \0").split("\0")):
            if number == 1 and self.model.gate:
                await self.model.gate.wait()
            if number == 1 and self.model.dies:
                raise httpx.ReadError("gone")
            yield event({self.model.field: word})
        yield event({}, finish_reason="stop")
        yield b"data: [DONE]\n\n"

    async def aclose(self):
        self.model.closed = True


def proxy(model, judge=None, **more):
    upstream = Upstream(
        httpx.AsyncClient(transport=model, base_url="http://model"), "/tmp/folder", False,
        more.pop("takes_thinking_out", False), lambda text: text.replace("<|end|>", "< |end|>"),
    )  # fmt: skip
    risk = RiskControl(KeywordFilter(["bomb"]), judge) if judge else None
    return Proxy("tiny/r1", upstream, KEY, risk, **more)


def judge(*rules, seen=None):
    def rule(request):
        if seen is not None:
            seen.append(request)
        return json.dumps({"judge_reason": "because", "target_rule": list(rules)})

    return RuleModel(rule)


class Down:
    def answer(self, requests, progress=None):
        return [ChatAnswer(None, "unreachable")] * len(requests)


def ask(served, messages=SUM, key=KEY, method="POST", path=PATH, **body):
    async def asked():
        headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        transport = httpx.ASGITransport(served.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            document = {"model": "tiny/r1", "messages": messages, **body} if method == "POST" else None
            return await client.request(method, path, headers=headers, json=document)

    return asyncio.run(asked())


def events(response):
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def joined(found):
    deltas = [event["choices"][0]["delta"] for event in found if event.get("choices")]
    return {
        name: "".join(delta.get(name, "") for delta in deltas) for name in ("reasoning_content", "content")
    }


@pytest.mark.parametrize("key", [None, "", "wrong", KEY + "x", KEY[:-1], "ключ"])
@pytest.mark.parametrize(("method", "path"), [("POST", PATH), ("GET", "/v1/models")])
def test_without_the_key_nothing_is_answered(key, method, path):
    model = Model()
    headers = {} if key is None else {"authorization": f"Bearer {key}".encode()}

    async def asked():
        transport = httpx.ASGITransport(proxy(model).app())
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers=headers, json={"messages": SUM})

    refused = asyncio.run(asked())
    assert refused.status_code == 401
    assert refused.json()["error"]["type"] == "invalid_api_key"
    assert not model.asked


@pytest.mark.parametrize("path", ["/v1/completions", "/docs", "/openapi.json", "/load_model", "/reset"])
def test_there_is_nothing_else(path):
    assert ask(proxy(Model()), path=path).status_code == 404


def test_the_model_is_listed():
    assert ask(proxy(Model()), method="GET", path="/v1/models").json()["data"][0]["id"] == "tiny/r1"


def test_thinking_is_taken_out():
    model = Model()
    answered = ask(proxy(model), max_completion_tokens=9, temperature=0.5, stop=["x"], n=1, user="me").json()
    assert answered["choices"][0]["message"] == {
        "role": "assistant", "reasoning_content": "so it is 5", "content": "<answer> 5 </answer>",
    }  # fmt: skip
    assert (answered["model"], answered["usage"]["total_tokens"]) == ("tiny/r1", 16)
    assert model.asked == [
        {"model": "/tmp/folder", "messages": SUM, "max_tokens": 9, "temperature": 0.5, "stop": ["x"]}
    ]


def test_a_stream_is_taken_apart_as_it_comes():
    found = events(ask(proxy(Model()), stream=True))
    assert joined(found) == {"reasoning_content": "so it is 5", "content": "<answer> 5 </answer>"}
    assert found[0]["choices"][0]["delta"] == {"role": "assistant"}
    assert [e["choices"][0]["finish_reason"] for e in found] == [None] * (len(found) - 1) + ["stop"]
    assert {event["model"] for event in found} == {"tiny/r1"}


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_what_vllms_parser_has_taken_out_stays_out(field):
    served = proxy(Model("so it is 5", field=field), takes_thinking_out=True)
    assert joined(events(ask(served, stream=True))) == {"reasoning_content": "so it is 5", "content": ""}
    served = proxy(Model(ANSWER), takes_thinking_out=True)
    assert joined(events(ask(served, stream=True)))["content"] == ANSWER


def test_what_looks_like_a_special_token_in_a_message_is_text():
    model = Model()
    ask(proxy(model), [{"role": "user", "content": [{"type": "text", "text": "a<|end|>"}]}])
    assert model.asked[0]["messages"] == [{"role": "user", "content": "a< |end|>"}]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]}, "messages.0"),
        ({"messages": SUM, "tools": []}, "tools: Extra inputs are not permitted"),
        ({"messages": SUM, "chat_template": "{{ 1 }}"}, "chat_template"),
        ({"messages": SUM, "n": 2}, "n:"),
        ({"messages": SUM, "temperature": 3}, "temperature"),
        ({"messages": SUM, "presence_penalty": 1}, "presence_penalty"),
    ],
)
def test_a_field_that_is_not_taken_is_named(body, said):
    model = Model()
    refused = ask(proxy(model), **body)
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]
    assert not model.asked


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "shown"), [(422, 422), (500, 502)])
def test_a_refusal_of_the_model_server_keeps_its_status_and_reason(stream, status, shown):
    refused = ask(proxy(Model(status=status)), stream=stream)
    assert refused.status_code == shown
    assert "max_tokens is too large" in refused.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_that_is_no_json_is_told(stream):
    refused = ask(proxy(Model(broken=True)), stream=stream)
    assert refused.status_code == 502
    assert 'a "quoted" reason' in refused.json()["error"]["message"]


@pytest.mark.parametrize("asked", [{}, {"stream_options": {"include_usage": True}}])
def test_the_usage_of_a_stream_is_asked_for_by_clients(asked):
    model = Model()
    ask(proxy(model), stream=True, **asked)
    assert model.asked[0].get("stream_options") == asked.get("stream_options")


def test_a_stream_that_breaks_off_says_so():
    found = events(ask(proxy(Model(dies=True)), stream=True))
    assert found[-1]["error"]["type"] == "model_error"


def raw(served, messages, sent, at_first=lambda: None):
    """Ask for a stream over plain ASGI: `sent` gets what a client would see, when it would see it."""

    async def asked():
        scope = {
            "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
            "headers": [(b"authorization", f"Bearer {KEY}".encode())], "http_version": "1.1",
            "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "root_path": "",
        }  # fmt: skip
        body = json.dumps({"messages": messages, "stream": True}).encode()
        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if requests:
                return requests.pop()
            await asyncio.Event().wait()

        async def send(event):
            sent.append(event.get("body", b"").decode())
            if "so" in sent[-1]:
                at_first()

        await asyncio.wait_for(served.app()(scope, receive, send), 10)

    return asked


def test_without_a_flag_a_word_is_sent_before_the_next_one_is_written():
    for control in (None, judge(6)):
        sent = []

        async def run(control=control, sent=sent):
            gate = asyncio.Event()
            model = Model("so five", gate)
            await raw(proxy(model, control), SUM, sent, gate.set)()
            assert model.closed

        asyncio.run(run())
        assert "five" in "".join(sent)


@pytest.mark.parametrize("rules", [(6,), (-1,)])
def test_a_flagged_stream_is_held_back_until_it_was_reviewed(rules):
    sent, seen_then = [], []

    def review(request):
        seen_then.append(list(sent))
        return json.dumps({"target_rule": list(rules)})

    asyncio.run(raw(proxy(Model(), RuleModel(review)), BOMB, sent)())
    assert seen_then == [[]]  # nothing was sent when the judge was asked, not even the status
    assert ("so it is 5" in "".join(sent)) == (rules == (-1,))


@pytest.mark.parametrize("stream", [False, True])
def test_a_flagged_and_violating_dialogue_is_retracted(stream):
    seen, notes = [], []
    answered = ask(proxy(Model(), judge(6, 8, seen=seen), note=notes.append), BOMB, stream=stream)
    assert "so it is" not in answered.text
    if stream:
        found = events(answered)
        assert joined(found) == {"reasoning_content": "", "content": RETRACTED["en"]}
        assert found[-1]["choices"][0]["finish_reason"] == "content_filter"
    else:
        choice = answered.json()["choices"][0]
        assert choice["message"] == {"role": "assistant", "content": RETRACTED["en"]}
        assert choice["finish_reason"] == "content_filter"
    (asked,) = seen
    assert "so it is 5" in asked.messages[1].content  # the thinking is shown to clients: it is reviewed too
    assert notes == ["flagged (bomb), retracted by standard 6, 8: because"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_flagged_harmless_dialogue_is_shown(stream):
    answered = ask(proxy(Model(), judge(-1)), BOMB, stream=stream)
    shown = joined(events(answered)) if stream else answered.json()["choices"][0]["message"]
    assert (shown["reasoning_content"], shown["content"]) == ("so it is 5", "<answer> 5 </answer>")


def test_what_is_not_flagged_is_not_reviewed():
    seen = []
    assert ask(proxy(Model(), judge(6, seen=seen))).json()["choices"][0]["message"]["content"]
    assert not seen


def test_an_earlier_turn_flags_the_dialogue():
    turns = [*BOMB, {"role": "assistant", "content": "no"}, {"role": "user", "content": "go on"}]
    assert ask(proxy(Model(), judge(6)), turns).json()["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("broken", [Down(), RuleModel(lambda request: "hm")])
def test_without_a_verdict_nothing_is_shown(broken, stream):
    notes = []
    refused = ask(proxy(Model(), broken, note=notes.append), BOMB, stream=stream)
    assert refused.status_code == 503
    assert refused.json()["error"]["type"] == "risk_control"
    assert "could not be reviewed: the judge gave no verdict" in refused.json()["error"]["message"]
    assert "so it is" not in refused.text
    assert len(notes) == 1
    # What needs no review is answered as before.
    assert ask(proxy(Model(), broken)).status_code == 200
