"""OpenAI's API as its official client sees it, on a real server of a model without weights."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from mock_serving import Gate, Served, serving
from openai_serving import HELLO, client_of, saying_abc
from paceline.server import http_extra
from paceline.server.errors import SetupError, Unavailable
from paceline.server.mock import MockRunner
from paceline.server.openai_api import connection, silence
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

JSON = {"content-type": "application/json"}
WHOLE = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
UNREAD = b"POST /v1/models HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc"
SECRET = {"authorization": "Bearer secret"}


@pytest.fixture
async def door(tokenizer: Tokenizer) -> AsyncIterator[tuple[Served, AsyncOpenAI]]:
    async with saying_abc(tokenizer) as both:
        yield both


async def test_whole_answers(door: tuple[Served, AsyncOpenAI]) -> None:
    """Text, chat, choices, several prompts, finish reasons, usage and the list of models."""
    _, client = door
    (model,) = (await client.models.list()).data
    assert model.id == "mock"
    done = await client.completions.create(model="mock", prompt="Hello", max_tokens=5, echo=True)
    assert done.choices[0].text == "Helloabcab"
    assert (done.choices[0].finish_reason, done.object) == ("length", "text_completion")
    assert done.id == f"cmpl-{done._request_id}"
    usage = done.usage
    assert usage is not None and usage.total_tokens == usage.prompt_tokens + 5
    both = await client.completions.create(model="mock", prompt=["a", "b"], n=2, max_tokens=1)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.usage is not None and both.usage.completion_tokens == 4
    chat = await client.chat.completions.create(
        model="mock", messages=HELLO, stop="c", max_completion_tokens=9, n=2
    )
    assert [choice.message.content for choice in chat.choices] == ["ab", "ab"]
    assert [choice.finish_reason for choice in chat.choices] == ["stop", "stop"]
    assert chat.choices[0].message.role == "assistant"
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    same = await client.chat.completions.create(model="mock", messages=parts, max_tokens=1)
    assert same.usage is not None and chat.usage is not None
    assert same.usage.prompt_tokens == chat.usage.prompt_tokens


async def test_streams(door: tuple[Served, AsyncOpenAI]) -> None:
    """Events join to the same text; usage comes last if asked for, and in each event by vLLM's option."""
    _, client = door
    stream = await client.chat.completions.create(
        model="mock",
        messages=HELLO,
        max_tokens=7,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    for index in (0, 1):
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in mine) == "abcabca"
        assert [choice.finish_reason for choice in mine if choice.finish_reason] == ["length"]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 14
    assert all(chunk.usage is None for chunk in chunks[:-1])
    counting: Any = {"include_usage": True, "continuous_usage_stats": True}
    plain = await client.completions.create(
        model="mock", prompt="a", max_tokens=3, stream=True, stream_options=counting
    )
    events = [event async for event in plain]
    assert "".join(e.choices[0].text for e in events if e.choices) == "abc"
    counts = [event.usage.completion_tokens for event in events if event.usage]
    assert len(counts) == len(events) and counts == sorted(counts) and counts[-1] == 3


async def test_log_probabilities(door: tuple[Served, AsyncOpenAI]) -> None:
    """In the lists of the old endpoint, the prompt's with its echo, and in the objects of the new one."""
    _, client = door
    old = await client.completions.create(
        model="mock", prompt="xy", echo=True, logprobs=2, max_tokens=2
    )
    found = old.choices[0].logprobs
    assert found is not None and found.tokens is not None
    assert "".join(found.tokens) == old.choices[0].text == "xyab"
    assert found.text_offset == [0, 1, 2, 3]
    assert found.token_logprobs == [None, -0.5, -0.5, -0.5]
    assert found.top_logprobs is not None and len(found.top_logprobs[3]) == 3
    several = await client.completions.create(
        model="mock", prompt=["xy", "zy"], echo=True, logprobs=0, max_tokens=1
    )
    for choice, text in zip(several.choices, ("xya", "zya"), strict=True):
        assert choice.logprobs is not None and "".join(choice.logprobs.tokens or ()) == text
    new = await client.chat.completions.create(
        model="mock", messages=HELLO, logprobs=True, top_logprobs=2, max_tokens=1
    )
    logprobs = new.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    (entry,) = logprobs.content
    assert (entry.token, entry.logprob, entry.bytes) == ("a", -0.5, [97])
    assert [each.logprob for each in entry.top_logprobs] == [-1.0, -2.0]


async def test_other_errors_are_the_clients_own(door: tuple[Served, AsyncOpenAI]) -> None:
    """A model, a path or a method that is not there, no JSON, a type of body, a deadline, too much of it; all count."""
    served, client = door
    with pytest.raises(openai.NotFoundError) as caught:
        await client.completions.create(model="gpt-5", prompt="a")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="mock", input="a")
    http = client._client
    url = f"{client.base_url}completions"
    assert (await http.get(url)).status_code == 405
    assert (await http.post(url, content=b'{"prompt": "a"}')).status_code == 415
    for body in (b"{", b"[]", b'{"temperature": NaN}', b"\xff", b'{"prompt": "\\ud800"}'):
        answer = await http.post(url, content=body, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["param"]) in ((400, "body"), (400, None))
    answer = await http.post(url, content=b" " * (4 << 20) + b"{}", headers=JSON)
    assert answer.status_code == 413
    late = {"X-Request-Timeout": "0.001"}
    with pytest.raises(openai.InternalServerError) as ended:
        await client.completions.create(
            model="mock", prompt="a", max_tokens=2000, extra_headers=late
        )
    assert ended.value.status_code == 504
    assert served.app._console.metrics.tally.refused == {"invalid": 10}


async def test_only_this_machines_names_are_answered(door: tuple[Served, AsyncOpenAI]) -> None:
    """A page whose site's name points to this machine gets nothing, health included."""
    _, client = door
    http, root = client._client, str(client.base_url).removesuffix("v1/")
    for path in ("v1/models", "health", "nothing"):
        answer = await http.get(root + path, headers={"host": "evil.example:8000"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (421, None)
    for name in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8000"):
        assert (await http.get(f"{root}health", headers={"host": name})).status_code == 200


async def test_who_asks_nothing_is_let_go(
    door: tuple[Served, AsyncOpenAI], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a request, in its head, after an answer, and in a body that nobody reads."""
    monkeypatch.setattr(silence, "_HEAD_S", 1)
    served, _ = door

    async def answer_to(said: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.app.http_port)
        writer.write(said)
        async with asyncio.timeout(60):
            told = await reader.read()
        writer.close()
        return told.partition(b"\r\n")[0]

    said = (b"", b"GET /health HT", WHOLE, WHOLE + b"GET /", UNREAD)
    told = await asyncio.gather(*map(answer_to, said))
    ok = b"HTTP/1.1 200 OK"
    assert told == [b"", b"", ok, ok, b"HTTP/1.1 405 Method Not Allowed"]


async def test_a_full_queue_is_429_and_a_draining_server_503(tokenizer: Tokenizer) -> None:
    """Both say when to come back; health tells which; what runs is finished."""
    gate = Gate(steps=1)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    settings = {"max_batch_size": 1, "max_queue_requests": 1, "http_port": 0}
    async with serving(tokenizer, runner, **settings) as served, client_of(served) as client:

        def ask() -> Any:
            return client.completions.create(model="mock", prompt="a", max_tokens=2)

        stream = await client.completions.create(
            model="mock", prompt="a", max_tokens=2, stream=True
        )
        waiting = asyncio.create_task(ask())
        await served.until(lambda load: len(served.in_flight) == 2)
        with pytest.raises(openai.RateLimitError) as full:
            await ask()
        assert int(full.value.response.headers["retry-after"]) >= 1
        assert full.value.code == "rate_limit_exceeded"
        health = str(client.base_url).replace("/v1/", "/health")
        assert (await client._client.get(health)).status_code == 200
        await served.app.announce()
        await served.app.refuse()
        assert (await client._client.get(health)).status_code == 503
        with pytest.raises(openai.InternalServerError) as draining:
            await ask()
        assert draining.value.status_code == 503
        assert draining.value.response.headers["retry-after"]
        gate.open()
        assert len([event async for event in stream]) >= 1
        assert (await waiting).choices[0].finish_reason == "length"
        assert await served.app.finished(10)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_its_request(tokenizer: Tokenizer, stream: bool) -> None:
    """Its rows and pages are free at once, whether or not it had read anything."""
    gate = Gate(steps=3)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner, http_port=0) as served, client_of(served) as client:
        asking = asyncio.create_task(
            client.completions.create(model="mock", prompt="a", max_tokens=2000, stream=stream)
        )
        if stream:
            events: Any = await asking
            await anext(aiter(events))
            await events.close()
        else:
            await served.until(lambda load: load.running == 1)
            asking.cancel()
            await asyncio.wait([asking])
        assert served.app._hub is not None
        streams = served.app._hub._streams.values()
        await served.until(lambda load: all(stream.closed for stream in streams))
        gate.open()
        load = await served.idle()
        assert load.output_tokens < 2000


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_reads_nothing_ends_its_request(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """As one that left: the server waits for it no longer than for a bound."""
    monkeypatch.setattr(connection, "_SEND_S", 0.05)
    sent: list[Any] = []
    full, never = asyncio.Event(), asyncio.Event()

    async def receive() -> Any:
        if full.is_set():
            await never.wait()
        full.set()
        return {"type": "http.request", "body": b'{"prompt": "a", %b}' % wanted}

    async def send(message: Any) -> None:
        if sent:
            await never.wait()
        sent.append(message)

    wanted = b'"max_tokens": 2000, "stream": true' if stream else b'"max_tokens": 1'
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    gate = Gate(steps=50)  # the rest would be made after the answer is given up
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner, http_port=0) as served, asyncio.timeout(60):
        door = served.app._listener._http
        assert door is not None
        application: Any = door._server.config.app
        await application(scope, receive, send)
        assert served.app._hub is not None
        streams = served.app._hub._streams.values()
        await served.until(lambda load: all(stream.closed for stream in streams))
        gate.open()
        load = await served.idle()
    assert len(sent) == 1 and load.output_tokens < 2000


async def test_an_error_in_a_stream_is_an_event(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails after the first event is told in the stream, and the client raises it."""
    gate = Gate(steps=2)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner, http_port=0) as served, client_of(served) as client:
        stream = await client.completions.create(
            model="mock", prompt="a", max_tokens=20, stream=True
        )
        events = aiter(stream)
        await anext(events)
        assert served.app._hub is not None
        served.app._hub.fail_all(Unavailable("the engine is restarting"))
        with pytest.raises(openai.APIError, match="the engine is restarting"):
            async for _ in events:
                pass
        gate.open()


async def test_tokens_are_those_of_grpc(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Nothing but health answers without one; the limits of a token count for both doors together."""
    path = tmp_path / "tokens"
    digest = hashlib.sha256(b"secret").hexdigest()
    path.write_text(f"alice:{digest} rate=0.001 concurrency=2\n")
    async with (
        serving(tokenizer, tokens=str(path), http_port=0) as served,
        client_of(served, "wrong") as stranger,
        client_of(served, "secret") as alice,
    ):
        for call in (
            stranger.models.list(),
            stranger.completions.create(model="mock", prompt="a"),
            stranger.post("/nothing", body={}, cast_to=object),
        ):
            with pytest.raises(openai.AuthenticationError) as refused:
                await call
            assert refused.value.code == "invalid_api_key"
        health = str(alice.base_url).replace("/v1/", "/health")
        assert (await alice._client.get(health)).status_code == 200
        with pytest.raises(openai.BadRequestError) as never:
            await alice.completions.create(model="mock", prompt="a", n=3)
        assert never.value.param == "n"
        request = pb.GenerateRequest(generation=pb.Generation(text="a"))
        metadata = [("authorization", "Bearer secret")]
        await served.stub.Generate(request, metadata=metadata)
        with pytest.raises(openai.RateLimitError) as limited:
            await alice.completions.create(model="mock", prompt="a")
        assert int(limited.value.response.headers["retry-after"]) > 900
        unread = await alice._client.post(
            f"{alice.base_url}completions", content=b"{", headers=JSON | SECRET
        )
        assert unread.status_code == 429


def test_a_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setattr(http_extra, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"needs the extra `http`: pip install 'paceline\[http\]'"):
        http_extra.check()
