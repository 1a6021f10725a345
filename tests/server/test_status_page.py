"""The status page as a browser shows it."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from mock_serving import generation, serving
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
async def test_page_shows_what_the_server_did(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Its script runs without an error and fills in health, model and counters."""
    async with serving(tokenizer, metrics_port=0) as served:
        await served.stub.Generate(pb.GenerateRequest(generation=generation(max_tokens=1234)))
        process = await asyncio.create_subprocess_exec(
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path}"),
            *("--virtual-time-budget=2000", "--dump-dom"),
            f"http://127.0.0.1:{served.app.metrics_port}/",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        dom, errors = (text.decode() for text in await process.communicate())
    assert "CONSOLE" not in errors
    assert re.search(r'id="health" class="serving"[^>]*>serving<', dom)
    assert "mock · continuous" in dom
    assert "1,234 generated" in dom
    assert "0 of 511 pages" in dom
