"""The probe for orchestrators: its exit code is the server's health, over TLS, too."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from certificates import Authority
from mock_serving import serving
from paceline.server.health_probe import main
from paceline.server.tokenizer import Tokenizer


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
async def test_it_asks_over_tls(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 while the server serves and shows the expected name; 1, with a reason, for another name and when it leaves."""
    authority = Authority(tmp_path)
    pem, key = authority.sign("server")
    async with serving(tokenizer, tls_cert=str(pem), tls_key=str(key)) as served:
        target, ca = f"127.0.0.1:{served.app.port}", f"--ca={authority.pem}"

        assert await asyncio.to_thread(main, [target, ca, "--name=localhost"]) == 0
        assert await asyncio.to_thread(main, [target, ca, "--name=other"]) == 1
        await served.app.announce()
        assert await asyncio.to_thread(main, [target, ca]) == 1
    assert capsys.readouterr().err.endswith("not serving: NOT_SERVING\n")
