"""The files of TLS: read, and found good or wanting by a handshake with them in memory. Knows no gRPC."""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from .config import ServeConfig
from .errors import SetupError
from .reloaded import Reloaded, read_file

_ROUNDS = 4  # more than a handshake takes


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where they are, PEM all of them. With `client_ca` only clients with a certificate of it get in."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


@dataclass(frozen=True, slots=True)
class Tls:
    """What is in them."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    expires: str  # as OpenSSL writes it

    def __repr__(self) -> str:
        return f"Tls(expires={self.expires!r})"  # no key in a log or a traceback


def files_of(config: ServeConfig) -> TlsFiles | None:
    """The files that the settings name; None: no TLS. SetupError for half of what is needed."""
    if config.tls_cert is None and config.tls_key is None:
        if config.tls_client_ca is not None:
            raise SetupError("--tls-client-ca needs --tls-cert and --tls-key")
        return None
    if config.tls_cert is None or config.tls_key is None:
        given, needed = ("--tls-key", "--tls-cert")[:: 1 if config.tls_cert is None else -1]
        raise SetupError(f"{given} needs {needed}")
    client_ca = None if config.tls_client_ca is None else Path(config.tls_client_ca)
    return TlsFiles(Path(config.tls_cert), Path(config.tls_key), client_ca)


def open_tls(files: TlsFiles) -> Reloaded[Tls]:
    """The files' content, checked and read again when they change. SetupError if it is no good now."""
    return Reloaded(files.paths, lambda: read(files))


def read(files: TlsFiles) -> Tls:
    """The files' content. SetupError, in one line, if clients would refuse it or it would refuse all clients."""
    certificate = read_file(files.certificate, "--tls-cert")
    key = read_file(files.key, "--tls-key")
    client_ca = None
    if files.client_ca is not None:
        client_ca = read_file(files.client_ca, "--tls-client-ca")
        _check_authorities(files.client_ca)
    return Tls(certificate, key, client_ca, _handshake(files))


def _check_authorities(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as exc:
        raise SetupError(f"--tls-client-ca {path}: no PEM file of certificates") from exc
    ends = [ssl.cert_time_to_seconds(str(each["notAfter"])) for each in context.get_ca_certs()]
    if ends and max(ends) < time.time():
        raise SetupError(f"--tls-client-ca {path}: certificate has expired")


def _handshake(files: TlsFiles) -> str:
    """When the certificate expires, from a handshake in memory whose client trusts this certificate alone."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # names are for clients to judge
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        server.load_cert_chain(files.certificate, files.key, password=_no_password)
        client.load_verify_locations(cafile=files.certificate)
        return _shake_hands(client, server)
    except ssl.SSLCertVerificationError as exc:
        raise SetupError(f"--tls-cert {files.certificate}: {exc.verify_message}") from exc
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            line = f"--tls-key {files.key}: not the key of {files.certificate}"
        else:
            line = f"--tls-cert {files.certificate}, --tls-key {files.key}: no certificate and key in PEM"
        raise SetupError(line) from exc
    except OSError as exc:  # it went away since it was read
        raise SetupError(f"--tls-cert {files.certificate}: {exc.strerror}") from exc


def _no_password() -> str:
    """Instead of a question on the terminal."""
    raise SetupError("--tls-key: the key is encrypted; gRPC takes it without a password only")


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(_ROUNDS):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return str((ends[0].getpeercert() or {}).get("notAfter", "unknown"))
