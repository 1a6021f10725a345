"""Log lines of requests."""

from __future__ import annotations

import asyncio
import logging

import pytest

from paceline.server.errors import PacelineError, QueueFull
from paceline.server.logs import RequestRecord, fields


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
    heard: list[str] = []
    caplog.set_level(logging.INFO, "paceline.requests")

    def run() -> None:
        with RequestRecord("Generate", "ipv4:127.0.0.1:1", heard.append):
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
    assert heard == [status]
