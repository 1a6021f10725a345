"""TLS: who gets in, what the files have to be, and that they are read again when they change."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest

from certificates import Authority, run_openssl
from mock_serving import WAIT_S, serving
from paceline.server import tls
from paceline.server.config import ServeConfig
from paceline.server.errors import SetupError
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def trusting(ca: Path, *own: bytes | None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(ca.read_bytes(), *own)


async def outcome(port: int, ca: Path, *own: Path) -> grpc.StatusCode:
    """How a call over a connection of its own ends. `own`: the client's certificate and key."""
    certificate, key = [path.read_bytes() for path in own] or (None, None)
    credentials = trusting(ca, key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        stub: Any = rpc.GenerationServiceStub(channel)
        try:
            await stub.GetLoad(pb.GetLoadRequest(), timeout=WAIT_S)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def test_only_its_authority_vouches_for_the_server(
    authority: Authority, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """A client that trusts it is answered; one that trusts another, and one without TLS, get nowhere."""
    pem, key = authority.sign("server")
    other = Authority(tmp_path, "other")
    async with serving(tokenizer, tls_cert=str(pem), tls_key=str(key)) as served:
        assert await outcome(served.app.port, authority.pem) is grpc.StatusCode.OK
        assert await outcome(served.app.port, other.pem) is UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as plain:
            await served.load()
        assert plain.value.code() is UNAVAILABLE


async def test_mutual_tls_wants_a_good_certificate_of_the_client(
    authority: Authority, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Without one, with an expired one, or with another authority's there is no connection."""
    pem, key = authority.sign("server")
    clients = Authority(tmp_path, "clients")
    settings: dict[str, Any] = {
        "tls_cert": str(pem),
        "tls_key": str(key),
        "tls_client_ca": str(clients.pem),
    }
    async with serving(tokenizer, **settings) as served:
        port, ca = served.app.port, authority.pem
        assert await outcome(port, ca, *clients.sign("good")) is grpc.StatusCode.OK
        assert await outcome(port, ca) is UNAVAILABLE
        assert await outcome(port, ca, *clients.sign("late", days=-1)) is UNAVAILABLE
        assert await outcome(port, ca, *authority.sign("stranger")) is UNAVAILABLE


async def test_new_files_are_taken_without_a_restart(
    authority: Authority,
    tokenizer: Tokenizer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """New connections meet the new certificate, old ones go on; a pair that is no good changes nothing."""
    caplog.set_level("INFO")
    pem, key = authority.sign("server")
    newer = Authority(tmp_path, "newer")

    def put(new_pem: Path | None, new_key: Path | None) -> None:
        for new, old in ((new_pem, pem), (new_key, key)):
            if new is not None:
                os.replace(new, old)

    async with serving(tokenizer, tls_cert=str(pem), tls_key=str(key)) as served:
        port = served.app.port
        credentials = trusting(authority.pem)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            stub: Any = rpc.GenerationServiceStub(channel)
            await stub.GetLoad(pb.GetLoadRequest())
            new_pem, new_key = newer.sign("new")
            put(new_pem, None)  # the key is not there yet
            assert await outcome(port, authority.pem) is grpc.StatusCode.OK
            put(None, new_key)
            assert await outcome(port, newer.pem) is grpc.StatusCode.OK
            assert await outcome(port, authority.pem) is UNAVAILABLE
            put(*newer.sign("late", days=-1))
            assert await outcome(port, newer.pem) is grpc.StatusCode.OK
            await stub.GetLoad(pb.GetLoadRequest())
    lines = [r.getMessage() for r in caplog.records if r.name == "paceline.server.reloaded"]
    assert len(lines) == 3
    assert "not the key of" in lines[0] and "stays in force" in lines[0]
    assert "read again" in lines[1]
    assert "certificate has expired" in lines[2] and "stays in force" in lines[2]


async def test_http_has_the_same_tls(
    authority: Authority, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Clients need certificates where gRPC's do, and new files are taken without a restart."""
    pem, key = authority.sign("server")
    own = authority.sign("alice")
    other, newer = Authority(tmp_path, "other"), Authority(tmp_path, "newer")
    settings: dict[str, Any] = {
        "tls_cert": str(pem),
        "tls_key": str(key),
        "tls_client_ca": str(authority.pem),
    }

    def ask(ca: Path, certificate: Path | None = None, key: Path | None = None) -> bool:
        """Whether a request on a connection of its own is answered."""
        context = ssl.create_default_context(cafile=str(ca))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        url = f"https://127.0.0.1:{served.app.http_port}/health"
        try:
            with urlopen(url, timeout=WAIT_S, context=context) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    async def answers(ca: Path, *certificate: Path) -> bool:
        return await asyncio.to_thread(ask, ca, *certificate)

    async with serving(tokenizer, http_port=0, **settings) as served:
        assert await answers(authority.pem, *own)
        assert not await answers(authority.pem)
        assert not await answers(authority.pem, *other.sign("mallory"))
        assert not await answers(other.pem, *own)
        for made, used in zip(newer.sign("new"), (pem, key), strict=True):
            os.replace(made, used)
        assert await answers(newer.pem, *own)
        assert not await answers(authority.pem, *own)


Spoil = Callable[[Path, Path, Path], None]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda pem, key, ca: pem.unlink(), "--tls-cert {pem}: no such file or directory"),
        (lambda pem, key, ca: key.write_text("x"), "no certificate and key in PEM"),
        (lambda pem, key, ca: pem.write_text(pem.read_text()[:200]), "no certificate and key"),
        (lambda pem, key, ca: ca.write_text(""), "--tls-client-ca {ca}: no PEM file"),
    ],
)
def test_bad_files_are_one_line(
    authority: Authority, tmp_path: Path, spoil: Spoil, line: str
) -> None:
    """Whatever is wrong with a file, its flag is named."""
    pem, key = authority.sign("server")
    spoil(pem, key, authority.pem)
    with pytest.raises(SetupError) as caught:
        tls.read(tls.TlsFiles(pem, key, authority.pem))
    assert line.format(pem=pem, key=key, ca=authority.pem) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_clients_would_refuse_is_refused(authority: Authority, tmp_path: Path) -> None:
    """An expired certificate, another one's key, an encrypted key, and an expired authority of clients."""
    pem, key = authority.sign("server")
    late, late_key = authority.sign("late", days=-1)
    good = tls.read(tls.TlsFiles(pem, key, authority.pem))
    assert good.expires.endswith("GMT") and "PRIVATE" not in repr(good)
    with pytest.raises(SetupError, match="certificate has expired"):
        tls.read(tls.TlsFiles(late, late_key))
    with pytest.raises(SetupError, match="not the key of"):
        tls.read(tls.TlsFiles(pem, late_key))
    with pytest.raises(SetupError, match=r"--tls-client-ca .*: certificate has expired"):
        tls.read(tls.TlsFiles(pem, key, authority.sign("gone", days=-1, ca=True)[0]))
    encrypted = tmp_path / "encrypted.key"
    run_openssl("ec", "-in", key, "-aes128", "-passout", "pass:abcd", "-out", encrypted)
    with pytest.raises(SetupError, match="the key is encrypted"):
        tls.read(tls.TlsFiles(pem, encrypted))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"tls_cert": "a"}, "--tls-cert needs --tls-key"),
        ({"tls_key": "a"}, "--tls-key needs --tls-cert"),
        ({"tls_client_ca": "a"}, "--tls-client-ca needs --tls-cert and --tls-key"),
    ],
)
def test_half_of_tls_is_refused(settings: dict[str, str], line: str) -> None:
    """No flag of TLS is ignored for want of another."""
    with pytest.raises(SetupError, match=line):
        tls.files_of(ServeConfig.model_validate(settings))
