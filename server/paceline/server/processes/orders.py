"""What the supervisor and its children tell each other, over one pipe for each child."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any, Generic, TypeVar

import msgspec

from ..facts import Facts
from ..request import Load
from ..tally import Tally

TOKENIZER = "tokenizer"  # the folder in the server's own one that front ends load theirs from


def record_name(generation: int) -> str:
    """In the server's folder: the flight record of an engine."""
    return f"flight-{generation}"


class StartEngine(msgspec.Struct, tag=True):
    """The first message to an engine. `loader` is `module:function`."""

    config: dict[str, Any]
    loader: str
    folder: str
    generation: int = 1  # how many engines this server has started, this one included
    deaths: dict[bytes, int] = {}  # of engines before it, by the fingerprint of what they computed


class FrontendGone(msgspec.Struct, tag=True):
    serial: int


class Suspected(msgspec.Struct, tag=True):
    """How many engines in a row have died computing these, by fingerprint; 0: another has computed it to its end."""

    deaths: dict[bytes, int]


class Refuse(msgspec.Struct, tag=True):
    """Takes no new requests from now on; answered with Done."""

    call: int


class AwaitIdle(msgspec.Struct, tag=True):
    """Answered with Done: of the engine, when nothing runs; of a front end, when no call is open."""

    call: int
    timeout_s: float


class Stop(msgspec.Struct, tag=True):
    """Ends what runs with ABORTED; answered with Done."""

    call: int


class Close(msgspec.Struct, tag=True):
    """The last message: ends the process."""


class StartFrontend(msgspec.Struct, tag=True):
    """The first message to a front end, answered with Listening. `serial` was never used before."""

    config: dict[str, Any]
    port: int
    folder: str
    serial: int
    http_port: int | None = None


class Open(msgspec.Struct, tag=True):
    """An engine is warm, the first or a later one: serve. Answered with Serving."""

    facts: Facts
    generation: int
    replica: int = 0


class Leave(msgspec.Struct, tag=True):
    """Health says NOT_SERVING from now on; answered with Done."""

    call: int


class EngineGone(msgspec.Struct, tag=True):
    """The engine died: what it computed ends with UNAVAILABLE, the rest waits for the next one.

    `first` are the first slots of this front end's requests that were on board.
    """

    first: list[int]
    back_in_s: float
    replica: int = 0


class Perform(msgspec.Struct, tag=True):
    """A prompt of the playground; answered with Performed, line by line. See `Play`."""

    call: int
    body: bytes
    authorization: str


class CancelPlay(msgspec.Struct, tag=True):
    """Nobody waits for the answer to this `call` any more."""

    call: int


class Ready(msgspec.Struct, tag=True):
    """The engine is warm."""

    facts: Facts


class LoadNow(msgspec.Struct, tag=True):
    """What the engine is doing, several times a second."""

    load: Load


class Cleared(msgspec.Struct, tag=True):
    """The engine computed a suspect to its end."""

    fingerprint: bytes


class Claim(msgspec.Struct, tag=True):
    """A front end wants an id for a request of its own, where there are several engines; answered with Claimed."""

    call: int
    request_id: str


class Claimed(msgspec.Struct, tag=True):
    """The answer to a Claim with this `call`; not `ok`: a request of that id is in flight."""

    call: int
    ok: bool


class Release(msgspec.Struct, tag=True):
    """The request of this id is over."""

    request_id: str


class Listening(msgspec.Struct, tag=True):
    """A front end has the port, and health says NOT_SERVING."""


class Serving(msgspec.Struct, tag=True):
    """A front end answers requests."""


class Observed(msgspec.Struct, tag=True):
    """What a front end counted since the last time."""

    tally: Tally


class Performed(msgspec.Struct, tag=True):
    """A line of a playground's answer; empty: its end."""

    call: int
    line: bytes


class Done(msgspec.Struct, tag=True):
    """The answer to an order with this `call`; not `ok`: it could not be done in time."""

    call: int
    ok: bool = True


class SetupFailed(msgspec.Struct, tag=True):
    """The operator has to change something: one line."""

    line: str


ToEngine = StartEngine | FrontendGone | Suspected | Refuse | AwaitIdle | Stop | Close
FromEngine = Ready | LoadNow | Cleared | Done | SetupFailed
ToFrontend = (
    StartFrontend | Open | Leave | AwaitIdle | EngineGone | Claimed | Perform | CancelPlay | Close
)
FromFrontend = Listening | Serving | Observed | Claim | Release | Performed | Done | SetupFailed


def _plain(value: Any) -> Any:
    """Libraries give their versions as strings of their own kind."""
    if isinstance(value, str):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} does not travel between processes")


encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_LENGTH = struct.Struct("!I")
In = TypeVar("In")


class Pipe(Generic[In]):
    """One end of a pipe whose other end sends messages of the types `kinds`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kinds: Any
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decode = msgspec.msgpack.Decoder(kinds).decode

    @classmethod
    async def open(cls, end: socket.socket, kinds: Any) -> Pipe[In]:
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer, kinds)

    def send(self, message: msgspec.Struct) -> None:
        """Never waits. To a process that is gone, nothing is sent."""
        body = encode(message)
        if not self._writer.is_closing():
            self._writer.write(_LENGTH.pack(len(body)) + body)

    async def receive(self) -> In | None:
        """The next message; None when the other process is gone."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            message: In = self._decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return message

    async def close(self) -> None:
        """Sends the rest. Idempotent."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
