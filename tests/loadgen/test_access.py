"""Encryption and bearer tokens of the load generator, against real servers that demand them."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from loadgen.conftest import scripted_server, self_signed
from loadgen.test_openai_wire import openai_server
from paceline.loadgen.access import Access, AccessError, without_secrets
from paceline.loadgen.bench_options import parse
from paceline.loadgen.bench_plan import load_options, make_plan
from paceline.loadgen.call import Call
from paceline.loadgen.grpc_wire import GrpcWire
from paceline.loadgen.openai_wire import OpenAIWire
from paceline.loadgen.probe import NotServing, Probe
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.timing import Record
from paceline.loadgen.wire import Wire

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)


def ask(wire: Wire) -> Record:
    call = Call(Prompt("a", "hello", max_tokens=4), 0, 1, "measure", time.perf_counter)
    call.run(wire, 20.0)
    wire.close()
    return call.record(mode="m", worker=0)


@needs_openssl
def test_grpc_with_tls_and_token(tmp_path: Path) -> None:
    """With the authority and the token calls and probes come through; without either none does."""
    pem, token = self_signed(tmp_path), tmp_path / "token"
    token.write_text("secret\n")
    options = ("--certificate", str(pem), "--token", "secret")
    with scripted_server(*options) as server:
        target = server.target
        good = Access(ca=str(pem), token_file=str(token))
        wire = GrpcWire(target, 1, good)
        assert wire.connect(20.0) == "" and wire.context_tokens(20.0) == 2048
        assert ask(wire).ok
        with Probe(target, good) as probe:
            probe.check()
            assert probe.server()["mode"] == "continuous" and probe.load()["running"] == 0
        assert ask(GrpcWire(target, 1, Access(ca=str(pem)))).status == "UNAUTHENTICATED"
        assert ask(GrpcWire(target, 1)).status == "UNAVAILABLE"
        with Probe(target) as stranger, pytest.raises(NotServing):
            stranger.check()


@needs_openssl
def test_https(tmp_path: Path) -> None:
    """The same for an OpenAI-compatible server: the authority in a file is trusted, a stranger is not."""
    pem = self_signed(tmp_path)
    with openai_server(tmp_path, "--certificate", str(pem)) as served:
        url = served.url.replace("http://", "https://")
        wire = OpenAIWire(url, access=Access(ca=str(pem)))
        assert wire.connect(20.0) == ""
        assert ask(wire).ok
        assert "certificate" in OpenAIWire(url).connect(20.0).lower()


def test_where_the_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given key wins over a file, a file over the environment; without any there is no header."""
    file = tmp_path / "token"
    file.write_text(" of a file \n")
    monkeypatch.delenv("PACELINE_API_KEY", raising=False)
    assert Access().metadata() == ()
    monkeypatch.setenv("PACELINE_API_KEY", "of the environment")
    assert Access().token() == "of the environment"
    assert Access(token_file=str(file)).token() == "of a file"
    assert Access(token_file=str(file), api_key="given").metadata() == (
        ("authorization", "Bearer given"),
    )
    with pytest.raises(AccessError, match="no such file"):
        Access(token_file=str(tmp_path / "none")).token()


def test_a_token_is_not_sent_in_plaintext(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC to another machine takes TLS, or a word, where there is a token; calls and probes alike."""
    monkeypatch.delenv("PACELINE_API_KEY", raising=False)
    for make in (
        lambda access: GrpcWire("192.0.2.1:1", 1, access),
        lambda a: Probe("192.0.2.1:1", a),
    ):
        with pytest.raises(AccessError, match="give --tls or --ca, or say --insecure"):
            make(Access(api_key="secret"))
        for access in (
            Access(),
            Access(api_key="secret", insecure=True),
            Access(tls=True, api_key="s"),
        ):
            make(access).close()


def test_keys_are_not_written_down() -> None:
    """Neither the report's command nor a child's command line holds the key; the child's environment does."""
    argv = ["--target", "http://h:1/v1", "--api-key", "secret", "--concurrency", "1"]
    assert without_secrets(["--api-key=secret", *argv])[:5] == [
        "--api-key=***",
        "--target",
        "http://h:1/v1",
        "--api-key",
        "***",
    ]
    options = parse(argv)
    load = load_options(
        options, make_plan(options), target="http://h:1/v1", mode="m", out=Path("o"), nonce=0
    )
    arguments = load.to_arguments()
    assert options.target == "http://h:1/v1"
    assert load.protocol == "openai" and "--protocol" in arguments
    assert "secret" not in " ".join([options.command, *arguments])
    assert options.access.environment() == {"PACELINE_API_KEY": "secret"}
