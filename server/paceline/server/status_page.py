"""The status page: one file of HTML that asks for `status.json` every second, and that document."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from .history import History
from .request import Load
from .server_info import ServerInfo, version


def html() -> bytes:
    """The page. It needs nothing from the network but this server."""
    return Path(__file__).with_name("status_page.html").read_bytes()


def loading_json(model: str) -> bytes:
    """The document while there is no engine yet."""
    return json.dumps(
        {"health": "loading", "version": version(), "model": {"name": model}}
    ).encode()


def status_json(info: ServerInfo, load: Load, history: History, health: str) -> bytes:
    """The document: `health` is one of serving, draining, failed."""
    model, config = info.model, info.config
    document = {
        "health": health,
        "version": version(),
        "uptime_s": info.uptime_s,
        "mode": config.mode.value,
        "max_batch_size": config.max_batch_size,
        "max_queue_requests": config.max_queue_requests,
        "num_threads": info.num_threads,
        "page_size": config.page_size,
        "model": {
            "name": model.name,
            "architecture": model.architecture,
            "num_parameters": model.num_parameters,
            "dtype": model.dtype,
            "device": model.device,
            "context_tokens": model.max_context_tokens,
        },
        "load": asdict(load),
        "history": [asdict(point) for point in history.points()],
    }
    return json.dumps(document).encode()
