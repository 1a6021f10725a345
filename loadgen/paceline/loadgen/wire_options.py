"""The settings of the connection: help texts and checks. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

PROTOCOLS = ("grpc", "openai")
FROM_ENVIRONMENT = {"api_key"}  # secrets: never written on a child's command line

WIRE_HELP = {
    "protocol": "grpc, or openai: an OpenAI-compatible HTTP server such as vLLM's or llama.cpp's",
    "model_name": "openai: model to ask for (default: the first that the server lists)",
    "chat": "openai: send every text as a user's message to /chat/completions",
    "strict": "openai: send OpenAI's own fields only, to servers that refuse others; answers then end by themselves",
    "tls": "grpc: encrypt, and check the server against the system's authorities",
    "ca": "PEM file of the authorities to trust instead; with grpc it implies --tls",
    "insecure": "grpc: send the token unencrypted to other machines, too",
    "token_file": "file with the bearer token to send with every request",
    "api_key": "bearer token itself; better in the environment, as PACELINE_API_KEY",
}


def base_url(target: str) -> str:
    """The base URL of an OpenAI-compatible server: http:// in front and /v1 behind, where nothing else is given."""
    url = (target if "://" in target else f"http://{target}").rstrip("/")
    return url if urlsplit(url).path else f"{url}/v1"


def is_url(target: str) -> bool:
    """Whether the target is one of HTTP, and so speaks OpenAI's protocol."""
    return target.startswith(("http://", "https://"))


def _protocol(text: str) -> str:
    if text not in PROTOCOLS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a protocol: {' or '.join(PROTOCOLS)}")
    return text


WIRE_CHECKS: dict[str, Callable[[str], Any]] = {"protocol": _protocol}
