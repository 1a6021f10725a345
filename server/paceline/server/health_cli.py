"""`paceline health`: asks a server over grpc.health.v1 whether it serves, for containers and scripts."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING


def main(argv: list[str]) -> int:
    """The exit code: 0 where it serves, else 1 and a line that says why."""
    arguments = _parser().parse_args(argv)
    try:
        status = _ask(arguments)
    except (grpc.RpcError, OSError) as error:
        reason = error.code().name if isinstance(error, grpc.Call) else str(error)
        return _complain(arguments.target, reason)
    if status != SERVING:
        return _complain(
            arguments.target, health_pb2.HealthCheckResponse.ServingStatus.Name(status)
        )
    sys.stdout.write("SERVING\n")
    return 0


def _ask(arguments: argparse.Namespace) -> health_pb2.HealthCheckResponse.ServingStatus:
    name = arguments.server_name
    options = [("grpc.ssl_target_name_override", name)] if name else []
    if arguments.ca:
        credentials = grpc.ssl_channel_credentials(Path(arguments.ca).read_bytes())
        channel = grpc.secure_channel(arguments.target, credentials, options)
    else:
        channel = grpc.insecure_channel(arguments.target)
    with channel:
        request = health_pb2.HealthCheckRequest(service=arguments.service)
        return (
            health_pb2_grpc.HealthStub(channel).Check(request, timeout=arguments.timeout_s).status
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paceline health",
        description="Ask a server whether it serves: exit code 0 if it does.",
    )
    port = os.environ.get("PACELINE_PORT", "50051")
    parser.add_argument(
        "target",
        nargs="?",
        default=f"127.0.0.1:{port}",
        help="host:port (default: 127.0.0.1, PACELINE_PORT or 50051)",
    )
    parser.add_argument(
        "--service", default="", help="ask for this service alone (default: all of the server)"
    )
    parser.add_argument("--ca", help="PEM file of the authorities of a server with TLS")
    parser.add_argument(
        "--server-name", help="the name in its certificate, where it is another one"
    )
    parser.add_argument("--timeout-s", type=float, default=3.0, help="(default: 3)")
    return parser


def _complain(target: str, reason: str) -> int:
    sys.stderr.write(f"paceline health: {target}: {reason}\n")
    return 1
