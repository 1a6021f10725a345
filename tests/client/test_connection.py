"""Deadlines, addresses, tokens and TLS."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from certificates import Authority
from paceline.client import (
    DEFAULT_TIMEOUT_S,
    AsyncClient,
    Client,
    DeadlineExceeded,
    Unavailable,
)
from paceline.client.targets import is_local
from paceline.v1 import generation_pb2 as pb
from scripted_server import WAIT_S, ScriptedServer, answer

MakeServer = Callable[..., ScriptedServer]


class TestDeadlines:
    @pytest.mark.parametrize(
        ("client_options", "call_options", "expected"),
        [
            ({}, {}, DEFAULT_TIMEOUT_S),
            ({"timeout_s": 40.0}, {}, 40.0),
            ({}, {"timeout_s": 50.0}, 50.0),
        ],
    )
    def test_the_server_sees_the_deadline(
        self,
        server: ScriptedServer,
        client_options: dict[str, Any],
        call_options: dict[str, Any],
        expected: float,
    ) -> None:
        """A call's own deadline wins over the client's, which wins over the default."""
        server.handlers["Generate"] = lambda request, context: answer()

        with Client(server.target, **client_options) as client:
            client.generate("x", **call_options)

        deadline_s = server.calls[0].deadline_s
        assert deadline_s is not None
        assert abs(deadline_s - expected) < 5  # gRPC rounds it on the wire

    @pytest.mark.parametrize("where", ["client", "call"])
    def test_none_means_no_deadline(self, server: ScriptedServer, where: str) -> None:
        """Deadlines can be switched off."""
        server.handlers["GetLoad"] = lambda request, context: pb.GetLoadResponse()
        none: dict[str, Any] = {"timeout_s": None}

        with Client(server.target, **(none if where == "client" else {})) as client:
            client.load(**(none if where == "call" else {}))

        # gRPC's Python server tells "no deadline" as one very far away.
        deadline_s = server.calls[0].deadline_s
        assert deadline_s is None or deadline_s > 1e6

    async def test_a_passed_deadline_ends_the_call(self, server: ScriptedServer) -> None:
        """The caller gets DeadlineExceeded, and the server's work is cancelled."""

        def handler(request: object, context: grpc.ServicerContext) -> Any:
            server.left.wait(WAIT_S)
            return answer()

        server.handlers["Generate"] = handler

        async with AsyncClient(server.target) as client:
            with pytest.raises(DeadlineExceeded):
                await client.generate("x", timeout_s=0.05)

        assert server.left.wait(WAIT_S)


class TestTargets:
    def test_several_addresses_are_used_in_turn(self, make_server: MakeServer) -> None:
        """Calls spread over all servers of a list."""
        servers = [make_server(), make_server()]
        for each in servers:
            each.handlers["Generate"] = lambda request, context: answer()

        with Client([each.target for each in servers]) as client:
            while not all(each.calls for each in servers):
                client.generate("x", timeout_s=WAIT_S)
                assert sum(len(each.calls) for each in servers) < 1000

    def test_a_dead_address_among_several_is_passed_over(self, make_server: MakeServer) -> None:
        """One dead server of a list costs no call."""
        alive = make_server()
        alive.handlers["Generate"] = lambda request, context: answer("alive")

        with Client(["127.0.0.1:1", alive.target]) as client:
            texts = {client.generate("x").text for _ in range(4)}

        assert texts == {"alive"}

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"target": []}, "no target"),
            ({"attempts": 0}, "attempts"),
            ({"attempts": 9}, "attempts"),
            ({"certificate": "a.pem"}, "both certificate and key"),
            ({"tls": True, "insecure": True}, "exclude each other"),
        ],
    )
    def test_impossible_settings_raise_at_once(self, options: dict[str, Any], match: str) -> None:
        """A wrong setting is a ValueError of the constructor."""
        with pytest.raises(ValueError, match=match):
            Client(**options)


class TestSecurity:
    def test_the_token_goes_with_every_call(self, server: ScriptedServer) -> None:
        """`token` becomes a bearer token in the metadata."""
        server.handlers["GetLoad"] = lambda request, context: pb.GetLoadResponse()

        with Client(server.target, token="s3cret") as client:
            client.load()

        assert server.calls[0].metadata["authorization"] == "Bearer s3cret"

    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_a_token_is_not_sent_in_plaintext(self, kind: type[Client] | type[AsyncClient]) -> None:
        """To another machine it goes encrypted, or because the caller insists."""
        with pytest.raises(ValueError, match="would travel unencrypted to example"):
            kind("example.org:1", token="s3cret")
        for options in ({"tls": True}, {"insecure": True}):
            kind("example.org:1", token="s3cret", **options)  # type: ignore[arg-type]
        kind("example.org:1")

    @pytest.mark.parametrize(
        ("target", "local"),
        [
            ("127.0.0.1:50051", True),
            ("localhost:1", True),
            ("[::1]:1", True),
            ("::1", True),
            ("dns:///localhost:1", True),
            ("dns://8.8.8.8/localhost:1", True),
            ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
            ("ipv6:[::1]:1", True),
            ("unix:/run/paceline", True),
            (["127.0.0.1:1", "127.0.0.1:2"], True),
            ("10.0.0.1:1", False),
            ("[::]:1", False),
            ("localhost.example.org:1", False),
            ("127.0.0.1.example.org:1", False),
            ("dns:///host:1", False),
            ("dns://127.0.0.1/host:1", False),
            ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
            (["127.0.0.1:1", "10.0.0.1:1"], False),
            ("xds:///service", False),
            ("", False),
        ],
    )
    def test_which_targets_are_this_machine(self, target: str | list[str], local: bool) -> None:
        """Only spellings that cannot mean another machine are taken for this one."""
        assert is_local(target) is local

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
    async def test_tls_with_client_certificate(
        self, make_server: MakeServer, tmp_path: Path
    ) -> None:
        """With authority, certificate and key both sides know each other; without them there is no answer."""
        authority = Authority(tmp_path)
        certificate, key = authority.sign("both")
        credentials = grpc.ssl_server_credentials(
            [(key.read_bytes(), certificate.read_bytes())],
            root_certificates=authority.pem.read_bytes(),
            require_client_auth=True,
        )
        server = make_server(credentials)
        server.handlers["GetLoad"] = lambda request, context: pb.GetLoadResponse(running=5)

        with Client(server.target, ca=authority.pem, certificate=certificate, key=key) as client:
            assert client.load().running == 5
        async with AsyncClient(
            server.target, ca=authority.pem, certificate=certificate, key=key
        ) as async_client:
            assert (await async_client.load()).running == 5
        with Client(server.target, tls=True, attempts=1) as stranger, pytest.raises(Unavailable):
            stranger.load()
