"""The rules of starting: what is reachable from outside, and by whom."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from certificates import Authority
from paceline.server import security
from paceline.server.app import App
from paceline.server.config import ServeConfig
from paceline.server.errors import SetupError

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)
OUTSIDE = ("0.0.0.0", "::", "192.0.2.1", "example.org", "", "::ffff:0.0.0.0", "127.0.0.1.example")


def check(**settings: Any) -> None:
    security.check(ServeConfig.model_validate(settings))


@pytest.fixture
def tokens(tmp_path: Path) -> str:
    path = tmp_path / "tokens"
    path.write_text(f"alice:{hashlib.sha256(b'secret').hexdigest()}\n")
    return str(path)


@pytest.mark.parametrize("host", OUTSIDE)
def test_other_machines_need_tls_or_a_word(host: str, tokens: str) -> None:
    """An address that others can reach is refused in plaintext, tokens or not, unless --insecure is said."""
    for settings in ({}, {"tokens": tokens}):
        with pytest.raises(SetupError, match="lets other machines in without encryption"):
            check(host=host, **settings)
    check(host=host, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_this_machine_needs_nothing(host: str, tokens: str) -> None:
    """On loopback plaintext is fine, with tokens too."""
    check(host=host)
    check(host=host, tokens=tokens)


async def test_by_default_both_ports_are_this_machines(caplog: pytest.LogCaptureFixture) -> None:
    """--host moves the gRPC port alone: the status port stays on loopback until asked for itself, and then warns."""
    config = ServeConfig(host="0.0.0.0", insecure=True, port=0, metrics_port=0)
    app = App(config)
    try:
        await app.bind()
        assert app._console._web is not None
        assert app._console._web._server.server_address[0] == "127.0.0.1"
    finally:
        await app.close()
    assert ServeConfig().host == ServeConfig().metrics_host == "127.0.0.1"
    caplog.clear()
    check(metrics_host="0.0.0.0")
    assert "whoever reaches 0.0.0.0 may read /metrics" in caplog.text


@needs_openssl
def test_tls_opens_the_door_and_is_not_called_insecure(
    tmp_path: Path, tokens: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With TLS any address goes; without tokens or client certificates a line says who gets in: everyone."""
    authority = Authority(tmp_path)
    pem, key = (str(path) for path in authority.sign("server"))
    tls = {"tls_cert": pem, "tls_key": key}
    check(host="0.0.0.0", **tls)
    assert "neither --tokens nor --tls-client-ca" in caplog.text
    caplog.clear()
    check(host="0.0.0.0", **tls, tokens=tokens)
    check(host="0.0.0.0", **tls, tls_client_ca=str(authority.pem))
    assert caplog.text == ""
    with pytest.raises(SetupError, match="--insecure and --tls-cert exclude each other"):
        check(**tls, insecure=True)


def test_a_bad_file_of_tokens_keeps_the_server_from_starting(tmp_path: Path, tokens: str) -> None:
    """No file, or one without a token, is one line; so nobody believes in tokens that are not asked for."""
    with pytest.raises(SetupError, match=r"--tokens .*none: no such file"):
        check(tokens=str(tmp_path / "none"))
    Path(tokens).write_text("# none yet\n")
    with pytest.raises(SetupError, match=r"--tokens .*: there is no token in it"):
        check(tokens=tokens)


def test_the_banner_says_what_protects() -> None:
    """An operator sees it without reading flags."""
    said = security.described
    assert said(ServeConfig()) == ""
    assert said(ServeConfig(tls_cert="a", tokens="b")) == "TLS and tokens"
    assert said(ServeConfig(tls_cert="a", tls_client_ca="b")) == "mutual TLS"
