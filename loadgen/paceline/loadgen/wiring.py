"""Chooses the protocol: once per process, and only the chosen one is imported."""

from __future__ import annotations

from paceline.loadgen.options import LoadOptions
from paceline.loadgen.wire import Wire


def make_wire(options: LoadOptions, host: str | None) -> Wire:
    """The connections that these settings ask for, none open yet. Raises AccessError."""
    target, access = options.address(host), options.access
    if options.protocol == "openai":
        from paceline.loadgen.openai_wire import OpenAIWire

        return OpenAIWire(
            target,
            model=options.model_name,
            chat=options.chat,
            strict=options.strict,
            access=access,
        )
    from paceline.loadgen.grpc_wire import GrpcWire

    return GrpcWire(target, options.channels, access, options.trace_share)
