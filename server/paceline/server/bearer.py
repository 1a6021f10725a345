"""The file of bearer tokens: hashes alone, one a line, read again when it changes.

name:sha256hex [rate=X] [concurrency=N] [admin]
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .caller import Caller
from .config import ServeConfig
from .errors import SetupError
from .quota import Allowance, Quota
from .reloaded import Reloaded, read_file

NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_LINES = 10_000  # every call is compared with each


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file."""

    name: str
    digest: bytes
    allowance: Allowance
    admin: bool


def digest_of(token: str) -> bytes:
    """What is kept of a token. Tokens are random and long, so a slow hash would defend nothing more."""
    return hashlib.sha256(token.encode()).digest()


def parse(text: str) -> tuple[Entry, ...]:
    """The entries of a file. SetupError names the line, and shows nothing of it."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            try:
                entries.append(_entry(*words))
            except ValueError as exc:
                raise SetupError(f"line {number}: {exc}") from exc
    if not entries:
        raise SetupError("there is no token in it")
    if len(entries) > _MAX_LINES:
        raise SetupError(f"at most {_MAX_LINES} tokens are allowed, not {len(entries)}")
    if len({entry.digest for entry in entries}) < len(entries):
        raise SetupError("one token is there twice")
    return tuple(entries)


def _entry(identity: str, *options: str) -> Entry:
    name, _, digest = identity.partition(":")
    if not NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
        raise ValueError("want name:sha256 as `paceline token` writes it")
    values: dict[str, str] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in ("rate", "concurrency", "admin") or (key == "admin") != (option == key):
            raise ValueError("options are rate=X, concurrency=N and admin")
        values[key] = value
    rate, concurrency = values.get("rate"), values.get("concurrency")
    return Entry(
        name,
        bytes.fromhex(digest),
        Allowance(
            None if rate is None else _positive(rate, float, "rate"),
            None if concurrency is None else int(_positive(concurrency, int, "concurrency")),
        ),
        "admin" in values,
    )


def _positive(text: str, kind: Callable[[str], float], name: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = 0
    if not 0 < value <= 1e9:  # false for NaN too
        raise ValueError(f"{name} must be a number above 0")
    return value


class Tokens:
    """Knows callers by their tokens. Belongs to one event loop.

    A token taken out of the file is refused from the next call on; what it runs goes on. The counts of a token
    that stays are kept.

    Raises SetupError if the file is no good now.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = Reloaded([path], lambda: _read(path))
        self._clock = clock
        self._entries: tuple[Entry, ...] = ()
        self._callers: dict[bytes, Caller] = {}
        self._refresh(self._file.get())

    @classmethod
    def of(cls, config: ServeConfig) -> Tokens | None:
        """Those of a server; None: everybody may."""
        return None if config.tokens is None else cls(Path(config.tokens))

    def __len__(self) -> int:
        return len(self._entries)

    def shown(self, credentials: Sequence[str]) -> Caller | None:
        """Whose call this is, by its `authorization` headers; None: nobody's, or not one bearer token."""
        if len(credentials) != 1:
            return None
        scheme, _, token = credentials[0].partition(" ")
        return self.caller(token.strip()) if scheme.lower() == "bearer" else None

    def caller(self, token: str) -> Caller | None:
        """Whose token this is; None: nobody's. How long it takes does not tell how close the token was."""
        entries = self._file.get()
        if entries is not self._entries:
            self._refresh(entries)
        shown, found = digest_of(token), None
        for digest, caller in self._callers.items():
            if hmac.compare_digest(digest, shown):
                found = caller
        return found

    def _refresh(self, entries: Iterable[Entry]) -> None:
        now, before = self._clock(), self._callers
        self._entries = tuple(entries)
        self._callers = {}
        for entry in self._entries:
            known = before.get(entry.digest)
            if known is None:
                quota = Quota(entry.allowance, now)
            else:
                quota = known.quota
                quota.allow(entry.allowance, now)
            self._callers[entry.digest] = Caller(entry.name, entry.admin, quota)


def _read(path: Path) -> tuple[Entry, ...]:
    content = read_file(path, "--tokens")
    try:
        return parse(content.decode())
    except (SetupError, UnicodeDecodeError) as exc:
        reason = exc if isinstance(exc, SetupError) else "no UTF-8 text"
        raise SetupError(f"--tokens {path}: {reason}") from exc
