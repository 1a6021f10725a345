"""Asks a server how it is: health, what it serves, its load."""

from __future__ import annotations

import dataclasses
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paceline.client import Client, PacelineError
from paceline.loadgen.access import Access
from paceline.loadgen.grpc_wire import open_channel
from paceline.loadgen.series import Sample

PROBE_S = 2.0


class NotServing(Exception):
    """Nothing that serves was found at the target; the text says what was."""


class Probe:
    """A connection to one server, for questions only. Every question has a deadline of two seconds."""

    tells_load = True

    def __init__(self, target: str, access: Access | None = None) -> None:
        access = access or Access()
        self.target = target
        self._metadata = access.metadata()
        self._channel = open_channel(target, access)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._client = Client(
            target,
            attempts=1,
            timeout_s=PROBE_S,
            tls=access.secure,
            ca=access.ca or None,
            token=access.token() or None,
            insecure=access.insecure and not access.secure,
        )

    def check(self) -> None:
        """Raises NotServing unless the server's health is SERVING."""
        try:
            answer = self._health.Check(
                health_pb2.HealthCheckRequest(), timeout=PROBE_S, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise NotServing(f"{self.target}: no server answers ({error.code().name})") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            raise NotServing(f"{self.target}: the server is {name}")

    def server(self) -> dict[str, Any]:
        """GetServerInfo as plain values, the mode as the flag spells it. Raises NotServing."""
        try:
            values = dataclasses.asdict(self._client.server_info())
        except PacelineError as error:
            raise NotServing(f"{self.target}: not a Paceline server ({error})") from error
        return values | {"mode": values["mode"].name.lower(), "features": list(values["features"])}

    def model(self) -> dict[str, Any]:
        """GetModelInfo as plain values. Raises NotServing."""
        try:
            values = dataclasses.asdict(self._client.model_info())
        except PacelineError as error:
            raise NotServing(f"{self.target}: {error}") from error
        return values | {"eos_token_ids": list(values["eos_token_ids"])}

    def load(self) -> Sample:
        """GetLoad as plain values. Raises what the client raises."""
        return dataclasses.asdict(self._client.load())

    def close(self) -> None:
        self._client.close()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
