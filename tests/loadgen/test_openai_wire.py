"""OpenAI's protocol, against a scripted HTTP server."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paceline.loadgen.access import Access
from paceline.loadgen.call import Call
from paceline.loadgen.openai_wire import OpenAIWire
from paceline.loadgen.prompt import Prompt
from paceline.loadgen.timing import Record
from paceline.loadgen.wire_options import base_url

SERVER = Path(__file__).with_name("openai_server.py")
WAIT_S = 60.0


@dataclass(frozen=True)
class Served:
    """A running scripted server and the file it writes to."""

    url: str
    log: Path

    def noted(self, count: int) -> list[dict[str, Any]]:
        """The streams that ended, once there are so many."""
        until = time.monotonic() + WAIT_S
        while True:
            lines = self.log.read_text().splitlines() if self.log.exists() else []
            if len(lines) >= count:
                return [json.loads(line) for line in lines]
            assert time.monotonic() < until, f"{len(lines)} of {count} streams ended"


@contextmanager
def openai_server(folder: Path, *options: str) -> Iterator[Served]:
    """A scripted server on a free port, stopped by its process id."""
    log = folder / "server.jsonl"
    command = [sys.executable, str(SERVER), "--log", str(log), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Served(base_url(f"127.0.0.1:{int(process.stdout.readline())}"), log)
        finally:
            process.terminate()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with openai_server(tmp_path) as running:
        yield running


@pytest.fixture
def wire(served: Served) -> Iterator[OpenAIWire]:
    made = OpenAIWire(served.url)
    assert made.connect(WAIT_S) == ""
    yield made
    made.close()


def prompt(max_tokens: int = 8, **script: Any) -> Prompt:
    return Prompt("a", json.dumps(script), max_tokens=max_tokens)


def run(wire: OpenAIWire, asked: Prompt, timeout_s: float = WAIT_S) -> tuple[Call, Record]:
    call = Call(asked, 0, 1, "measure", time.perf_counter)
    call.run(wire, timeout_s)
    return call, call.record(mode="m", worker=0)


@pytest.mark.parametrize("usage", ["end", "each", "last"])
def test_several_tokens_a_message(wire: OpenAIWire, usage: str) -> None:
    """Counts come from the server, at the end or message by message; the empty first message is no token."""
    _, record = run(wire, prompt(10, per_message=3, usage=usage))
    assert record.ok and not record.gap and record.finish == "MAX_TOKENS"
    assert record.tokens == ([3, 3, 3, 1] if usage == "each" else [2, 3, 2, 3])
    assert record.counted_tokens == record.output_tokens == 10
    assert record.prompt_tokens == 7 and record.server is None


def test_without_usage_a_message_is_a_token(wire: OpenAIWire) -> None:
    """A server that never tells is believed to send one token a message."""
    _, record = run(wire, prompt(6, usage="none"))
    assert record.ok and not record.gap
    assert record.tokens == [1] * 6 and record.output_tokens == 6


def test_times_are_the_servers(served: Served, wire: OpenAIWire) -> None:
    """The client's stamps follow the server's own, taken from the same clock, within 5 ms: TTFT and every gap."""
    records = [run(wire, prompt(20, first_ms=15.0, gap_ms=3.0))[1] for _ in range(5)]
    late, gaps = [], []
    for record, line in zip(records, served.noted(5), strict=True):
        left_s = line["left_s"]
        assert len(left_s) == len(record.arrivals_s) == 20
        late.append(record.arrivals_s[0] - left_s[0])
        gaps += [
            abs((seen - seen_before) - (left - left_before))
            for seen_before, seen, left_before, left in zip(
                record.arrivals_s, record.arrivals_s[1:], left_s, left_s[1:], strict=False
            )
        ]
    # A machine that others keep busy holds up some, whoever reads them: the undisturbed ones count.
    assert min(late) >= 0
    assert min(late) < 0.005
    assert statistics.quantiles(gaps, n=10)[0] < 0.005


def test_what_is_sent(served: Served, wire: OpenAIWire) -> None:
    """Token ids and text go to completions, conversations to chat, each with what its prompt asks for."""
    ids = Prompt("a", prompt_ids=(5, 6, 7), max_tokens=2, seed=3, options=(("top_k", 4),))
    chat = Prompt("c", messages=(("system", "be brief"), ("user", "hi")), max_tokens=2, priority=2)
    for asked in (ids, chat):
        assert run(wire, asked)[1].ok
    first, second = served.noted(2)
    assert first["path"] == "/v1/completions" and first["asked"]["prompt"] == [5, 6, 7]
    assert first["asked"] == {
        "model": "scripted",
        "prompt": [5, 6, 7],
        "max_tokens": 2,
        "temperature": 0.0,
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "ignore_eos": True,
        "top_k": 4,
    }
    assert second["path"] == "/v1/chat/completions" and second["asked"]["priority"] == 2
    assert second["asked"]["messages"][1] == {"role": "user", "content": "hi"}


def test_chat_on_request(served: Served) -> None:
    """With `chat` every text is a user's message; token ids cannot be one, and that is said."""
    wire = OpenAIWire(served.url, model="other", chat=True)
    call, record = run(wire, Prompt("a", "hello", max_tokens=3))
    assert record.ok and served.noted(1)[0]["path"] == "/v1/chat/completions"
    assert served.noted(1)[0]["asked"]["model"] == "other"
    call, record = run(wire, Prompt("a", prompt_ids=(1,), max_tokens=3))
    assert record.status == "INVALID_ARGUMENT" and "token ids" in call.details
    wire.close()


def test_a_server_that_takes_no_other_fields(tmp_path: Path) -> None:
    """Its refusal says which ones; with `strict` none are sent. A model that is named needs no list of models."""
    with openai_server(tmp_path, "--strict") as served:
        assert OpenAIWire(served.url).connect(WAIT_S) == "500 for /v1/models: cannot list models"
        asked = Prompt("a", "hello", max_tokens=3, priority=2, options=(("top_k", 4), ("top_p", 1)))
        for strict in (False, True):
            wire = OpenAIWire(served.url, model="folder/model", strict=strict)
            assert wire.connect(WAIT_S) == ""
            call, record = run(wire, asked)
            wire.close()
            if not strict:
                assert record.status == "INVALID_ARGUMENT" and "ignore_eos" in call.details
        assert record.ok and record.counted_tokens == 3
        (line,) = served.noted(1)
    assert "ignore_eos" not in line["asked"] and line["asked"]["top_p"] == 1
    assert line["asked"]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (429, "RESOURCE_EXHAUSTED"),
        (503, "UNAVAILABLE"),
        (400, "INVALID_ARGUMENT"),
        (404, "INVALID_ARGUMENT"),
        (499, "CANCELLED"),
        (504, "DEADLINE_EXCEEDED"),
        (500, "INTERNAL"),
    ],
)
def test_statuses(wire: OpenAIWire, code: int, status: str) -> None:
    """HTTP's statuses become gRPC's names, with the server's words."""
    call, record = run(wire, prompt(status=code))
    assert (record.status, call.details) == (status, "as scripted")
    assert call.failed and record.ttft_s is None
    assert run(wire, prompt(2))[1].ok


def test_an_error_in_mid_stream(wire: OpenAIWire) -> None:
    """An error event ends the request with its status; what came before stays counted."""
    call, record = run(wire, prompt(8, error_after=3))
    assert (record.status, call.details) == ("UNAVAILABLE", "out of luck")
    assert record.counted_tokens == 3 and call.failed


def test_a_stream_that_breaks_off(wire: OpenAIWire) -> None:
    """A connection that ends before the answer does is a failure, not a short answer, and is not sent again."""
    _, record = run(wire, prompt(8, break_after=2))
    assert record.status == "UNAVAILABLE" and record.counted_tokens == 2
    assert run(wire, prompt(2))[1].ok


def test_the_time_limit(wire: OpenAIWire) -> None:
    """What outlasts its time limit is DEADLINE_EXCEEDED, in silence and between tokens alike."""
    _, silent = run(wire, prompt(first_ms=60_000.0), timeout_s=0.2)
    _, slow = run(wire, prompt(100_000, gap_ms=5.0), timeout_s=1.0)
    assert silent.status == slow.status == "DEADLINE_EXCEEDED"
    assert slow.counted_tokens > 1


def test_a_cut_wakes_its_reader(served: Served, wire: OpenAIWire) -> None:
    """A stream cut from elsewhere ends at once as cut, and the server notices."""
    call = Call(prompt(1_000_000, gap_ms=5.0), 0, 1, "measure", time.perf_counter)
    reader = threading.Thread(target=call.run, args=(wire, WAIT_S))
    reader.start()
    until = time.monotonic() + WAIT_S
    while call.tokens < 3:
        assert time.monotonic() < until
    call.cut()
    reader.join(WAIT_S)
    record = call.record(mode="m", worker=0)
    assert record.status == "CANCELLED" and record.cut and not call.failed
    assert not served.noted(1)[0]["whole"]


def test_a_planned_cancel(served: Served, wire: OpenAIWire) -> None:
    """A reader that leaves after five tokens ends the stream, and nothing has failed."""
    asked = Prompt("a", json.dumps({"gap_ms": 5.0}), max_tokens=1_000_000, cancel_after=5)
    call, record = run(wire, asked)
    assert record.cancelled_by_plan and record.counted_tokens == 5 and not call.failed
    assert not served.noted(1)[0]["whole"]


def test_the_key(tmp_path: Path) -> None:
    """The key is shown as a bearer token; a wrong one is said in one line."""
    with openai_server(tmp_path, "--api-key", "secret") as served:
        good = OpenAIWire(served.url, access=Access(api_key="secret"))
        bad = OpenAIWire(served.url, access=Access(api_key="guess"))
        assert run(good, prompt(2))[1].ok
        call, record = run(bad, prompt(2))
        assert (record.status, call.details) == ("INVALID_ARGUMENT", "wrong key")
        good.close()
        bad.close()


def test_nobody_there(free_port: int) -> None:
    """Where nobody listens, connecting says so and a request is UNAVAILABLE."""
    wire = OpenAIWire(base_url(f"http://127.0.0.1:{free_port}"))
    assert "refused" in wire.connect(1.0)
    assert run(wire, prompt())[1].status == "UNAVAILABLE"


def test_base_urls() -> None:
    """A bare address gets scheme and /v1; a path that is given stays."""
    assert base_url("localhost:8000") == "http://localhost:8000/v1"
    assert base_url("https://host/") == "https://host/v1"
    assert base_url("http://host:1/api/v2/") == "http://host:1/api/v2"
