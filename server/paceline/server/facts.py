"""What is known once the model is loaded: the same in every process of a server."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .config import ServeConfig
from .job import Limits
from .request import ModelInfo
from .server_info import ServerInfo

if TYPE_CHECKING:  # the facts are for processes that load nothing, too
    from .engine import Engine
    from .loader import Loaded


@dataclass(frozen=True, slots=True)
class Facts:
    """The loaded model and the bounds of the engine that runs it."""

    model: ModelInfo
    max_context: int  # prompt and output together
    num_pages: int  # that requests can have
    num_threads: int
    has_chat_template: bool
    guided: bool = False  # whether completions can be constrained
    started: float = field(default_factory=time.monotonic)

    def info(self, config: ServeConfig) -> ServerInfo:
        """What clients and the status page are told: of several engines, the kind of their devices alone."""
        model = self.model
        if config.replicas > 1:
            model = replace(model, device=model.device.partition(":")[0])
        return ServerInfo(
            config=config,
            default_max_tokens=config.default_max_tokens,
            model=model,
            num_pages=self.num_pages,
            num_threads=self.num_threads,
            has_chat_template=self.has_chat_template,
            guided=self.guided,
            replicas=config.replicas,
            started=self.started,
        )

    def limits(self, config: ServeConfig) -> Limits:
        """What requests are checked against."""
        return Limits(
            vocab_size=self.model.vocab_size,
            max_context=self.max_context,
            max_queue_requests=config.max_queue_requests,
            max_queue_tokens=config.max_queue_tokens,
            default_max_tokens=config.default_max_tokens,
            eos_token_ids=frozenset(self.model.eos_token_ids),
            has_chat_template=self.has_chat_template,
            guided=self.guided,
        )


def gather(loaded: Loaded, engine: Engine) -> Facts:
    """The facts of an engine that has started."""
    return Facts(
        model=loaded.runner.info,
        max_context=engine.max_context,
        num_pages=engine.load().pages_total,
        num_threads=loaded.num_threads,
        has_chat_template=loaded.tokenizer.has_chat_template,
        guided=engine.guided,
    )
