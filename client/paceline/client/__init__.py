"""The Paceline client: text generation over gRPC, blocking (`Client`) or asyncio (`AsyncClient`).

Needs grpcio and protobuf, nothing heavier.
"""

from paceline.client._aio import AsyncClient, AsyncStream
from paceline.client._connection import DEFAULT_TARGET, DEFAULT_TIMEOUT_S
from paceline.client._each import Progress
from paceline.client._sync import Client, Stream
from paceline.client.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    FeatureUnavailable,
    InvalidRequest,
    MessageTooLarge,
    PacelineError,
    QueueFull,
    ServerError,
    Unauthenticated,
    Unavailable,
    Violation,
)
from paceline.client.options import CallOptions, GenerationOptions, Item, Prompt
from paceline.client.results import (
    BatchingMode,
    Chunk,
    Completion,
    Finish,
    FinishReason,
    Generation,
    Load,
    ModelInfo,
    ServerInfo,
    Timings,
    TokenLogprob,
    TokenLogprobs,
    Tokens,
    Usage,
)

__all__ = [
    "DEFAULT_TARGET",
    "DEFAULT_TIMEOUT_S",
    "Aborted",
    "AsyncClient",
    "AsyncStream",
    "BatchingMode",
    "CallOptions",
    "Cancelled",
    "Chunk",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "FeatureUnavailable",
    "Finish",
    "FinishReason",
    "Generation",
    "GenerationOptions",
    "InvalidRequest",
    "Item",
    "Load",
    "MessageTooLarge",
    "ModelInfo",
    "PacelineError",
    "Progress",
    "Prompt",
    "QueueFull",
    "ServerError",
    "ServerInfo",
    "Stream",
    "Timings",
    "TokenLogprob",
    "TokenLogprobs",
    "Tokens",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "Violation",
]
