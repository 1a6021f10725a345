"""The dashboard: one document of HTML, styles and scripts that asks for `status.json` every second, and that one."""

from __future__ import annotations

import base64
import hashlib
import time
from pathlib import Path
from typing import Any

import msgspec

from . import security
from .config import EngineConfig, ServeConfig
from .history import History
from .request import Load
from .server_info import ServerInfo, version

_FOLDER = Path(__file__).with_name("page")
_STYLES = ("dashboard.css",)
_SCRIPTS = ("charts.js", "dashboard.js", "playground.js")
_MORE_SETTINGS = (
    "default_max_tokens",
    "frontends",
    "quantization",
    "kv_cache_mib",
    "drain_timeout_s",
    "step_timeout_s",
)


def page() -> tuple[bytes, str]:
    """The document, and what its Content-Security-Policy has to allow: these styles and scripts, and us."""
    styles, scripts = _joined(_STYLES), _joined(_SCRIPTS)
    html = (_FOLDER / "dashboard.html").read_text(encoding="utf-8")
    html = html.replace("/* styles */", styles).replace("/* scripts */", scripts)
    policy = (
        f"script-src {_digest(scripts)}; style-src {_digest(styles)}; connect-src 'self'; img-src data:; "
        "require-trusted-types-for 'script'"
    )
    return html.encode(), policy


def loading_json(model: str) -> bytes:
    """The document while there is no engine yet."""
    return msgspec.json.encode(
        {"health": "loading", "version": version(), "model": {"name": model}}
    )


def status_json(
    info: ServerInfo, config: ServeConfig, load: Load, history: History, health: str
) -> bytes:
    """What the page shows. `health` is one of serving, draining, restarting, failed."""
    model = info.model
    recent = history.recent()
    document = {
        "health": health,
        "version": version(),
        "now_s": time.time(),
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
        "protection": security.described(config),
        "settings": _settings(config),
        "playground": _playground(info, config),
        "load": load,
        "latency": {"ttft": recent.ttft, "itl": recent.itl},
        "history": history.points(),
        "ended": history.ended(),
    }
    return msgspec.json.encode(document)


def _settings(config: ServeConfig) -> dict[str, Any]:
    """What shapes the work; no paths, no addresses."""
    values = config.model_dump(mode="json")
    return {name: values[name] for name in (*EngineConfig.model_fields, *_MORE_SETTINGS)}


def _playground(info: ServerInfo, config: ServeConfig) -> dict[str, Any]:
    return {
        "off": security.no_playground(config),
        "token": config.tokens is not None,
        "chat": info.has_chat_template,
        "max_tokens": info.default_max_tokens,
    }


def _joined(names: tuple[str, ...]) -> str:
    return "".join((_FOLDER / name).read_text(encoding="utf-8") for name in names)


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
