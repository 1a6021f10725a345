"""Log lines of requests."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from paceline.server.errors import PacelineError, QueueFull
from paceline.server.logs import JsonFormatter, RequestRecord, configure, configured, fields


def test_fields_are_quoted_where_they_must_be() -> None:
    """Nothing a client sends can break a line in two or forge a field."""
    line = fields({"id": 'a" b=\n', "plain": "x-1", "empty": "", "number": 1.5})
    assert line == r'id="a\" b=\n" plain=x-1 empty="" number=1.5'


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "OK"),
        (QueueFull("full", 1.0), "RESOURCE_EXHAUSTED"),
        (PacelineError("x"), "INTERNAL"),
        (ValueError("secret"), "INTERNAL"),
        (asyncio.CancelledError(), "CANCELLED"),
    ],
)
def test_every_end_is_one_line(
    error: BaseException | None, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However a request ends, one line says so, and the observer hears the status."""
    heard: list[tuple[str, str]] = []
    caplog.set_level(logging.INFO, "paceline.requests")

    def run() -> None:
        with RequestRecord("Generate", "ipv4:127.0.0.1:1", lambda *told: heard.append(told)):
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"rpc=Generate status={status} peer=ipv4:127.0.0.1:1")
    assert "secret" not in record.getMessage()
    assert heard == [(status, "queue_full" if isinstance(error, QueueFull) else "")]


def test_json_lines_parse_whatever_a_client_sends(caplog: pytest.LogCaptureFixture) -> None:
    """A request's event is one line of JSON with its fields beside time, level and process; errors keep their trace."""
    caplog.set_level(logging.INFO)
    with RequestRecord("Generate", 'a" b=\n', lambda *_: None):
        pass
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("other").exception("step of %d rows failed", 3)
    lines = [JsonFormatter().format(record) for record in caplog.records]
    assert [line.count("\n") for line in lines] == [0, 0]
    request, error = map(json.loads, lines)
    assert request | {"time": "", "pid": 0, "total_ms": 0} == {
        "time": "",
        "level": "info",
        "logger": "paceline.requests",
        "pid": 0,
        "event": "request",
        "rpc": "Generate",
        "status": "OK",
        "peer": 'a" b=\n',
        "total_ms": 0,
    }
    assert error["message"] == "step of 3 rows failed"
    assert error["exception"].endswith("ValueError: why")


@pytest.mark.parametrize("style", ["text", "json"])
def test_another_process_can_log_alike(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Level and style can be asked for and handed on."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)  # put back after the test
    configure("error", style)
    assert configured() == ("ERROR", style)
