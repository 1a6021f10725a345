"""Prompts from the page, sent as calls to our own service: its guards, bounds and tokens hold for them as for all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

from .play import Play, failure

_DEADLINE_S = 600.0  # of a call, whoever forgot the page
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


class Playground:
    """Answers plays over the socket that the service listens on for us. Connects when the first one comes."""

    def __init__(self, socket: Path) -> None:
        self._address = f"unix:{socket}"
        self._channel: grpc.aio.Channel | None = None
        self._tasks: dict[Play, asyncio.Task[None]] = {}

    def begin(self, play: Play) -> None:
        task = self._tasks[play] = asyncio.create_task(self._answer(play))
        # Not in the task itself: one that is cancelled before it began never runs.
        task.add_done_callback(lambda _: self._end(play))

    def cancel(self, play: Play) -> None:
        task = self._tasks.get(play)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Ends what still runs. Idempotent."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    def _end(self, play: Play) -> None:
        del self._tasks[play]
        play.put(b"")

    async def _answer(self, play: Play) -> None:
        try:
            async for message in self._messages(play):
                play.put(_line(message))
        except (json_format.ParseError, UnicodeDecodeError, RecursionError):
            play.put(failure("INVALID_ARGUMENT", "this is no GenerateStreamRequest in JSON"))
        except grpc.aio.AioRpcError as exc:
            play.put(failure(exc.code().name, exc.details() or "", _violations(exc)))

    async def _messages(self, play: Play) -> AsyncIterator[pb.GenerateStreamResponse]:
        # Of a large body not at once, and nobody has looked at its token yet.
        request = await asyncio.to_thread(json_format.Parse, play.body, pb.GenerateStreamRequest())
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._address, _OPTIONS)
        stub: Any = rpc.GenerationServiceStub(self._channel)
        metadata = (("authorization", play.authorization),) if play.authorization else None
        call = stub.GenerateStream(request, timeout=_DEADLINE_S, metadata=metadata)
        try:
            async for message in call:
                yield message
        finally:
            call.cancel()  # what ended is none the worse for it


def _line(message: pb.GenerateStreamResponse) -> bytes:
    values = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(values).encode()


def _violations(error: grpc.aio.AioRpcError) -> list[dict[str, str]]:
    """The bad fields, by the contract's names."""
    found = []
    status = rpc_status.from_call(error)
    for detail in () if status is None else status.details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            found += [
                {"field": each.field, "description": each.description}
                for each in request.field_violations
            ]
    return found
