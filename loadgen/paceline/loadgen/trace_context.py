"""Begins a trace for some of the requests, as `traceparent` of W3C Trace Context, so that a slow one is found again."""

from __future__ import annotations

import random
import secrets

HEADER = "traceparent"


class Traces:
    """Traces a share of the requests, 0 to 1. No prompt and no figure of the load depends on which."""

    def __init__(self, share: float) -> None:
        self._share = share

    def begin(self) -> str:
        """The id of a new trace, 32 hex digits; empty for a request that is not traced."""
        return secrets.token_hex(16) if random.random() < self._share else ""


def traceparent(trace_id: str) -> str:
    """The header's value: the request is the first span of its trace, which is recorded."""
    return f"00-{trace_id}-{secrets.token_hex(8)}-01"
