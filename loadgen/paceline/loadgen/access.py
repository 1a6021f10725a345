"""How a server is reached beyond its address: encryption, and a token to show."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from paceline.client.targets import is_local

KEY_VARIABLE = "PACELINE_API_KEY"
HIDDEN = "***"


class AccessError(ValueError):
    """A file of keys cannot be read; the text says which, in one line."""


@dataclass(frozen=True, slots=True)
class Access:
    """TLS and bearer token, as `paceline.client` takes them. `ca` is a PEM file and implies TLS."""

    tls: bool = False
    ca: str = ""
    token_file: str = ""
    api_key: str = ""
    insecure: bool = False

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls or bool(self.ca)

    def token(self) -> str:
        """The token to show: a given one, else the file's content, else that of the environment, else none."""
        if self.api_key:
            return self.api_key
        if self.token_file:
            return _read(self.token_file).decode().strip()
        return os.environ.get(KEY_VARIABLE, "")

    def check(self, target: str) -> None:
        """AccessError where a token would travel to another gRPC server's machine for everyone to read."""
        if self.token() and not (self.secure or self.insecure or is_local(target)):
            raise AccessError(
                f"a token would travel unencrypted to {target}: give --tls or --ca, or say --insecure"
            )

    def roots(self) -> bytes | None:
        """The authorities to trust, as PEM; None: the system's."""
        return _read(self.ca) if self.ca else None

    def environment(self) -> dict[str, str]:
        """What tells a child process the key, which its command line would show to everybody."""
        return {KEY_VARIABLE: self.api_key} if self.api_key else {}

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every gRPC call."""
        token = self.token()
        return (("authorization", f"Bearer {token}"),) if token else ()


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AccessError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def without_secrets(command: list[str]) -> list[str]:
    """The command line as it may be written down: the value of `--api-key` hidden."""
    shown: list[str] = []
    for word in command:
        if shown and shown[-1] == "--api-key":
            shown.append(HIDDEN)
        elif word.startswith("--api-key="):
            shown.append(f"--api-key={HIDDEN}")
        else:
            shown.append(word)
    return shown
