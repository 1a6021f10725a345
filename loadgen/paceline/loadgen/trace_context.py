"""Begins a trace for some of the requests, as `traceparent` of W3C Trace Context, so that a slow one is found again."""

from __future__ import annotations

import random
import secrets

HEADER = "traceparent"


class Traces:
    """Traces a share of the requests, 0 to 1. No prompt and no figure of the load depends on which."""

    def __init__(self, share: float) -> None:
        self._share = share

    def begin(self) -> tuple[str, str]:
        """The header's value for a request, and the id of its trace if it is to be recorded: 32 hex digits.

        Whoever begins a trace decides for all who go on with it, so the other requests have a header, too, which says
        no. Empty where nothing is traced.
        """
        if not self._share:
            return "", ""
        trace_id, recorded = secrets.token_hex(16), random.random() < self._share
        header = f"00-{trace_id}-{secrets.token_hex(8)}-{recorded:02x}"
        return header, trace_id if recorded else ""
