"""A whole server on a model without weights: in this process, or as a program of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from paceline.server.app import App, running_app
from paceline.server.config import ServeConfig
from paceline.server.errors import SetupError
from paceline.server.guidance import Guide, Guides
from paceline.server.loader import Loaded
from paceline.server.mock import MockRunner
from paceline.server.sequence import Sequence
from paceline.server.step import Step
from paceline.server.tokenizer import Tokenizer
from paceline.v1 import generation_pb2 as pb
from paceline.v1 import generation_pb2_grpc as rpc
from small_tokenizers import byte_level_tokenizer

WAIT_S = 60.0


@dataclass(frozen=True)
class Served:
    """A running server and an asyncio client of it."""

    app: App
    channel: grpc.aio.Channel
    stub: Any

    async def load(self) -> pb.GetLoadResponse:
        load: pb.GetLoadResponse = await self.stub.GetLoad(pb.GetLoadRequest())
        return load

    async def until(self, condition: Callable[[pb.GetLoadResponse], bool]) -> pb.GetLoadResponse:
        """The first load that fulfils the condition."""
        async with asyncio.timeout(WAIT_S):
            while not condition(load := await self.load()):
                pass
        return load

    @property
    def in_flight(self) -> tuple[str, ...]:
        """Ids of the requests that the server knows."""
        return () if self.app._hub is None else self.app._hub.request_ids

    async def idle(self) -> pb.GetLoadResponse:
        """The load once nothing runs, waits or owns pages."""
        return await self.until(lambda load: not (load.running or load.waiting or load.pages_used))


@contextlib.asynccontextmanager
async def serving(
    tokenizer: Tokenizer, runner: MockRunner | None = None, **settings: Any
) -> AsyncIterator[Served]:
    """A server on a free port with this runner; settings are those of ServeConfig."""
    loaded = Loaded(runner or MockRunner(vocab_size=tokenizer.vocab_size), tokenizer)
    config = ServeConfig.model_validate({"port": 0, "metrics_port": None, **settings})
    async with (
        running_app(config, lambda _: loaded) as app,
        grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel,
    ):
        yield Served(app, channel, rpc.GenerationServiceStub(channel))


class Gate:
    """A runner's `on_step`: lets so many steps through and holds the engine in the next one until opened."""

    def __init__(self, steps: int = 0) -> None:
        self._steps = steps
        self._open = threading.Event()
        self.reached = threading.Event()  # the engine is held: whoever waited for a row has it

    def open(self) -> None:
        self._open.set()

    def __call__(self, step: Step) -> None:
        if self._steps:
            self._steps -= 1
        else:
            self.reached.set()
            assert self._open.wait(WAIT_S), "nobody opened the gate"


class HeldGuides(Guides):
    """Compiles nothing until it is released. `begun` tells that a thread waits for that."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, tokenizer.vocab_size, [1])
        self.begun = threading.Event()
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def _compile(self, *what: Any) -> Guide:
        self.begun.set()
        assert self._released.wait(WAIT_S), "nobody released it"
        return super()._compile(*what)


def paced(step_s: float) -> Callable[[Step], None]:
    """An `on_step` that makes the model slow, so that requests last."""
    return lambda step: time.sleep(step_s)


def scripted(tokenizer: Tokenizer, text: str) -> Callable[[Sequence], int]:
    """A `choose` that writes `text` over and over."""
    ids = tokenizer.encode(text)
    return lambda sequence: ids[sequence.num_output % len(ids)]


def generation(prompt: str = "one two", max_tokens: int = 8, **fields: Any) -> pb.Generation:
    """A plain generation; `fields` are further fields of the message."""
    message = pb.Generation(stopping=pb.Stopping(max_tokens=max_tokens))
    if not {"text", "token_ids", "chat"} & fields.keys():
        message.text = prompt
    message.MergeFrom(pb.Generation(**fields))
    return message


def load_mock(_: ServeConfig) -> Loaded:
    """A slow endless model.

    In the environment, `STEP_S` is the seconds of a step, `LOAD_S` those of loading, `MODEL` a file that must be there.
    """
    model = os.environ.get("MODEL")
    if model is not None and not Path(model).exists():
        raise SetupError(f"there is no {model}")
    tokenizer = Tokenizer(byte_level_tokenizer())
    on_step = paced(float(os.environ.get("STEP_S", "0.005")))
    runner = MockRunner(vocab_size=tokenizer.vocab_size, max_context_tokens=8000, on_step=on_step)
    time.sleep(float(os.environ.get("LOAD_S", "0")))
    return Loaded(runner, tokenizer)


def main() -> int:
    """Serves `load_mock`'s model as a program, with `serve`'s flags. `END_S` seconds are what children get to end."""
    from mock_serving import load_mock as importable
    from paceline.server import logs
    from paceline.server.processes import supervisor
    from paceline.server.serve import run
    from paceline.server.settings import read

    supervisor._END_S = float(os.environ.get("END_S", supervisor._END_S))
    config = read(sys.argv[1:])
    logs.configure(config.log_level)
    return run(config, importable)


if __name__ == "__main__":
    sys.exit(main())
