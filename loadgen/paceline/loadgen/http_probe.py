"""Asks an OpenAI-compatible server how it is, as far as that protocol can tell; and chooses who asks."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self

from paceline.loadgen.access import Access
from paceline.loadgen.bench_options import BenchOptions
from paceline.loadgen.openai_wire import OpenAIWire
from paceline.loadgen.probe import PROBE_S, NotServing, Probe
from paceline.loadgen.series import Sample
from paceline.loadgen.wire_options import base_url, is_url

MODE = "openai"


class ServerProbe(Protocol):
    """What the bench asks a server. Each question may raise NotServing."""

    target: str
    tells_load: bool

    def check(self) -> None: ...
    def server(self) -> dict[str, Any]: ...
    def model(self) -> dict[str, Any]: ...
    def load(self) -> Sample: ...
    def __enter__(self) -> ServerProbe: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def open_probe(options: BenchOptions) -> ServerProbe:
    """For the target that the user named: by its URL, or by gRPC."""
    assert options.target is not None
    if is_url(options.target):
        return HttpProbe(options.target, options.model_name, options.access)
    return Probe(options.target, options.access)


class HttpProbe:
    """Questions to an OpenAI-compatible server: its list of models is all that every one of them answers."""

    tells_load = False

    def __init__(self, target: str, model: str, access: Access) -> None:
        self.target = base_url(target)
        self._wire = OpenAIWire(self.target, model=model, access=access)

    def check(self) -> None:
        """Raises NotServing unless the server lists its models."""
        if trouble := self._wire.connect(PROBE_S):
            raise NotServing(f"{self.target}: no OpenAI-compatible server answers ({trouble})")

    def server(self) -> dict[str, Any]:
        """The name that stands for its batching mode in the report."""
        return {"mode": MODE, "url": self.target}

    def model(self) -> dict[str, Any]:
        self.check()
        return {"name": self._wire.model or None}

    def load(self) -> Sample:
        """Nothing but that it is there: such a server does not say how busy it is, and asking would only add to it."""
        if not self._wire.reachable(PROBE_S):
            raise NotServing(f"{self.target}: nobody listens there")
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wire.close()
