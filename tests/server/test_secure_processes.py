"""TLS and a token in front ends' processes: over gRPC, and over HTTP."""

from __future__ import annotations

import shutil
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import openai
import pytest

from certificates import Authority
from mock_serving import generation
from openai_serving import HELLO
from paceline.server.bearer import digest_of
from paceline.v1 import generation_pb2 as pb
from process_serving import SERVING, WAIT_S, Server, status_of

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="ports are shared on Linux alone"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates"),
]
TOKEN = [("authorization", "Bearer secret")]


@dataclass(frozen=True)
class Secure:
    """A server with two front ends, TLS and a token, and whom its clients trust."""

    server: Server
    authority: Path
    http: str

    def client(self, trusted: Path, token: str) -> openai.OpenAI:
        """OpenAI's own, on a connection that nobody else uses."""
        context = ssl.create_default_context(cafile=str(trusted))
        http = openai.DefaultHttpxClient(verify=context, trust_env=False)
        return openai.OpenAI(
            base_url=self.http, api_key=token, max_retries=0, timeout=WAIT_S, http_client=http
        )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    authority, tokens = Authority(folder), folder / "tokens"
    pem, key = authority.sign("server")
    tokens.write_text(f"alice:{digest_of('secret').hex()}\n")
    tls = ["--tls-cert", str(pem), "--tls-key", str(key), "--tokens", str(tokens)]
    server = Server("--frontends", "2", "--http-port", "0", *tls)
    assert server.process.stdout is not None
    server.process.stdout.readline()
    door = server.process.stdout.readline()
    yield Secure(server, authority.pem, door.split()[-1])
    server.close()


def test_each_front_end_asks_for_both_over_grpc(secure: Secure) -> None:
    """A call with the token is answered in full, one without is refused, and one without TLS gets nowhere."""
    credentials = grpc.ssl_channel_credentials(secure.authority.read_bytes())
    frontends = secure.server.connect_each(credentials)
    assert len(frontends) == 2
    message = pb.GenerateRequest(generation=generation(max_tokens=8))
    for frontend in frontends:
        assert frontend.check() == SERVING
        answer = frontend.stub.Generate(message, timeout=WAIT_S, metadata=TOKEN)
        assert answer.result.usage.completion_tokens == 8
        refused = status_of(lambda: frontend.stub.Generate(message, timeout=WAIT_S))  # noqa: B023
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
    with (
        grpc.insecure_channel(f"127.0.0.1:{secure.server.port}") as plain,
        pytest.raises(grpc.FutureTimeoutError),
    ):
        grpc.channel_ready_future(plain).result(1)


def test_each_front_end_asks_for_both_over_http(secure: Secure, tmp_path: Path) -> None:
    """Whole answers and streams of OpenAI's client, on as many connections as reach both front ends."""
    assert secure.http.startswith("https://127.0.0.1:")
    for _ in range(8):
        with secure.client(secure.authority, "secret") as client:
            asked: Any = {"model": "mock", "messages": HELLO, "max_tokens": 8}
            whole = client.chat.completions.create(**asked)
            stream = client.chat.completions.create(**asked, stream=True)
            text = "".join(event.choices[0].delta.content or "" for event in stream)
            assert text and text == whole.choices[0].message.content
        with (
            secure.client(secure.authority, "wrong") as stranger,
            pytest.raises(openai.AuthenticationError),
        ):
            stranger.models.list()
    other = Authority(tmp_path, "other")
    with secure.client(other.pem, "secret") as deceived:
        with pytest.raises(openai.APIConnectionError) as unknown:
            deceived.models.list()
        assert "CERTIFICATE_VERIFY_FAILED" in str(unknown.value.__cause__)
    plain = secure.http.replace("https:", "http:")
    with pytest.raises(OSError), urlopen(f"{plain}/models", timeout=WAIT_S):
        pass
