"""Asks a server for its health and tells by the exit code: for orchestrators whose own gRPC probe knows no TLS.

python -m paceline.server.health_probe 127.0.0.1:50051 --ca ca.crt --name paceline.default.svc
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .rpc import SERVICE

SERVING = health_pb2.HealthCheckResponse.SERVING


def main(argv: Sequence[str] | None = None) -> int:
    """0 if the server is SERVING; else 1, with a line on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m paceline.server.health_probe", description=__doc__
    )
    parser.add_argument("target", help="host:port")
    parser.add_argument("--ca", type=Path, help="PEM file of the authorities to trust; implies TLS")
    parser.add_argument("--name", help="the name in the server's certificate, where not the target")
    parser.add_argument("--timeout-s", type=float, default=3.0)
    options = parser.parse_args(argv)
    with _channel(options.target, options.ca, options.name) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=options.timeout_s)
        except grpc.RpcError as error:
            return _unhealthy(f"{error.code().name}: {error.details()}")
    if answer.status != SERVING:
        return _unhealthy(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return 0


def _channel(target: str, ca: Path | None, name: str | None) -> grpc.Channel:
    if ca is None:
        return grpc.insecure_channel(target)
    options = [("grpc.ssl_target_name_override", name)] if name else []
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(ca.read_bytes()), options)


def _unhealthy(reason: str) -> int:
    sys.stderr.write(f"not serving: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
