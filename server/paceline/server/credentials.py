"""gRPC's side of TLS: a server's credentials that follow their files."""

from __future__ import annotations

import threading

import grpc

from .reloaded import Reloaded
from .tls import Tls, TlsFiles, open_tls


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials for a port. SetupError if the files are no good now.

    Every connection is greeted with the files as they are, or were when they last were good.
    """
    content = open_tls(files)
    latest = _Latest(content)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(content.get()),
        latest.fetch,  # type: ignore[arg-type]  # None is "no change", which its types do not know
        require_client_authentication=files.client_ca is not None,
    )


class _Latest:
    """What gRPC asks before each handshake, on threads of its own."""

    def __init__(self, content: Reloaded[Tls]) -> None:
        self._content = content
        self._given = content.get()
        self._lock = threading.Lock()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration, if it is not the one that gRPC has."""
        with self._lock:
            now = self._content.get()
            if now is self._given:
                return None
            self._given = now
        return _configuration(now)


def _configuration(tls: Tls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(tls.key, tls.certificate)], root_certificates=tls.client_ca
    )
