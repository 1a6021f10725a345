"""Whether what the HTTP port needs is installed. Imports none of it."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import SetupError


def check() -> None:
    """SetupError with one line where it is not."""
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise SetupError("--http-port needs the extra `http`: pip install 'paceline[http]'")
