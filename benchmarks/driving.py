"""Drives the engine in this process, with a model loaded just as `paceline batch` loads it, and stamps each step."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from paceline.server import loader
from paceline.server.batch import BATCH, BatchOptions
from paceline.server.collector import settle
from paceline.server.engine import Engine
from paceline.server.offline_run import KeptRunner
from paceline.server.request import Output, Request, SamplingParams, StoppingParams, TokenLogprobs
from paceline.server.runner.dummy import shape_config
from paceline.server.settings import read_command
from paceline.server.torch_loader import load_torch
from roofline import Shape

GREEDY = SamplingParams(temperature=0.0)
FIRST_TOKEN = 3  # random prompts leave the usual special tokens out
_SILENCE_S = 120.0


@dataclass(slots=True)
class Driven:
    """What the engine delivered: (seconds, tokens) for each step, and all that each request got."""

    stamps: list[tuple[float, int]] = field(default_factory=list)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    logprobs: dict[str, list[TokenLogprobs]] = field(default_factory=dict)


class Loaded:
    """A model in memory, warmed up at the first run, for any number of runs.

    Args:
        flags: those of `paceline batch`.
    """

    def __init__(self, flags: Sequence[str]) -> None:
        self.options: BatchOptions = read_command(BATCH, ["-", "-", *flags])
        started = time.perf_counter()
        self.ready: loader.Loaded = load_torch(self.options)
        self.runner = KeptRunner(self.ready.runner)
        loaded = time.perf_counter()
        self.drive([self.request("warm-up", 8, 2)])
        self.load_s, self.warm_s = loaded - started, time.perf_counter() - loaded

    @property
    def shape(self) -> Shape:
        """Sizes of the model, which must be one of random weights."""
        assert self.options.dummy_weights is not None
        return Shape.of(shape_config(self.options.dummy_weights), self.ready.runner.info.dtype)

    def facts(self) -> dict[str, Any]:
        """What start-up took and left."""
        facts = {"load_s": self.load_s, "warm_s": self.warm_s, "pages": self.runner.num_pages}
        if torch.cuda.is_available():
            facts["gpu_reserved_mib"] = torch.cuda.memory_reserved() / 2**20
        return facts

    def request(
        self,
        name: str,
        prompt: int,
        output: int,
        sampling: SamplingParams = GREEDY,
        logprobs: int | None = None,
    ) -> Request:
        """A request of `prompt` random ids, the same for the same name, for exactly `output` tokens."""
        draw = random.Random(name)
        vocab = self.ready.runner.info.vocab_size
        ids = tuple(draw.randrange(FIRST_TOKEN, vocab) for _ in range(prompt))
        now = time.monotonic()
        return Request(name, ids, sampling, StoppingParams(output), now, logprobs=logprobs)

    def drive(
        self, requests: Sequence[Request], on_step: Callable[[int], None] = lambda tokens: None
    ) -> Driven:
        """Runs requests, submitted at once, to their ends.

        Args:
            on_step: called on the engine's thread after each step, with the tokens that it made.
        """
        driven, finished = Driven(), threading.Event()
        left = len(requests)

        def deliver(outputs: list[Output]) -> None:
            nonlocal left
            now, made = time.perf_counter(), 0
            for output in outputs:
                made += len(output.token_ids)
                driven.tokens.setdefault(output.request_id, []).extend(output.token_ids)
                driven.logprobs.setdefault(output.request_id, []).extend(output.logprobs)
                left -= output.finish is not None
            driven.stamps.append((now, made))
            on_step(made)
            if left == 0:
                finished.set()

        settle()  # as `paceline batch` and `paceline serve` do
        engine = Engine(self.runner, self.options, deliver)
        engine.start()
        try:
            for request in requests:
                engine.submit(request)
            seen = -1
            while not finished.wait(_SILENCE_S):
                if not engine.healthy or len(driven.stamps) == seen:
                    raise RuntimeError(f"the engine stands still with {left} requests left")
                seen = len(driven.stamps)
        finally:
            engine.stop()
        short = [
            r.id for r in requests if len(driven.tokens.get(r.id, ())) != r.stopping.max_tokens
        ]
        if short:
            raise RuntimeError(
                f"{len(short)} requests did not get all their tokens, {short[0]} first"
            )
        return driven

    def close(self) -> None:
        """Gives the memory back."""
        self.ready.runner.close()
        sys.stdout.flush()
