"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc
import grpc.aio

from paceline.client import _answers, _requests
from paceline.client._connection import DEFAULT_TARGET, Connection, ConnectionOptions
from paceline.client._each import IN_FLIGHT, Progress, each_async
from paceline.client._record import StreamRecord
from paceline.client._status import from_rpc_error
from paceline.client.errors import Cancelled, PacelineError
from paceline.client.options import CallOptions, GenerationCallOptions, Item, Prompt
from paceline.client.results import Chunk, Generation, Load, ModelInfo, ServerInfo, Tokens
from paceline.v1 import generation_pb2 as pb
from paceline.v1.generation_pb2_grpc import GenerationServiceStub

if TYPE_CHECKING:
    from paceline.v1.generation_pb2_grpc import GenerationServiceAsyncStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class AsyncStream(StreamRecord):
    """Iterates over the chunks of one generation as they arrive.

    Leaving the loop, `aclose` or the end of an `async with` block cancels what has not arrived yet.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Any) -> None:
        super().__init__()
        self._call = call

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            with _translated_errors():
                async for message in self._call:
                    chunk = self._take(message)
                    if chunk is not None:
                        yield chunk
        finally:
            self._call.cancel()

    async def aclose(self) -> None:
        """Cancels the call if it still runs; the server stops work at its next step."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncClient:
    """A connection to a Paceline server, made at the first call and bound to that call's event loop.

    `target` is "host:port", a gRPC name such as "dns:///service:50051" or "ipv4:10.0.0.1:50051,10.0.0.2:50051", or a
    list of "ip:port". Several addresses are used in turn; those whose health says NOT_SERVING are passed over.
    Every call raises a `PacelineError` when it fails.
    """

    def __init__(
        self,
        target: str | Sequence[str] = DEFAULT_TARGET,
        **connection: Unpack[ConnectionOptions],
    ) -> None:
        self._connection = Connection(target=target, **connection)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection})"

    async def generate(
        self, prompt: Prompt, **options: Unpack[GenerationCallOptions]
    ) -> Generation:
        """The whole answer to `prompt`."""
        request = _requests.generate(prompt, options)
        return _answers.generation((await self._call(self._stub.Generate, request, options)).result)

    def stream(self, prompt: Prompt, **options: Unpack[GenerationCallOptions]) -> AsyncStream:
        """The answer to `prompt` as it is made; iterate over the result."""
        request = _requests.stream(prompt, options)
        return AsyncStream(self._stub.GenerateStream(request, **self._arguments(options)))

    async def batch(
        self,
        prompts: Iterable[Prompt | Item],
        *,
        progress: Progress | None = None,
        in_flight: int = IN_FLIGHT,
        **options: Unpack[GenerationCallOptions],
    ) -> list[Generation | PacelineError]:
        """Answers in the order of `prompts`; an item that failed gives its error instead of raising it.

        All go in one message of at most 1,024, unless there is `progress`: then each prompt is a call with a deadline
        of its own, `in_flight` at a time, and `progress(done, total)` is called after each.
        """
        request = _requests.batch(prompts, options)
        if progress is None:
            return _answers.batch(await self._call(self._stub.GenerateBatch, request, options))

        async def call(one: pb.GenerateRequest) -> pb.GenerateResponse:
            return await self._call(self._stub.Generate, one, options)

        requests = _requests.apart(request)
        return _answers.each(await each_async(call, requests, progress, in_flight))

    async def tokenize(
        self,
        text: str | Sequence[Mapping[str, str]],
        *,
        add_special_tokens: bool = True,
        details: bool = False,
        **call: Unpack[CallOptions],
    ) -> Tokens:
        """The token ids of a text or a conversation, exactly as `generate` would encode it."""
        request = _requests.tokenize(text, add_special_tokens, details)
        return _answers.tokens(await self._call(self._stub.Tokenize, request, call))

    async def detokenize(
        self,
        token_ids: Iterable[int],
        *,
        skip_special_tokens: bool = True,
        **call: Unpack[CallOptions],
    ) -> str:
        """The text of token ids."""
        request = _requests.detokenize(token_ids, skip_special_tokens)
        return (await self._call(self._stub.Detokenize, request, call)).text

    async def model_info(self, **call: Unpack[CallOptions]) -> ModelInfo:
        """The served model and its limits."""
        request = pb.GetModelInfoRequest()
        return _answers.model_info(await self._call(self._stub.GetModelInfo, request, call))

    async def server_info(self, **call: Unpack[CallOptions]) -> ServerInfo:
        """How the model is served."""
        request = pb.GetServerInfoRequest()
        return _answers.server_info(await self._call(self._stub.GetServerInfo, request, call))

    async def load(self, **call: Unpack[CallOptions]) -> Load:
        """What the engine does now. Cheap enough to ask several times a second."""
        return _answers.load(await self._call(self._stub.GetLoad, pb.GetLoadRequest(), call))

    async def abort(
        self,
        request_ids: str | Iterable[str] = (),
        *,
        everything: bool = False,
        **call: Unpack[CallOptions],
    ) -> int:
        """Stops requests by id, or all; says how many were found. Unknown ids are no error."""
        request = _requests.abort(request_ids, everything)
        return (await self._call(self._stub.Abort, request, call)).aborted

    async def aclose(self) -> None:
        """Ends the connection and cancels what still runs on it."""
        if "_channel" in vars(self):
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        address, options = self._connection.address, self._connection.options()
        if self._connection.secure:
            return grpc.aio.secure_channel(address, self._connection.credentials(), options)
        return grpc.aio.insecure_channel(address, options)

    @cached_property
    def _stub(self) -> GenerationServiceAsyncStub:
        return GenerationServiceStub(self._channel)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        call: Mapping[str, Any],
    ) -> ResponseT:
        with _translated_errors():
            return await method(request, **self._arguments(call))

    def _arguments(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "timeout": self._connection.deadline_s(call),
            "metadata": self._connection.metadata(),
        }


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Turns gRPC's errors into the client's; a cancelled task stays a cancelled task."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Cancelled("cancelled by this client") from error
