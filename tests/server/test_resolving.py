"""A client of a DNS name finds servers that were not there when it connected."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mock_serving import WAIT_S, serving
from paceline.client import AsyncClient
from paceline.server.tokenizer import Tokenizer

IPV4 = 1


class NameServer(asyncio.DatagramProtocol):
    """Gives every name these addresses."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5  # of the question: name, type, class
        (kind,) = struct.unpack("!H", data[end - 4 : end - 2])
        found = self.addresses if kind == IPV4 else []
        header = data[:2] + struct.pack("!HHHHH", 0x8580, 1, len(found), 0, 0)
        record = struct.pack("!HHHIH", 0xC00C, IPV4, 1, 0, 4)
        answers = b"".join(record + socket.inet_aton(address) for address in found)
        self._transport.sendto(header + data[12:end] + answers, peer)


@contextlib.asynccontextmanager
async def name_server() -> AsyncIterator[tuple[NameServer, int]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def test_a_connections_age_brings_new_servers_their_share(tokenizer: Tokenizer) -> None:
    """When a server ends the old connection the client looks the name up again, and goes round both from then on."""
    try:
        socket.create_server(("127.0.0.2", 0)).close()
    except OSError:
        pytest.skip("this machine has one loopback address")
    async with (
        asyncio.timeout(WAIT_S),
        name_server() as (names, port),
        serving(tokenizer, max_connection_age_s=1) as old,
        serving(tokenizer, host="127.0.0.2", port=old.app.port) as new,
    ):
        names.addresses = ["127.0.0.1"]
        async with AsyncClient(
            f"dns://127.0.0.1:{port}/servers.test:{old.app.port}",
            channel_options=[("grpc.dns_min_time_between_resolutions_ms", 10)],
        ) as client:
            await client.generate("x", max_tokens=1)
            names.addresses = ["127.0.0.1", "127.0.0.2"]
            while not (await new.load()).requests_finished:
                await client.generate("x", max_tokens=1)
