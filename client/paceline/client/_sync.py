"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from paceline.client import _answers, _requests
from paceline.client._connection import DEFAULT_TARGET, Connection, ConnectionOptions
from paceline.client._each import IN_FLIGHT, Progress, each
from paceline.client._record import StreamRecord
from paceline.client._status import from_rpc_error
from paceline.client.errors import PacelineError
from paceline.client.options import CallOptions, GenerationCallOptions, Item, Prompt
from paceline.client.results import Chunk, Generation, Load, ModelInfo, ServerInfo, Tokens
from paceline.v1 import generation_pb2 as pb
from paceline.v1.generation_pb2_grpc import GenerationServiceStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Stream(StreamRecord):
    """Iterates over the chunks of one generation as they arrive.

    Leaving the loop, `close` or the end of a `with` block cancels what has not arrived yet.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Any) -> None:
        super().__init__()
        self._call = call

    def __iter__(self) -> Iterator[Chunk]:
        try:
            for message in self._call:
                chunk = self._take(message)
                if chunk is not None:
                    yield chunk
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Cancels the call if it still runs; the server stops work at its next step."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Client:
    """A connection to a Paceline server. Safe to share between threads; one per process is enough.

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
        address, options = self._connection.address, self._connection.options()
        if self._connection.secure:
            credentials = self._connection.credentials()
            self._channel = grpc.secure_channel(address, credentials, options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._stub = GenerationServiceStub(self._channel)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection})"

    def generate(self, prompt: Prompt, **options: Unpack[GenerationCallOptions]) -> Generation:
        """The whole answer to `prompt`."""
        request = _requests.generate(prompt, options)
        return _answers.generation(self._call(self._stub.Generate, request, options).result)

    def stream(self, prompt: Prompt, **options: Unpack[GenerationCallOptions]) -> Stream:
        """The answer to `prompt` as it is made; iterate over the result."""
        request = _requests.stream(prompt, options)
        return Stream(self._stub.GenerateStream(request, **self._arguments(options)))

    def batch(
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
            return _answers.batch(self._call(self._stub.GenerateBatch, request, options))

        def start(one: pb.GenerateRequest) -> Any:
            return self._stub.Generate.future(one, **self._arguments(options))

        return _answers.each(each(start, _requests.apart(request), progress, in_flight))

    def tokenize(
        self,
        text: str | Sequence[Mapping[str, str]],
        *,
        add_special_tokens: bool = True,
        details: bool = False,
        **call: Unpack[CallOptions],
    ) -> Tokens:
        """The token ids of a text or a conversation, exactly as `generate` would encode it."""
        request = _requests.tokenize(text, add_special_tokens, details)
        return _answers.tokens(self._call(self._stub.Tokenize, request, call))

    def detokenize(
        self,
        token_ids: Iterable[int],
        *,
        skip_special_tokens: bool = True,
        **call: Unpack[CallOptions],
    ) -> str:
        """The text of token ids."""
        request = _requests.detokenize(token_ids, skip_special_tokens)
        return self._call(self._stub.Detokenize, request, call).text

    def model_info(self, **call: Unpack[CallOptions]) -> ModelInfo:
        """The served model and its limits."""
        request = pb.GetModelInfoRequest()
        return _answers.model_info(self._call(self._stub.GetModelInfo, request, call))

    def server_info(self, **call: Unpack[CallOptions]) -> ServerInfo:
        """How the model is served."""
        request = pb.GetServerInfoRequest()
        return _answers.server_info(self._call(self._stub.GetServerInfo, request, call))

    def load(self, **call: Unpack[CallOptions]) -> Load:
        """What the engine does now. Cheap enough to ask several times a second."""
        return _answers.load(self._call(self._stub.GetLoad, pb.GetLoadRequest(), call))

    def abort(
        self,
        request_ids: str | Iterable[str] = (),
        *,
        everything: bool = False,
        **call: Unpack[CallOptions],
    ) -> int:
        """Stops requests by id, or all; says how many were found. Unknown ids are no error."""
        request = _requests.abort(request_ids, everything)
        return self._call(self._stub.Abort, request, call).aborted

    def close(self) -> None:
        """Ends the connection and cancels what still runs on it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        call: Mapping[str, Any],
    ) -> ResponseT:
        try:
            return method(request, **self._arguments(call))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _arguments(self, call: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "timeout": self._connection.deadline_s(call),
            "metadata": self._connection.metadata(),
        }
