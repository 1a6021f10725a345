"""Calls beside generation: tokens, model, server, load, abort."""

from __future__ import annotations

from paceline.client import AsyncClient, BatchingMode, Client, Load, ModelInfo, ServerInfo, Tokens
from paceline.v1 import generation_pb2 as pb
from scripted_server import ScriptedServer

MODEL = pb.GetModelInfoResponse(
    name="m", architecture="llama", vocab_size=9, eos_token_ids=[1, 2], has_chat_template=True
)
SERVER = pb.GetServerInfoResponse(
    version="1", mode=pb.BATCHING_MODE_STATIC, versions={"torch": "2"}, features=["echo"]
)
LOAD = pb.GetLoadResponse(time_s=1.5, running=3, output_tokens=2**40, draining=True, row_steps=8)
TOKENS = pb.TokenizeResponse(
    token_ids=[4, 5], tokens=["a", "b"], offsets=[pb.Span(start=0, end=1), pb.Span(start=1, end=2)]
)


def script(server: ScriptedServer) -> None:
    """Gives every query a fixed answer."""
    server.handlers |= {
        "GetModelInfo": lambda request, context: MODEL,
        "GetServerInfo": lambda request, context: SERVER,
        "GetLoad": lambda request, context: LOAD,
        "Tokenize": lambda request, context: TOKENS,
        "Detokenize": lambda request, context: pb.DetokenizeResponse(text="ab"),
        "Abort": lambda request, context: pb.AbortResponse(aborted=len(request.request_ids)),
    }


def check(
    tokens: Tokens, text: str, model: ModelInfo, info: ServerInfo, load: Load, aborted: int
) -> None:
    """The fixed answers as values."""
    assert tokens == Tokens((4, 5), ("a", "b"), ((0, 1), (1, 2)))
    assert text == "ab"
    assert (model.name, model.eos_token_ids, model.has_chat_template) == ("m", (1, 2), True)
    assert (info.mode, info.versions, info.features) == (
        BatchingMode.STATIC,
        {"torch": "2"},
        ("echo",),
    )
    assert (load.time_s, load.output_tokens, load.draining, load.row_steps) == (1.5, 2**40, True, 8)
    assert aborted == 2


def test_sync_queries(server: ScriptedServer) -> None:
    """The blocking client asks and converts each query."""
    script(server)

    with Client(server.target) as client:
        check(
            client.tokenize("ab", add_special_tokens=False, details=True),
            client.detokenize([4, 5]),
            client.model_info(),
            client.server_info(),
            client.load(),
            client.abort(["x", "y"]),
        )

    assert server.calls[0].request == pb.TokenizeRequest(
        text="ab", add_special_tokens=False, details=True
    )
    assert server.calls[1].request == pb.DetokenizeRequest(
        token_ids=[4, 5], skip_special_tokens=True
    )


async def test_async_queries(server: ScriptedServer) -> None:
    """The asyncio client asks and converts each query."""
    script(server)

    async with AsyncClient(server.target) as client:
        check(
            await client.tokenize([{"role": "user", "content": "hi"}]),
            await client.detokenize([4, 5]),
            await client.model_info(),
            await client.server_info(),
            await client.load(),
            await client.abort(["x", "y"]),
        )

    assert server.calls[0].request.chat.messages[0].role == "user"


def test_abort_takes_one_id_or_everything(server: ScriptedServer) -> None:
    """A single id is not taken for a sequence of letters, and `everything` asks for all."""
    script(server)

    with Client(server.target) as client:
        client.abort("abc")
        client.abort(everything=True)

    assert [call.request for call in server.calls] == [
        pb.AbortRequest(request_ids=["abc"]),
        pb.AbortRequest(all=True),
    ]
