"""Requests that engines died of, perhaps. Pure.

A request is known by what it asks for, not by its id: whoever sends it again may send it under another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import msgspec

from ..request import Request

FINGERPRINT_BYTES = 16
_MOST = 4096

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def fingerprint(request: Request) -> bytes:
    """The same for requests that compute the same, but for the seed: the server draws one where none is given."""
    same = replace(
        request,
        id="",
        arrival=0.0,
        priority=0,
        deadline=None,
        time_limit=None,
        sampling=replace(request.sampling, seed=0),
    )
    return hashlib.blake2b(_encode(same), digest_size=FINGERPRINT_BYTES).digest()


class Suspects:
    """How many engines in a row died while they computed each request; the oldest are forgotten past `most`."""

    def __init__(self, most: int = _MOST) -> None:
        self.deaths: dict[bytes, int] = {}
        self._most = most

    def blame(self, fingerprints: Iterable[bytes]) -> None:
        """An engine died, and computed these."""
        for each in fingerprints:
            self.deaths[each] = self.deaths.pop(each, 0) + 1
        while len(self.deaths) > self._most:
            del self.deaths[next(iter(self.deaths))]

    def clear(self, fingerprint: bytes) -> None:
        """An engine has computed it to its end."""
        self.deaths.pop(fingerprint, None)
