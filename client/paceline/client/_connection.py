"""Where and how to connect: address, TLS, token, deadlines, retries. Shared by both clients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import grpc

from paceline.client._trace import trace_metadata
from paceline.client.targets import is_local

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 300.0
DEFAULT_ATTEMPTS = 4
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
SERVICE = "paceline.v1.GenerationService"
_SEVERAL = ("dns:", "ipv4:", "ipv6:", "xds:")  # without a scheme, an address is one server's


class ConnectionOptions(TypedDict, total=False):
    """Keyword arguments of both clients, beside the target."""

    timeout_s: float | None
    """Deadline of calls that give none: 300 seconds unless set. None: no deadline."""
    token: str | None
    """Sent as `authorization: Bearer …` with every call; without TLS to this machine alone."""
    tls: bool
    """Encrypt, and check the server against the system's certificate authorities."""
    ca: str | Path | None
    """PEM file of the authorities to trust instead. Implies TLS."""
    certificate: str | Path | None
    """PEM file of the client's own certificate chain. Implies TLS."""
    key: str | Path | None
    """PEM file of its private key."""
    insecure: bool
    """Send the token unencrypted to other machines, too, where everyone in between can read it."""
    attempts: int
    """Tries of one call in all, 1 to 5; gRPC waits between them as the server says. 4 unless set."""
    channel_options: Sequence[tuple[str, Any]]
    """More gRPC channel options; they win over the client's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A client's settings, and what gRPC needs to be told of them."""

    target: str | Sequence[str]
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    insecure: bool = False
    attempts: int = DEFAULT_ATTEMPTS
    channel_options: Sequence[tuple[str, Any]] = ()

    def __str__(self) -> str:
        """Where to and how; never the token."""
        kind = "tls" if self.secure else "plaintext"
        return f"{self.address!r}, {kind}{', token' if self.token else ''}"

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= 5:
            raise ValueError(f"attempts is {self.attempts}; gRPC takes 1 to 5")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a client certificate needs both certificate and key")
        if self.secure and self.insecure:
            raise ValueError("TLS and insecure exclude each other")
        if self.token and not (self.secure or self.insecure or is_local(self.target)):
            raise ValueError(
                f"a token would travel unencrypted to {self.address}: use TLS, or say insecure if you want that"
            )

    @property
    def address(self) -> str:
        """The target in gRPC's spelling; several addresses become one list that is used in turn."""
        if isinstance(self.target, str):
            return self.target
        if not self.target:
            raise ValueError("no target given")
        if len(self.target) == 1:
            return self.target[0]
        scheme = "ipv6" if self.target[0].startswith("[") else "ipv4"
        return f"{scheme}:{','.join(self.target)}"

    @property
    def balanced(self) -> bool:
        """Whether the target names, or may name, several servers."""
        return self.address.startswith(_SEVERAL)

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls or self.ca is not None or self.certificate is not None

    def credentials(self) -> grpc.ChannelCredentials:
        """TLS credentials from the PEM files."""
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca),
            private_key=_read(self.key),
            certificate_chain=_read(self.certificate),
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of a call made now."""
        token = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        return token + trace_metadata()

    def deadline_s(self, options: Mapping[str, Any]) -> float | None:
        """The deadline of a call with these options, in seconds from now."""
        timeout_s: float | None = options.get("timeout_s", self.timeout_s)
        return timeout_s

    def options(self) -> list[tuple[str, Any]]:
        """Channel options: retries and balancing by gRPC's own service config, keepalive, message sizes."""
        own: dict[str, Any] = {
            "grpc.enable_retries": 1 if self.attempts > 1 else 0,
            "grpc.service_config": json.dumps(self._service_config()),
            # A server that was restarted is found again soon; gRPC's own waits grow to two minutes.
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.max_reconnect_backoff_ms": 2_000,
            "grpc.keepalive_time_ms": 30_000,
            "grpc.keepalive_timeout_ms": 10_000,
            "grpc.keepalive_permit_without_calls": 0,
            "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
            "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        }
        return list((own | dict(self.channel_options)).items())

    def _service_config(self) -> dict[str, Any]:
        method: dict[str, Any] = {"name": [{"service": SERVICE}]}
        if self.attempts > 1:
            # The backoff holds where the server sends no `grpc-retry-pushback-ms`.
            method["retryPolicy"] = {
                "maxAttempts": self.attempts,
                "initialBackoff": "0.2s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            }
        config: dict[str, Any] = {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [method],
        }
        if self.balanced:
            # Servers that load or drain say so and are passed over. A lone one is asked all the same: only
            # it can tell when to come back, and it answers `load` and `abort` while it drains.
            config["healthCheckConfig"] = {"serviceName": SERVICE}
        return config


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
