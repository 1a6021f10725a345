"""Batched output equals `generate()` one by one, in every mode and for every checked family."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import cache

import pytest
import torch

from paceline.server.config import EngineConfig, Mode, ModelConfig
from paceline.server.errors import SetupError
from paceline.server.pages import PagePool
from paceline.server.request import (
    FinishReason,
    Output,
    Request,
    SamplingParams,
    StoppingParams,
)
from paceline.server.runner import attention
from paceline.server.runner.loading import LoadedModel, load
from paceline.server.runner.torch_runner import TorchRunner
from paceline.server.scheduler import Scheduler
from tiny_models import (
    FAMILIES,
    MAX_POSITIONS,
    greedy_reference,
    mixed_work,
    model_info,
    references,
    tiny_model,
)

GREEDY = SamplingParams(temperature=0.0)
NUM_PAGES = 45  # too few for eight rows: preemption happens
Work = list[tuple[list[int], list[int]]]  # prompts, and the tokens that follow each
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@cache
def loaded(family: str, device: str) -> LoadedModel:
    """A tiny model that computes with our attention; `generate()` works on it no longer."""
    torch.set_num_threads(1)
    config, model = tiny_model(family)
    torch.nn.Module.to(model, device)
    model.set_attn_implementation(attention.register())
    info = model_info(family, model)
    return LoadedModel(model, config, None, info, model.device, model.dtype, 1)  # type: ignore[arg-type]


class Drive:
    """Scheduler and runner, stepped by hand so that arrivals and cancels fall where the seed says."""

    def __init__(self, family: str, mode: Mode, device: str = "cpu") -> None:
        config = EngineConfig(
            mode=mode, max_batch_size=8, max_wait_ms=0, max_step_tokens=48, page_size=4
        )
        self.runner = TorchRunner(loaded(family, device), config, ModelConfig(kv_cache_mib=1))
        assert self.runner.num_pages >= NUM_PAGES
        self.pages = PagePool(NUM_PAGES, config.page_size)
        self.scheduler = Scheduler(config, self.pages, MAX_POSITIONS, self.runner.buckets)
        self.tokens: defaultdict[str, list[int]] = defaultdict(list)
        self.now = 0.0

    def step(self) -> None:
        self.now += 1.0
        step = self.scheduler.plan(self.now)
        if step is not None:
            samples = self.runner.collect(self.runner.launch(step))
            self.take(self.scheduler.apply(step, samples, self.now))

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            assert output.finish is None or output.finish.error is None
            self.tokens[output.request_id] += output.token_ids


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("device", DEVICES)
def test_tokens_equal_generate(family: str, mode: Mode, device: str) -> None:
    """Arrivals and cancels in between change nobody's tokens."""
    drive = Drive(family, mode, device)
    rng = random.Random(mode.value)
    work = mixed_work()
    cancelled = set(rng.sample(range(len(work)), 3))
    for i, (prompt, length) in enumerate(work):
        stopping = StoppingParams(length)
        drive.scheduler.add(Request(str(i), tuple(prompt), GREEDY, stopping, drive.now))
        for _ in range(rng.randint(0, 2)):
            drive.step()
        if i in cancelled:
            drive.take(drive.scheduler.cancel(str(i), FinishReason.CANCELLED, drive.now))
    while not drive.scheduler.idle:
        drive.step()

    expected = references(family)
    for i, reference in enumerate(expected):
        got = drive.tokens[str(i)]
        assert got == (reference[: len(got)] if i in cancelled else reference), f"request {i}"
    assert drive.pages.num_used == 0
    load = drive.scheduler.load(drive.now)
    assert load.cached_tokens > 0
    if mode is Mode.CONTINUOUS:
        assert load.preemptions > 0


def test_a_row_of_not_a_number_harms_nobody() -> None:
    """A request with a NaN embedding fails; who shares its prefix or gets its pages does not."""
    drive = Drive("llama", Mode.CONTINUOUS)
    poison = 255
    prefix = list(range(40, 60))  # five full pages
    prompts = [[*prefix, *tail] for tail in ([1], [2, 3], [4] * 9)]
    _, model = tiny_model("llama")
    expected = [greedy_reference(model, prompt, 12) for prompt in prompts]
    assert all(poison not in tokens for tokens in expected)
    requests = [(str(i), prompt) for i, prompt in enumerate(prompts)]
    requests.insert(1, ("bad", [*prefix, poison, 2]))
    weights = loaded("llama", "cpu").model.get_parameter("model.embed_tokens.weight")
    saved = weights[poison].clone()
    weights[poison] = float("nan")
    ends: dict[str, Output] = {}

    def step() -> None:
        planned = drive.scheduler.plan(0.0)
        assert planned is not None
        samples = drive.runner.collect(drive.runner.launch(planned))
        for output in drive.scheduler.apply(planned, samples, 0.0):
            drive.tokens[output.request_id] += output.token_ids
            if output.finish:
                ends[output.request_id] = output

    try:
        for id, prompt in requests:  # each joins while those before it run
            drive.scheduler.add(Request(id, tuple(prompt), GREEDY, StoppingParams(12), 0.0))
            step()
        while not drive.scheduler.idle:
            step()
    finally:
        weights[poison] = saved

    assert ends["bad"].finish is not None
    assert ends["bad"].finish.reason is FinishReason.ERROR
    assert ends["bad"].finish.usage.cached_tokens == len(prefix)
    assert [drive.tokens[str(i)] for i in range(len(prompts))] == expected


PROMPTS = (
    "The three primary colours are",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):",
    "Q: What is the capital of France?\nA:",
    "Cyclists ride close behind one another because the one in front breaks the wind, and so",
    "1, 2, 3, 4,",
)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.CONTINUOUS])
def test_the_embedded_model_equals_generate(mode: Mode) -> None:
    """The real default model, batched on real prompts, says what it says one prompt at a time."""
    ours, expected = embedded()
    config = EngineConfig(mode=mode, max_batch_size=4, max_wait_ms=0, max_step_tokens=16)
    runner = TorchRunner(ours, config, ModelConfig(kv_cache_mib=64))
    pages = PagePool(runner.num_pages, config.page_size)
    scheduler = Scheduler(config, pages, 512, runner.buckets)
    got: defaultdict[str, list[int]] = defaultdict(list)
    for i, (prompt, tokens) in enumerate(expected):
        stopping = StoppingParams(len(tokens))
        scheduler.add(Request(str(i), tuple(prompt), GREEDY, stopping, 0.0))
    while (step := scheduler.plan(0.0)) is not None:
        samples = runner.collect(runner.launch(step))
        for output in scheduler.apply(step, samples, 0.0):
            got[output.request_id] += output.token_ids

    for i, (_, tokens) in enumerate(expected):
        assert got[str(i)] == tokens, PROMPTS[i]


@cache
def embedded() -> tuple[LoadedModel, Work]:
    """The embedded model with our attention; prompts, and what transformers' own made of them before."""
    try:
        loaded = load(ModelConfig(dtype="float32", device="cpu", num_threads=2))
    except SetupError as exc:
        if "no package index within reach" in str(exc):
            pytest.skip(str(exc))
        raise
    prompts = [loaded.tokenizer.encode(prompt) for prompt in PROMPTS]
    lengths = range(6, 6 + 3 * len(prompts), 3)
    expected = [
        (prompt, greedy_reference(loaded.model, prompt, length))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    loaded.model.set_attn_implementation(attention.register())
    return loaded, expected
