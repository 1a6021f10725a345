"""Statuses become exceptions with what the server said, and gRPC retries what may be retried."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest

from paceline import client as api
from paceline.client import AsyncClient, Client, PacelineError, Violation
from scripted_server import ScriptedServer, answer, bad_request, fail, retry_info

CODES = [
    (grpc.StatusCode.INVALID_ARGUMENT, api.InvalidRequest),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, api.QueueFull),
    (grpc.StatusCode.UNAVAILABLE, api.Unavailable),
    (grpc.StatusCode.DEADLINE_EXCEEDED, api.DeadlineExceeded),
    (grpc.StatusCode.CANCELLED, api.Cancelled),
    (grpc.StatusCode.ABORTED, api.Aborted),
    (grpc.StatusCode.FAILED_PRECONDITION, api.FeatureUnavailable),
    (grpc.StatusCode.UNIMPLEMENTED, api.FeatureUnavailable),
    (grpc.StatusCode.UNAUTHENTICATED, api.Unauthenticated),
    (grpc.StatusCode.INTERNAL, api.ServerError),
    (grpc.StatusCode.NOT_FOUND, api.ServerError),
]


@pytest.mark.parametrize(("code", "kind"), CODES, ids=lambda each: getattr(each, "name", ""))
class TestMapping:
    def test_sync(
        self, server: ScriptedServer, code: grpc.StatusCode, kind: type[PacelineError]
    ) -> None:
        """Each status has one class, which keeps the status' name and the server's words."""
        server.handlers["Generate"] = lambda request, context: fail(context, code, "words")

        with Client(server.target, attempts=1) as client, pytest.raises(PacelineError) as caught:
            client.generate("x")

        assert type(caught.value) is kind
        assert (caught.value.code, str(caught.value)) == (code.name, "words")

    async def test_async_stream(
        self, server: ScriptedServer, code: grpc.StatusCode, kind: type[PacelineError]
    ) -> None:
        """A stream of the asyncio client raises the same classes."""

        def handler(request: object, context: grpc.ServicerContext) -> Any:
            fail(context, code, "words")
            yield

        server.handlers["GenerateStream"] = handler

        async with AsyncClient(server.target, attempts=1) as client:
            with pytest.raises(PacelineError) as caught:
                async for _chunk in client.stream("x"):
                    pass

        assert type(caught.value) is kind


class TestDetails:
    def test_bad_fields_are_named(self, server: ScriptedServer) -> None:
        """BadRequest details become violations."""
        detail = bad_request("generation.sampling.top_p", "is 1.5")
        server.handlers["Generate"] = lambda request, context: fail(
            context, grpc.StatusCode.INVALID_ARGUMENT, "top_p", detail
        )

        with Client(server.target) as client, pytest.raises(api.InvalidRequest) as caught:
            client.generate("x")

        assert caught.value.violations == (Violation("generation.sampling.top_p", "is 1.5"),)

    @pytest.mark.parametrize(
        ("details", "pushback_ms", "expected"),
        [([retry_info(2.5)], None, 2.5), ([], 700, 0.7), ([], -1, None), ([], None, None)],
    )
    def test_advice_on_when_to_come_back(
        self,
        server: ScriptedServer,
        details: list[Any],
        pushback_ms: int | None,
        expected: float | None,
    ) -> None:
        """`retry_after_s` is RetryInfo's delay, else the pushback trailer's, else None."""
        server.handlers["Generate"] = lambda request, context: fail(
            context,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "full",
            *details,
            pushback_ms=pushback_ms,
        )

        with Client(server.target, attempts=1) as client, pytest.raises(api.QueueFull) as caught:
            client.generate("x")

        assert caught.value.retry_after_s == expected

    def test_details_that_contradict_the_status_are_left_out(self, server: ScriptedServer) -> None:
        """A proxy that rewrote the status does not hide it behind a ValueError."""

        def handler(request: object, context: grpc.ServicerContext) -> Any:
            context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x03\x12\x01x"),))
            context.abort(grpc.StatusCode.INTERNAL, "rewritten")

        server.handlers["Generate"] = handler

        with Client(server.target) as client, pytest.raises(api.ServerError, match="rewritten"):
            client.generate("x")

    def test_a_message_over_the_limit_is_told_from_a_full_queue(
        self, server: ScriptedServer
    ) -> None:
        """gRPC uses one status for both; the client does not."""
        server.handlers["Generate"] = lambda request, context: answer("x" * 2000)
        limit = [("grpc.max_receive_message_length", 1000)]

        with (
            Client(server.target, channel_options=limit) as client,
            pytest.raises(api.MessageTooLarge),
        ):
            client.generate("x")

    def test_errors_survive_pickling(self) -> None:
        """An error can cross a process border whole."""
        error = api.QueueFull("full", retry_after_s=2.0, violations=(Violation("a", "b"),))

        copy = pickle.loads(pickle.dumps(error))

        assert (type(copy), str(copy)) == (api.QueueFull, "full")
        assert (copy.retry_after_s, copy.violations) == (2.0, (Violation("a", "b"),))


class TestRetries:
    @pytest.mark.parametrize(
        "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    )
    def test_a_passing_refusal_is_not_seen(
        self, server: ScriptedServer, code: grpc.StatusCode
    ) -> None:
        """gRPC tries again after the server's pushback, and the caller gets the answer."""

        def handler(request: object, context: grpc.ServicerContext) -> Any:
            if len(server.calls) < 3:
                fail(context, code, "busy", pushback_ms=1)
            return answer("at last")

        server.handlers["Generate"] = handler

        with Client(server.target) as client:
            assert client.generate("x").text == "at last"

        attempts = [call.metadata.get("grpc-previous-rpc-attempts") for call in server.calls]
        assert attempts == [None, "1", "2"]

    async def test_a_stream_is_retried_before_its_first_message(
        self, server: ScriptedServer
    ) -> None:
        """The asyncio client's streams are retried like any call."""

        def handler(request: object, context: grpc.ServicerContext) -> Any:
            if len(server.calls) < 2:
                fail(context, grpc.StatusCode.UNAVAILABLE, "busy", pushback_ms=1)
            yield from ()

        server.handlers["GenerateStream"] = handler

        async with AsyncClient(server.target) as client:
            chunks = [chunk async for chunk in client.stream("x")]

        assert chunks == []
        assert len(server.calls) == 2

    @pytest.mark.parametrize(("attempts", "expected"), [(1, 1), (3, 3), (4, 4)])
    def test_attempts_are_bounded(
        self, server: ScriptedServer, attempts: int, expected: int
    ) -> None:
        """A server that goes on refusing is asked `attempts` times, no more."""
        server.handlers["Generate"] = lambda request, context: fail(
            context, grpc.StatusCode.UNAVAILABLE, "busy", pushback_ms=1
        )

        with (
            Client(server.target, attempts=attempts) as client,
            pytest.raises(api.Unavailable, match="busy"),
        ):
            client.generate("x")

        assert len(server.calls) == expected

    def test_a_negative_pushback_means_do_not_retry(self, server: ScriptedServer) -> None:
        """The server can forbid retries."""
        server.handlers["Generate"] = lambda request, context: fail(
            context, grpc.StatusCode.UNAVAILABLE, "gone", pushback_ms=-1
        )

        with Client(server.target) as client, pytest.raises(api.Unavailable):
            client.generate("x")

        assert len(server.calls) == 1

    def test_the_servers_pushback_wins_over_the_backoff(self, server: ScriptedServer) -> None:
        """Told to wait a minute, the client does not ask again within its deadline."""
        server.handlers["Generate"] = lambda request, context: fail(
            context, grpc.StatusCode.UNAVAILABLE, "busy", pushback_ms=60_000
        )

        with Client(server.target, timeout_s=1) as client, pytest.raises(PacelineError):
            client.generate("x")

        assert len(server.calls) == 1

    def test_what_cannot_help_is_not_retried(self, server: ScriptedServer) -> None:
        """A bad request is sent once."""
        server.handlers["Generate"] = lambda request, context: fail(
            context, grpc.StatusCode.INVALID_ARGUMENT, "bad"
        )

        with Client(server.target) as client, pytest.raises(api.InvalidRequest):
            client.generate("x")

        assert len(server.calls) == 1

    def test_no_server_there(self) -> None:
        """A refused connection is Unavailable, not a gRPC exception."""
        with (
            Client("127.0.0.1:1", attempts=1) as client,
            pytest.raises(api.Unavailable) as caught,
        ):
            client.load()

        assert isinstance(caught.value.__cause__, grpc.RpcError)
