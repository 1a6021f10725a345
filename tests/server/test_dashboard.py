"""The dashboard as a browser shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from driven_browser import Driven, driven
from loadgen.browser import browser
from mock_serving import Gate, Served, generation, serving
from paceline.server.mock import MockRunner
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser() is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driven]:
    with driven(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


async def ask(tab: Driven, script: str) -> object:
    return await asyncio.to_thread(tab.ask, script)


async def until(tab: Driven, condition: str) -> None:
    await asyncio.to_thread(tab.until, condition)


async def show(tab: Driven, served: Served) -> None:
    """The page, once it has figures."""
    tab.console.clear()
    await asyncio.to_thread(tab.open, f"http://127.0.0.1:{served.app.metrics_port}/")
    await until(tab, "document.getElementById('health')?.textContent === 'serving'")


async def test_figures_move_with_the_work(tab: Driven, tokenizer: Tokenizer) -> None:
    """The page has health, model, counters, curves, a table of them and what ended; nothing is said on the console."""
    async with serving(tokenizer, metrics_port=0) as served:
        await show(tab, served)
        assert await ask(tab, "document.getElementById('model').textContent") == "mock · continuous"
        for total in ("1,234", "2,468"):
            await served.stub.Generate(pb.GenerateRequest(generation=generation(max_tokens=1234)))
            await until(tab, f"document.body.innerText.includes('{total} generated')")
        await until(tab, "document.querySelector('[data-line=tokens_per_s]').getAttribute('d')")
        text = str(await ask(tab, "document.body.innerText"))
        assert "0 of 511 pages" in text
        await until(tab, "document.querySelectorAll('#ended tbody tr').length === 2")
        assert "1,234" in str(await ask(tab, "document.getElementById('ended').innerText"))

        await ask(tab, "document.getElementById('figures').open = true")
        await until(tab, "document.querySelectorAll('#figures tbody tr').length > 0")
        heads = "[...document.querySelectorAll('#figures th')].map(each => each.textContent).join()"
        assert "Tokens/s,Running" in str(await ask(tab, heads))
        press = "new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true})"
        await ask(tab, f"document.getElementById('cards').dispatchEvent({press})")
        assert "s ago" in str(await ask(tab, "document.getElementById('moment').textContent"))
        assert not await ask(
            tab, "/NaN|undefined|Infinity/.test(document.querySelector('main').innerHTML)"
        )
    assert tab.console == []


async def test_a_prompt_streams_and_stops(tab: Driven, tokenizer: Tokenizer) -> None:
    """Tokens show as they come, Stop ends the computing of more, and a whole answer shows where its time went."""
    gate = Gate(steps=3)
    runner = MockRunner(vocab_size=tokenizer.vocab_size, on_step=gate)
    async with serving(tokenizer, runner, metrics_port=0) as served:
        await show(tab, served)
        await ask(tab, "document.querySelector('[name=max_tokens]').value = 2000")
        await ask(tab, "document.querySelector('[name=kind][value=text]').click()")
        await ask(tab, "document.getElementById('send').click()")
        await until(tab, "/Output tokens\\s*3/.test(document.getElementById('timings').innerText)")
        assert await ask(tab, "document.getElementById('answer').textContent.length") == 3
        await ask(tab, "document.getElementById('stop').click()")
        await until(tab, "document.getElementById('outcome').textContent.startsWith('Stopped')")
        async with asyncio.timeout(30):
            while "CANCELLED" not in served.app._console.metrics.tally.statuses:
                await served.load()
        gate.open()
        assert (await served.idle()).output_tokens < 10

        await ask(tab, "document.querySelector('[name=max_tokens]').value = 5")
        await ask(tab, "document.getElementById('send').click()")
        await until(tab, "document.getElementById('outcome').textContent === 'Ended: max tokens'")
        timings = str(await ask(tab, "document.getElementById('timings').innerText"))
        assert all(name in timings for name in ("Queue", "TTFT", "TPOT", "Rows"))
    assert tab.console == []


async def test_a_foreign_page_cannot_send_prompts(tab: Driven, tokenizer: Tokenizer) -> None:
    """What a browser lets another page send is refused, and what would not be it does not send."""
    async with serving(tokenizer, metrics_port=0) as served:
        url = f"http://127.0.0.1:{served.app.metrics_port}/playground"
        await asyncio.to_thread(tab.open, "about:blank")
        body = '\'{"generation": {"text": "one"}}\''
        headers = "{'Content-Type': 'application/json', 'Paceline-Playground': '1'}"
        for more in ("mode: 'no-cors'", f"headers: {headers}"):
            asked = f"fetch('{url}', {{method: 'POST', body: {body}, {more}}})"
            assert await ask(tab, f"{asked}.then(() => 'heard', () => 'refused')") == "refused"
        assert served.app._console.metrics.tally.statuses == {}
