"""`paceline health`, which containers ask."""

from __future__ import annotations

import pytest

from background_server import BackgroundServer
from paceline.client.cli import main
from paceline.server.loader import Loaded
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer


def test_health_is_an_exit_code(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 while the server serves, 1 and the reason once it leaves or is gone; the port is that of the settings."""
    server = BackgroundServer(Loaded(MockRunner(vocab_size=tokenizer.vocab_size), tokenizer))
    monkeypatch.setenv("PACELINE_PORT", str(server.app.port))
    assert main(["health"]) == 0
    assert main(["health", server.target, "--service", "unknown"]) == 1
    server.run(server.app.announce())
    assert main(["health"]) == 1
    server.close()
    assert main(["health"]) == 1
    written = capsys.readouterr()
    assert written.out == "SERVING\n"
    reasons = [line.rpartition(": ")[2] for line in written.err.splitlines()]
    assert reasons == ["NOT_FOUND", "NOT_SERVING", "UNAVAILABLE"]
