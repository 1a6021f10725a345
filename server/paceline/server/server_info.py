"""How this server serves: versions, device, mode and bounds."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, field
from importlib import metadata

from paceline.v1 import generation_pb2 as pb

from .config import EngineConfig
from .request import ModelInfo
from .rpc_convert import MODES

FEATURES = (
    "abort",
    "echo",
    "logprobs",
    "logit_bias",
    "n",
    "penalties",
    "prompt_logprobs",
    "seed",
    "stop_strings",
)


def version() -> str:
    """Paceline's version, as installed."""
    try:
        return metadata.version("paceline")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0+unknown"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What GetServerInfo and the status page tell about this process."""

    config: EngineConfig
    default_max_tokens: int
    model: ModelInfo
    num_pages: int  # that requests can have
    num_threads: int
    has_chat_template: bool
    guided: bool = False
    replicas: int = 1
    started: float = field(default_factory=time.monotonic)

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self.started

    @property
    def features(self) -> list[str]:
        """What this server offers beyond plain generation."""
        optional = {
            "chat": self.has_chat_template,
            "guided_decoding": self.guided,
            "prefix_cache": self.config.prefix_cache,
        }
        return sorted([*FEATURES, *(name for name, offered in optional.items() if offered)])

    @property
    def versions(self) -> dict[str, str]:
        """Of Python, the platform and the libraries that matter."""
        return {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "grpcio": metadata.version("grpcio"),
            **self.model.versions,
        }

    def message(self) -> pb.GetServerInfoResponse:
        config = self.config
        return pb.GetServerInfoResponse(
            version=version(),
            mode=MODES[config.mode],
            max_batch_size=config.max_batch_size,
            max_wait_ms=config.max_wait_ms,
            max_step_tokens=config.max_step_tokens,
            max_queue_requests=config.max_queue_requests,
            max_queue_tokens=config.max_queue_tokens,
            default_max_tokens=self.default_max_tokens,
            page_size=config.page_size,
            num_pages=self.num_pages,
            device=self.model.device,
            num_threads=self.num_threads,
            uptime_s=self.uptime_s,
            versions=self.versions,
            features=self.features,
            replicas=self.replicas,
        )
