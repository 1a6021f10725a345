"""The GPU's runner beside `generate()`: on a GPU where there is one, else by Triton's interpreter."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cache

import pytest
import torch

from triton_interpreter import DEVICE  # before triton

pytest.importorskip("triton")
from paceline.server.config import EngineConfig, Mode, ModelConfig
from paceline.server.pages import PagePool
from paceline.server.request import ModelInfo, Output, Request, SamplingParams, StoppingParams
from paceline.server.runner.loading import LoadedModel
from paceline.server.runner.paged_runner import PagedRunner
from paceline.server.scheduler import Scheduler
from paceline.server.step import Step
from tiny_models import EOS, FAMILIES, MAX_POSITIONS, greedy_reference, tiny_model

# The interpreter takes its time: one plain family, one with windows and soft-caps, one that is no Llama.
FAMILIES_HERE = FAMILIES if DEVICE.type == "cuda" else ("llama", "gemma2", "gpt2")
GREEDY = SamplingParams(temperature=0.0)
NUM_PAGES = 14  # too few for all rows: preemption happens


def loaded(family: str) -> LoadedModel:
    """A tiny model of its own for each test: a runner takes it apart."""
    torch.set_num_threads(1)
    config, model = tiny_model(family)
    torch.nn.Module.to(model, DEVICE)
    info = ModelInfo(
        name=family,
        architecture=family,
        num_parameters=0,
        dtype="float32",
        device=str(DEVICE),
        vocab_size=config.vocab_size,
        max_context_tokens=MAX_POSITIONS,
        eos_token_ids=(EOS,),
        num_layers=3,
        hidden_size=48,
    )
    return LoadedModel(model, config, None, info, model.device, model.dtype, 1)  # type: ignore[arg-type]


class Drive:
    """Scheduler and runner, one step launched ahead."""

    def __init__(self, family: str, mode: Mode = Mode.CONTINUOUS, **settings: object) -> None:
        config = EngineConfig(
            mode=mode, max_batch_size=4, max_wait_ms=0, max_step_tokens=24, page_size=4
        )
        model = ModelConfig.model_validate({"kv_cache_mib": 1, "compile": "off", **settings})
        self.runner = PagedRunner(loaded(family), config, model)
        assert self.runner.num_pages >= NUM_PAGES
        self.pages = PagePool(NUM_PAGES, config.page_size)
        self.scheduler = Scheduler(config, self.pages, MAX_POSITIONS, self.runner.buckets)
        self.tokens: defaultdict[str, list[int]] = defaultdict(list)
        self.outputs: defaultdict[str, list[Output]] = defaultdict(list)
        self._in_flight: tuple[Step, object] | None = None

    def step(self) -> None:
        step = self.scheduler.plan(0.0)
        launched = None if step is None else (step, self.runner.launch(step))
        self.land()
        self._in_flight = launched

    def land(self) -> None:
        if self._in_flight is not None:
            step, handle = self._in_flight
            for output in self.scheduler.apply(step, self.runner.collect(handle), 0.0):
                assert output.finish is None or output.finish.error is None
                self.tokens[output.request_id] += output.token_ids
                self.outputs[output.request_id].append(output)
        self._in_flight = None

    def finish(self) -> None:
        while not self.scheduler.idle:
            self.step()
        self.land()


def work() -> list[tuple[list[int], int]]:
    """Prompts of 1 to 25 tokens, two with a common beginning, outputs of 9 to 14 tokens."""
    rng = random.Random(11)
    prompts = [[rng.randrange(256) for _ in range(n)] for n in (1, 25, 9, 17)]
    prompts += [[*prompts[1][:21], 3, 4]]
    return [(prompt, rng.randint(9, 14)) for prompt in prompts]


@cache
def references(family: str) -> list[list[int]]:
    torch.set_num_threads(1)
    _, model = tiny_model(family)
    return [greedy_reference(model, prompt, length) for prompt, length in work()]


@pytest.mark.parametrize("family", FAMILIES_HERE)
def test_tokens_equal_generate(family: str) -> None:
    """Pages, chunks, preemption, prefixes and a step in flight change nobody's tokens."""
    drive = Drive(family)
    for i, (prompt, length) in enumerate(work()):
        drive.scheduler.add(Request(str(i), tuple(prompt), GREEDY, StoppingParams(length), 0.0))
        drive.step()
    drive.finish()
    assert [drive.tokens[str(i)] for i in range(len(work()))] == references(family)
    assert drive.pages.num_used == 0
    load = drive.scheduler.load(0.0)
    assert load.cached_tokens > 0 and load.preemptions > 0


@pytest.mark.parametrize("mode", [Mode.SEQUENTIAL, Mode.STATIC, Mode.DYNAMIC])
def test_every_mode(mode: Mode) -> None:
    """The rectangles of the other modes, padding and all, go through the same line of tokens."""
    drive = Drive("llama", mode)
    for i, (prompt, length) in enumerate(work()):
        drive.scheduler.add(Request(str(i), tuple(prompt), GREEDY, StoppingParams(length), 0.0))
    drive.finish()
    assert [drive.tokens[str(i)] for i in range(len(work()))] == references("llama")


def test_transformers_own_layers_say_the_same() -> None:
    """Without the fused layers, the model's own code runs on the same kernels."""
    drive = Drive("llama", fused_layers=False)
    for i, (prompt, length) in enumerate(work()):
        drive.scheduler.add(Request(str(i), tuple(prompt), GREEDY, StoppingParams(length), 0.0))
    drive.finish()
    assert [drive.tokens[str(i)] for i in range(len(work()))] == references("llama")
