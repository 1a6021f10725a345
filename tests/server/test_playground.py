"""The page's playground: a call to the service like any other, for our own page alone."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from mock_serving import Gate, serving
from paceline.server import security
from paceline.server.config import ServeConfig
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer
from playing import play, post


def test_it_is_off_where_more_than_this_machine_could_use_it() -> None:
    """Not on an address that others reach, not where clients need certificates, not if told so."""

    def off(**settings: Any) -> str:
        return security.no_playground(ServeConfig.model_validate(settings)) or ""

    assert off() == off(host="0.0.0.0", tokens="a", metrics_host="::1") == ""
    assert "--no-playground" in off(playground=False)
    assert "0.0.0.0" in off(metrics_host="0.0.0.0")
    assert "certificates" in off(tls_client_ca="a")
    assert off(metrics_port=None)


async def test_a_prompt_is_a_call(tokenizer: Tokenizer) -> None:
    """Messages are the RPC's own, as JSON; a bad field is named as the RPC names it; both calls are counted."""
    async with serving(tokenizer, metrics_port=0) as served:
        port = served.app.metrics_port
        messages = await asyncio.to_thread(play, port)
        bad = {"generation": {"text": "one", "sampling": {"top_p": 7}}}
        (refused,) = await asyncio.to_thread(play, port, bad)
        (unknown,) = await asyncio.to_thread(play, port, {"generation": {"txt": "one"}})
        (broken,) = await asyncio.to_thread(play, port, b"\xff[")
        statuses = served.app._console.metrics.tally.statuses
    assert messages[0]["header"]["prompt_tokens"] == len(tokenizer.encode("one two"))
    assert sum(message.get("num_tokens", 0) for message in messages) == 5
    assert messages[-1]["finish"]["reason"] == "FINISH_REASON_MAX_TOKENS"
    assert messages[-1]["summary"]["timings"]["ttft_ms"] > 0
    assert refused["error"]["status"] == "INVALID_ARGUMENT"
    assert refused["error"]["violations"][0]["field"] == "generation.sampling.top_p"
    assert unknown["error"]["status"] == broken["error"]["status"] == "INVALID_ARGUMENT"
    assert statuses == {"OK": 1, "INVALID_ARGUMENT": 1}  # what is no message never became a call


async def test_no_other_page_gets_through(tokenizer: Tokenizer) -> None:
    """Another origin, none, a foreign name for us, a form's type, no header of ours: the service sees none."""
    async with serving(tokenizer, metrics_port=0) as served:
        port = served.app.metrics_port

        async def status(body: object = None, **headers: str | None) -> int:
            return (await asyncio.to_thread(lambda: post(port, body, **headers))).status

        assert await status(Origin="http://evil.example") == 403
        assert await status(Origin=f"http://localhost:{port}") == 403  # it is not what Host says
        assert await status(Origin="null") == 403
        assert await status(Origin=None) == 403
        assert await status(Content_Type="text/plain") == 403
        assert await status(Paceline_Playground=None) == 403
        rebound = f"evil.example:{port}"
        assert await status(Host=rebound, Origin=f"http://{rebound}") == 421
        assert await status(b" ", Content_Length=str(1024 * 1024 + 1)) == 413
        assert served.app._console.metrics.tally.statuses == {}
        own = f"localhost:{port}"
        assert await status(Host=own, Origin=f"http://{own}") == 200


async def test_without_a_token_it_answers_nobody(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Where the service asks for tokens the page's user shows one, and has its limits."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice:{hashlib.sha256(b'secret').hexdigest()} concurrency=2\n")
    async with serving(tokenizer, metrics_port=0, tokens=str(tokens)) as served:
        port = served.app.metrics_port
        (none,) = await asyncio.to_thread(play, port)
        (wrong,) = await asyncio.to_thread(lambda: play(port, Authorization="Bearer guess"))
        many = {"generation": {"text": "one", "sampling": {"n": 3}}}
        (much,) = await asyncio.to_thread(lambda: play(port, many, Authorization="Bearer secret"))
        good = await asyncio.to_thread(lambda: play(port, Authorization="Bearer secret"))
    assert none["error"]["status"] == wrong["error"]["status"] == "UNAUTHENTICATED"
    assert "2 requests at once" in much["error"]["message"]
    assert "summary" in good[-1]


async def test_switched_off_it_answers_nobody(tokenizer: Tokenizer) -> None:
    """With --no-playground there is neither an answer nor a socket for it."""
    async with serving(tokenizer, metrics_port=0, playground=False) as served:
        answer = await asyncio.to_thread(post, served.app.metrics_port)
        assert served.app._folder is None
    assert answer.status == 403


async def test_who_leaves_is_computed_no_more(tokenizer: Tokenizer) -> None:
    """A connection that closes, also while nothing is written to it, cancels the call."""
    gate = Gate(steps=3)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner, metrics_port=0) as served:
        body = {"generation": {"text": "one", "stopping": {"max_tokens": 2000}}}
        answer = await asyncio.to_thread(post, served.app.metrics_port, body)
        await asyncio.to_thread(answer.readline)
        await served.until(lambda load: load.output_tokens == 3)
        answer.close()
        async with asyncio.timeout(30):
            while "CANCELLED" not in served.app._console.metrics.tally.statuses:
                await served.load()
        gate.open()
        load = await served.idle()
    assert load.output_tokens < 10
