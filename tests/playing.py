"""A prompt to the playground, as our page sends it, or as something else would."""

from __future__ import annotations

import http.client
import json
from typing import Any

WAIT_S = 60.0
BODY = {"generation": {"text": "one two", "stopping": {"max_tokens": 5}}}


def post(port: int | None, body: object = None, **headers: str | None) -> http.client.HTTPResponse:
    """The answer to a POST with the page's headers, some of them changed; None leaves one out."""
    assert port is not None
    host = f"127.0.0.1:{port}"
    sent = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
    sent |= {"Paceline-Playground": "1"}
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(host, timeout=WAIT_S)
    connection.request(
        "POST",
        "/playground",
        body if isinstance(body, bytes) else json.dumps(body or BODY),
        {name: value for name, value in (sent | changed).items() if value is not None},
    )
    return connection.getresponse()


def play(port: int | None, body: object = None, **headers: str | None) -> list[dict[str, Any]]:
    """All messages of an answer."""
    return [json.loads(line) for line in post(port, body, **headers)]
