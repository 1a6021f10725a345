"""Clients that mean harm or are just broken, one kind after the other, and whether the others notice.

    python benchmarks/hostile.py [--streams 10000] [--only slow_reader,ping_flood] [--out FILE]

slow_reader    streams whose readers take nothing: others are served, memory stays bounded, their cancel frees the pages
half_open      connections that begin HTTP/2 and say nothing more, and ones that send half a request
ping_flood     HTTP/2 pings as fast as they go: the connection is closed (too_many_pings), others are served
idle_streams   so many streams open at once, as far as descriptors allow, most of them waiting in the queue
big_message    4 MiB + 1 byte is refused with RESOURCE_EXHAUSTED before it is parsed, 4 MiB - 1 KiB is read

Prints PASS or FAIL for each with what was seen, and with --out writes JSON; the exit code is the number of failures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc

from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc
from served import Server, line, served

FLAGS = (
    *("--mock", "--max-batch-size", "64", "--frontends", "0"),
    *("--max-queue-requests", "20000", "--max-queue-tokens", "1000000"),
)
_PACE = {"idle_streams": "1"}  # tokens a second of a stream; those of the others are 200
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # and empty settings
_PING = b"\0\0\x08\6\0\0\0\0\0" + b"abcdefgh"
_LIMIT = 4 * 1024 * 1024
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
_PER_CONNECTION, _AT_ONCE = 500, 200  # streams
_SOON_S = 5.0  # for a request of eight tokens, beside all that


def request(tokens: int) -> pb.Generation:
    """A plain generation."""
    return pb.Generation(text="hello", stopping=pb.Stopping(max_tokens=tokens, ignore_eos=True))


def served_still(server: Server) -> float:
    """Seconds that an honest request takes."""
    begun = time.monotonic()
    answer = server.stub.Generate(pb.GenerateRequest(generation=request(8)), timeout=60)
    assert answer.result.usage.completion_tokens == 8
    return time.monotonic() - begun


def slow_reader(server: Server, _: int) -> str:
    """Thirty-two readers who never read."""
    before = server.rss_mib()
    with ExitStack() as stack:
        calls = []
        for _number in range(32):
            options = [*_OWN_CONNECTION, ("grpc.http2.lookahead_bytes", 1024)]
            channel = stack.enter_context(grpc.insecure_channel(server.target, options))
            # About a kilobyte a token: far more than the connection takes unread.
            stream = pb.GenerateStreamRequest(generation=request(1000))
            stream.generation.response.logprobs = 20
            calls.append(rpc.GenerationServiceStub(channel).GenerateStream(stream))
        while server.load().running < 32:
            time.sleep(0.01)
        took = served_still(server)
        while server.load().running:  # the engine waits for nobody
            time.sleep(0.05)
        grown = server.rss_mib() - before
        for call in calls:
            call.cancel()
    assert server.idle() is not None, "pages are left over"
    assert took < _SOON_S, f"an honest request took {took:.1f} s"
    assert grown < 200, f"memory grew by {grown:.0f} MiB"
    return f"honest request {took:.2f} s, memory {grown:+.1f} MiB"


def half_open(server: Server, _: int) -> str:
    """Two hundred connections that stop in the middle."""
    address = _address(server)
    with ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(socket.create_connection(address, timeout=10))
            # Nothing, half a preface, a preface, the head of a frame of headers that never come.
            data = (b"", _PREFACE[:10], _PREFACE, _PREFACE + b"\0\1\0\1\4\0\0\0\1")[number % 4]
            connection.sendall(data)
        took = served_still(server)
    assert took < _SOON_S, f"an honest request took {took:.1f} s"
    return f"200 connections, honest request {took:.2f} s"


def ping_flood(server: Server, _: int) -> str:
    """One connection that does nothing but ping."""
    with socket.create_connection(_address(server), timeout=10) as connection:
        connection.sendall(_PREFACE)
        end, sent, closed = time.monotonic() + 30, 0, False
        while not closed and time.monotonic() < end:
            with suppress(TimeoutError):
                connection.settimeout(0.05)
                try:
                    connection.sendall(_PING * 100)
                    sent += 100
                    closed = connection.recv(65536) == b""
                except (BrokenPipeError, ConnectionResetError):
                    closed = True
        took = served_still(server)
    assert closed, f"after {sent} pings the connection is still open"
    assert took < _SOON_S, f"an honest request took {took:.1f} s"
    return f"closed after at most {sent} pings, honest request {took:.2f} s"


def idle_streams(server: Server, wanted: int) -> str:
    """Streams that are open all at once; the last ones wait in the queue until all are cancelled."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened, took, grown = asyncio.run(_hold_open(server, wanted))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert opened == wanted, f"{opened} of {wanted} streams could be opened"
    assert server.idle() is not None, "pages are left over"
    return f"{opened:,} streams open in {took:.1f} s, memory {grown:+.0f} MiB; all cancelled, none left"


async def _hold_open(server: Server, wanted: int) -> tuple[int, float, float]:
    """(streams in the engine at once, seconds until all were, MiB that they took)."""
    before, begun = server.rss_mib(), time.monotonic()
    channels = [
        grpc.aio.insecure_channel(server.target, _OWN_CONNECTION)
        for _ in range(-(-wanted // _PER_CONNECTION))
    ]
    message = pb.GenerateStreamRequest(generation=request(4000))
    calls: list[Any] = []
    stubs: list[Any] = [rpc.GenerationServiceStub(channel) for channel in channels]
    while len(calls) < wanted:
        fresh = [
            stubs[number % len(stubs)].GenerateStream(message)
            for number in range(len(calls), min(wanted, len(calls) + _AT_ONCE))
        ]
        # The header says that the engine has it. gRPC turns away more than a thousand that nobody took in yet.
        await asyncio.wait_for(asyncio.gather(*(call.read() for call in fresh)), 60)
        calls += fresh
    took, grown = time.monotonic() - begun, server.rss_mib() - before
    opened = 0
    for _ in range(50):  # the engine's word is as of its latest step, up to a second old
        load = await asyncio.to_thread(server.load)
        opened = load.running + load.waiting
        if opened == wanted:
            break
        await asyncio.sleep(0.1)
    for call in calls:
        call.cancel()
    for channel in channels:
        await channel.close()
    return opened, took, grown


def big_message(server: Server, _: int) -> str:
    """A byte over the limit, and a little under it."""
    options = [("grpc.max_send_message_length", 2 * _LIMIT)]
    with grpc.insecure_channel(server.target, options) as channel:
        codes = [_refusal(channel, size) for size in (_LIMIT + 1, _LIMIT - 1024)]
    assert codes[0] is grpc.StatusCode.RESOURCE_EXHAUSTED, codes[0]
    assert codes[1] is grpc.StatusCode.INVALID_ARGUMENT, codes[
        1
    ]  # read, and too long for the model
    return f"{_LIMIT + 1:,} bytes: {codes[0].name}; {_LIMIT - 1024:,} bytes: {codes[1].name}"


def _refusal(channel: grpc.Channel, size: int) -> grpc.StatusCode:
    message = pb.GenerateRequest(generation=pb.Generation(text=""))
    message.generation.text = "x" * (size - 32)
    message.generation.text += "x" * (size - message.ByteSize())
    assert message.ByteSize() == size
    try:
        rpc.GenerationServiceStub(channel).Generate(message, timeout=60)
    except grpc.RpcError as error:
        failed: Any = error
        code: grpc.StatusCode = failed.code()
        return code
    return grpc.StatusCode.OK


def _address(server: Server) -> tuple[str, int]:
    host, _, port = server.target.rpartition(":")
    return host, int(port)


ATTACKS: dict[str, Callable[[Server, int], str]] = {
    attack.__name__: attack
    for attack in (slow_reader, half_open, ping_flood, idle_streams, big_message)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--only", default=",".join(ATTACKS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    for name in options.only.split(","):
        with served([*FLAGS, "--mock-tokens-per-s", _PACE.get(name, "200")]) as server:
            try:
                said = ATTACKS[name](server, options.streams)
                assert server.alive, "the server is gone"
                found[name] = {"passed": True, "seen": said}
            except (AssertionError, grpc.RpcError, TimeoutError, OSError) as error:
                found[name] = {"passed": False, "seen": f"{type(error).__name__}: {error}"}
        verdict = "PASS" if found[name]["passed"] else "FAIL"
        print(line(name, verdict, found[name]["seen"]), flush=True)  # noqa: T201
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(sum(not one["passed"] for one in found.values()))


if __name__ == "__main__":
    main()
