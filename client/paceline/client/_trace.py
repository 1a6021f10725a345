"""The caller's trace goes along, where the caller uses OpenTelemetry; the client itself needs no part of it."""

from __future__ import annotations

import sys


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """What tells the server which span a call belongs to (`traceparent`); nothing where nobody traces."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())
