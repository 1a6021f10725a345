"""Addresses to listen on: found wanting before anything slow begins, with one line that says what to do."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from .errors import SetupError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def calls_loopback(hosts: Sequence[str]) -> bool:
    """Whether a request's `Host` headers are one, of a name that this machine alone has for itself.

    A page of another site can have its name point to this machine, but not change what the browser calls us.
    """
    if len(hosts) != 1:
        return False
    try:
        return is_loopback(urlsplit(f"//{hosts[0]}").hostname or "")
    except ValueError:
        return False


def check_free(host: str, port: int, flag: str) -> None:
    """SetupError if nothing can listen there."""
    take(host, port, flag).close()


def take(host: str, port: int, flag: str) -> socket.socket:
    """A socket on a port that nobody else has. SetupError if it cannot be had."""
    try:
        return _bind(host, port, socket.SO_REUSEADDR)
    except OSError as exc:
        raise cannot_listen(host, port, flag, exc) from exc


def cannot_listen(host: str, port: int, flag: str, exc: OSError) -> SetupError:
    """The line for the operator."""
    reason = (exc.strerror or str(exc)).lower()
    return SetupError(f"cannot listen on {target(host, port)}: {reason}; choose another {flag}")


def target(host: str, port: int) -> str:
    """`host:port` as gRPC and URLs write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reserve(host: str, port: int, flag: str) -> socket.socket:
    """A socket that holds the port for those of our processes that ask to share it; SetupError if taken.

    It does not listen, so no connection ever comes to it. Whoever does not share finds the port in use.
    """
    try:
        try:
            return _bind(host, port, socket.SO_REUSEPORT)
        except OSError:
            # Connections of an earlier server linger for a minute. With this option a second server could take
            # the port until our processes listen, so it comes second.
            return _bind(host, port, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
    except OSError as exc:
        raise cannot_listen(host, port, flag, exc) from exc


def _bind(host: str, port: int, *options: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family, kind)
    try:
        for option in options:
            held.setsockopt(socket.SOL_SOCKET, option, 1)
        held.bind(address)
    except OSError:
        held.close()
        raise
    return held
