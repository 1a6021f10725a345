"""What a hostile peer of the port meets: bounds on everything it can send, and no text of our own errors."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mock_serving import WAIT_S, Served, generation, serving
from paceline.server.frontend import Frontend
from paceline.server.rpc import REQUESTS, SERVICE
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
SETTINGS, PING, GOAWAY = 4, 6, 7
ENHANCE_YOUR_CALM = 11


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return caught.value


class Http2:
    """A bare connection that speaks frames."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, b"")

    def send(self, kind: int, payload: bytes) -> None:
        header = len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4)
        self._socket.sendall(header + payload)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Kind and payload of what comes, to the end of the connection."""
        while header := self._file.read(9):
            yield header[3], self._file.read(int.from_bytes(header[:3], "big"))

    def goaway(self) -> list[tuple[int, bytes]]:
        """Why the connection ends, as often as the server said it: code and text."""
        payloads = [payload for kind, payload in self.frames() if kind == GOAWAY]
        return [(int.from_bytes(payload[4:8], "big"), payload[8:]) for payload in payloads]

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture
def raw(served: Served) -> Iterator[Http2]:
    connection = Http2(served.app.port)
    yield connection
    connection.close()


async def test_a_connection_is_told_its_bounds(raw: Http2) -> None:
    """The server's first frame bounds streams and headers."""

    def settings() -> dict[int, int]:
        payload = next(payload for kind, payload in raw.frames() if kind == SETTINGS)
        return dict(struct.iter_unpack("!HI", payload))

    found = await asyncio.to_thread(settings)
    assert found[3] == 4096  # MAX_CONCURRENT_STREAMS
    assert found[6] == 8192  # MAX_HEADER_LIST_SIZE


async def test_a_flood_of_pings_is_cut_off(raw: Http2) -> None:
    """Who pings more often than allowed is told so, and the connection ends."""

    def flood() -> list[tuple[int, bytes]]:
        for _ in range(4):  # two strikes more than a ping may be early
            raw.send(PING, bytes(8))
        return raw.goaway()

    assert (ENHANCE_YOUR_CALM, b"too_many_pings") in await asyncio.to_thread(flood)


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
@pytest.mark.parametrize("method", ["Generate", "GenerateStream", "GenerateBatch", "Tokenize"])
async def test_messages_over_4_mib_are_refused(
    served: Served, method: str, compression: grpc.Compression | None
) -> None:
    """One byte too much is RESOURCE_EXHAUSTED on every path, also where it only unpacks to that; 4 MiB are read."""
    url, most = f"/{SERVICE}/{method}", 4 * 1024 * 1024
    channel = served.channel
    make = channel.unary_stream if method == "GenerateStream" else channel.unary_unary
    call: Any = make(url)
    over = await failure(call(b"\x00" * (most + 1), compression=compression))
    assert over.code() is EXHAUSTED
    assert "larger than max" in (over.details() or "")
    full = await failure(call(b"\x00" * most, compression=compression))
    assert full.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_metadata_over_8_kib_is_refused(served: Served) -> None:
    """Headers are bounded; the next call on the connection is answered."""
    big = [("x-padding", "x" * 9000)]
    error = await failure(served.stub.GetLoad(pb.GetLoadRequest(), metadata=big))
    assert error.code() is EXHAUSTED
    await served.load()


@pytest.mark.parametrize("method", sorted(REQUESTS))
async def test_no_error_text_of_ours_reaches_the_wire(
    served: Served, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in any method is INTERNAL with a fixed text and the id under which the log has the rest."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("the secret of /etc/passwd")

    monkeypatch.setattr(served.app._listener._service, "_frontend", Broken())
    monkeypatch.setattr(served.app._listener._service, "_info", Broken())
    fields: dict[str, Any] = {}
    if "Generate" in method:
        fields = {"generation": generation()}
    if method == "GenerateBatch":
        fields = {"generations": [generation()]}
    call = getattr(served.stub, method)(REQUESTS[method](**fields))
    if method == "GenerateBatch":
        (item,) = (await call).items
        code, text = item.error.code, item.error.message
    else:
        error = await failure(call)
        code, text = error.code().value[0], error.details() or ""
    assert code == grpc.StatusCode.INTERNAL.value[0]
    kind, _, error_id = text.rpartition(" ")
    assert kind == "internal error" and len(error_id) == 12
    logged = [r for r in caplog.records if f"error_id={error_id}" in r.getMessage()]
    assert len(logged) == 1 and logged[0].exc_info is not None


async def test_a_templates_own_words_alone_reach_the_caller(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a chat template says on purpose is told; how it failed otherwise is not."""
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="x")])
    tokenizer = _frontend(served).tokenizer

    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("the secret of /etc/passwd")

    monkeypatch.setattr(tokenizer._inner, "apply_chat_template", broken)
    error = await failure(served.stub.Tokenize(pb.TokenizeRequest(chat=chat)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "chat.messages: the model's chat template cannot render this"


@pytest.mark.parametrize("offered", [True, False])
async def test_reflection_can_be_switched_off(tokenizer: Tokenizer, offered: bool) -> None:
    """Then the service is not there at all, and nothing else is missing."""
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    async with serving(tokenizer, reflection=offered) as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        call = stub.ServerReflectionInfo(iter([question]))
        if offered:
            names = {each.name for each in (await call.read()).list_services_response.service}
            assert SERVICE in names
        else:
            assert (await failure(call)).code() is grpc.StatusCode.UNIMPLEMENTED
        await served.load()


async def test_a_connection_is_asked_to_come_again(tokenizer: Tokenizer) -> None:
    """At the age that was set a connection gets GOAWAY, and a call that runs past the grace ends."""
    async with serving(tokenizer, max_connection_age_s=1, max_connection_age_grace_s=0) as served:
        raw = Http2(served.app.port)
        texts = [text for _, text in await asyncio.to_thread(raw.goaway)]
        raw.close()
    assert texts and all(text.startswith(b"max") for text in texts), texts


def _frontend(served: Served) -> Frontend:
    found = served.app._frontend
    assert found is not None
    return found
