"""The rules of starting: nothing reachable from outside without protection, no setting that protects nothing."""

from __future__ import annotations

import logging

from . import http_extra, tls
from .bearer import Tokens
from .config import ServeConfig
from .errors import SetupError
from .listen import is_loopback

logger = logging.getLogger(__name__)


def check(config: ServeConfig) -> None:
    """Refuses, before anything slow begins, what is unsafe or no good. SetupError with one line."""
    if config.http_port is not None:
        http_extra.check()
    files = tls.files_of(config)
    outside = not is_loopback(config.host)
    if files is not None and config.insecure:
        raise SetupError("--insecure and --tls-cert exclude each other")
    if outside and files is None and not config.insecure:
        raise SetupError(
            f"--host {config.host} lets other machines in without encryption; give --tls-cert and --tls-key, "
            "use 127.0.0.1, or say --insecure if that is what you want"
        )
    if files is not None:
        logger.info("TLS certificate good until %s", tls.read(files).expires)
    if (tokens := Tokens.of(config)) is not None:
        logger.info("bearer tokens: %d, in %s", len(tokens), config.tokens)
    _warn(config, outside, files is not None)


def _warn(config: ServeConfig, outside: bool, encrypted: bool) -> None:
    """Of what was asked for by name, and may still surprise."""
    if outside and config.tokens is None and config.tls_client_ca is None:
        logger.warning(
            "whoever reaches %s may use this server: it has neither --tokens nor --tls-client-ca",
            config.host,
        )
    if outside and config.tokens is not None and not encrypted:
        logger.warning("--insecure: tokens travel readable for everyone in between")
    if config.metrics_port is not None and not is_loopback(config.metrics_host):
        logger.warning(
            "whoever reaches %s may read /metrics and the status page, which are plain HTTP",
            config.metrics_host,
        )


def no_playground(config: ServeConfig) -> str | None:
    """Why the status page may not send prompts; None: it may, as a client of the service like any other."""
    if not config.playground:
        return "this server was started with --no-playground"
    if config.metrics_port is None or not is_loopback(config.metrics_host):
        return f"other machines reach this page, for --metrics-host is {config.metrics_host}"
    if config.tls_client_ca is not None:
        return "this server asks its clients for certificates, and the page has none"
    return None


def described(config: ServeConfig) -> str:
    """What protects the port, for people."""
    parts = []
    if config.tls_client_ca is not None:
        parts.append("mutual TLS")
    elif config.tls_cert is not None:
        parts.append("TLS")
    if config.tokens is not None:
        parts.append("tokens")
    return " and ".join(parts)
