"""OpenVINO's runner beside `generate()`, for every family that it takes."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

pytest.importorskip("openvino")

from paceline.server.config import EngineConfig, Mode, ModelConfig
from paceline.server.errors import SetupError
from paceline.server.pages import PagePool
from paceline.server.request import FinishReason, Output, Request, SamplingParams, StoppingParams
from paceline.server.runner import attention
from paceline.server.runner.loading import LoadedModel
from paceline.server.runner.make import load_runner, make_runner
from paceline.server.runner.openvino_model import PAGE_SIZE
from paceline.server.runner.openvino_runner import OpenVinoRunner
from paceline.server.runner.torch_runner import TorchRunner
from paceline.server.runner_port import Runner
from paceline.server.scheduler import Scheduler
from tiny_models import (
    FAMILIES,
    MAX_POSITIONS,
    greedy_reference,
    mixed_work,
    model_info,
    references,
    save_tiny_model,
    tiny_model,
)

GREEDY = SamplingParams(temperature=0.0)
NUM_PAGES = 5  # too few for all rows: preemption happens
TAKEN = [family for family in FAMILIES if family != "gemma2"]  # OpenVINO has no soft-caps


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Converted models are kept in a folder of the test's own."""
    monkeypatch.setenv("PACELINE_CACHE", str(tmp_path))
    return tmp_path / "openvino"


def loaded(family: str) -> LoadedModel:
    torch.set_num_threads(1)
    config, model = tiny_model(family)
    model.set_attn_implementation(attention.register())
    info = model_info(family, model)
    return LoadedModel(model, config, None, info, model.device, model.dtype, 1)  # type: ignore[arg-type]


def entries(cache: Path) -> list[Path]:
    """The converted models; a lock lies beside them."""
    return [path for path in cache.iterdir() if path.is_dir()]


def engine_config(mode: Mode = Mode.CONTINUOUS, **more: object) -> EngineConfig:
    settings = {"max_batch_size": 6, "max_wait_ms": 0, "max_step_tokens": 48}
    return EngineConfig.model_validate(
        {"mode": mode, "page_size": PAGE_SIZE} | settings | dict(more)
    )


def model_config(**settings: object) -> ModelConfig:
    return ModelConfig.model_validate({"kv_cache_mib": 4, "runtime": "openvino"} | settings)


class Drive:
    """Scheduler and runner, stepped by hand."""

    def __init__(self, runner: OpenVinoRunner, config: EngineConfig) -> None:
        assert runner.num_pages >= NUM_PAGES
        self.runner = runner
        self.pages = PagePool(NUM_PAGES, config.page_size)
        self.scheduler = Scheduler(config, self.pages, MAX_POSITIONS, runner.buckets)
        self.tokens: defaultdict[str, list[int]] = defaultdict(list)
        self.ends: dict[str, Output] = {}

    def add(self, name: str, prompt: list[int], length: int) -> None:
        request = Request(name, tuple(prompt), GREEDY, StoppingParams(length), 0.0)
        self.scheduler.add(request)

    def step(self) -> None:
        step = self.scheduler.plan(0.0)
        if step is None:
            return
        sampled = self.runner.collect(self.runner.launch(step))
        for output in self.scheduler.apply(step, sampled, 0.0):
            self.tokens[output.request_id] += output.token_ids
            if output.finish:
                self.ends[output.request_id] = output


@pytest.mark.parametrize("family", TAKEN)
def test_tokens_equal_generate(family: str) -> None:
    """In all modes, with arrivals and cancels in between, shared prefixes and preemption."""
    made = make_runner(loaded(family), engine_config(), model_config())
    assert isinstance(made, OpenVinoRunner)
    for mode in Mode:
        drive, rng = Drive(made, engine_config(mode)), random.Random(mode.value)
        cancelled = set(rng.sample(range(len(mixed_work())), 2))
        for i, (prompt, length) in enumerate(mixed_work()):
            drive.add(str(i), prompt, length)
            for _ in range(rng.randint(0, 2)):
                drive.step()
            if i in cancelled:
                drive.scheduler.cancel(str(i), FinishReason.CANCELLED, 0.0)
        while not drive.scheduler.idle:
            drive.step()
        for i, reference in enumerate(references(family)):
            got = drive.tokens[str(i)]
            assert got == (reference[: len(got)] if i in cancelled else reference), f"{mode} {i}"
        assert drive.pages.num_used == 0
        load = drive.scheduler.load(0.0)
        if mode is Mode.CONTINUOUS:
            assert load.cached_tokens > 0
            assert load.preemptions > 0


def test_a_row_of_not_a_number_harms_nobody() -> None:
    """A request with a NaN embedding fails; who gets its pages afterwards does not."""
    source = loaded("llama")
    poison, prefix = 255, list(range(40, 80))
    _, model = tiny_model("llama")
    prompts = [[*prefix, *tail] for tail in ([1], [2, 3], [4] * 9)]
    expected = [greedy_reference(model, prompt, 12) for prompt in prompts]
    weights = source.model.get_parameter("model.embed_tokens.weight")
    weights[poison] = float("nan")
    config = engine_config(max_batch_size=2)
    runner = make_runner(source, config, model_config())
    assert isinstance(runner, OpenVinoRunner)
    drive = Drive(runner, config)
    drive.add("bad", [*prefix, poison, 2], 12)
    for i, prompt in enumerate(prompts):
        drive.add(str(i), prompt, 12)
    while not drive.scheduler.idle:
        drive.step()
    finish = drive.ends["bad"].finish
    assert finish is not None
    assert finish.reason is FinishReason.ERROR
    assert [drive.tokens[str(i)] for i in range(3)] == expected


def logits_of(runner: Runner, prompt: list[int]) -> torch.Tensor:
    """Those of the prompt's last token."""
    assert isinstance(runner, OpenVinoRunner)
    pages = PagePool(NUM_PAGES, PAGE_SIZE)
    scheduler = Scheduler(engine_config(), pages, MAX_POSITIONS, runner.buckets)
    scheduler.add(Request("a", tuple(prompt), GREEDY, StoppingParams(4), 0.0))
    step = scheduler.plan(0.0)
    assert step is not None
    return torch.from_numpy(runner.launch(step)[1][:1].copy())


def test_int8_stays_near(own_cache: Path) -> None:
    """Logits with int8 weights stay near those of float32, and are not the same."""
    config, prompt = engine_config(), list(range(30))
    logits = []
    for quantization in ("none", "int8"):
        runner = make_runner(loaded("llama"), config, model_config(quantization=quantization))
        logits.append(logits_of(runner, prompt))
    away = (logits[0] - logits[1]).abs().max()
    assert 0 < away < 0.1 * logits[0].abs().max()
    assert len(entries(own_cache)) == 2


def test_a_converted_model_is_kept(own_cache: Path) -> None:
    """The second start reads what the first one wrote; other weights are another model and replace it."""
    make_runner(loaded("llama"), engine_config(), model_config())
    (folder,) = entries(own_cache)
    written = (folder / "model.xml").stat().st_mtime_ns
    make_runner(loaded("llama"), engine_config(), model_config())
    assert (folder / "model.xml").stat().st_mtime_ns == written

    other = loaded("llama")
    other.model.get_parameter("model.embed_tokens.weight")[7] += 1
    make_runner(other, engine_config(), model_config())
    (replaced,) = entries(own_cache)
    assert replaced != folder


def test_a_known_model_is_not_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second start on, the converted model is all that is read, until a file of the model changes."""
    folder = tmp_path / "tiny"
    save_tiny_model("llama", folder)
    config = model_config(model=str(folder), dtype="float32", device="cpu", max_context_tokens=64)
    first = load_runner(config, engine_config())

    def refuse(*_: object) -> None:
        raise AssertionError("loaded again")

    with monkeypatch.context() as patched:
        patched.setattr("paceline.server.runner.loading.load", refuse)
        second = load_runner(config, engine_config())
        with pytest.raises(AssertionError, match="loaded again"):
            load_runner(config.model_copy(update={"quantization": "int8"}), engine_config())
        (folder / "model.safetensors").touch()
        with pytest.raises(AssertionError, match="loaded again"):
            load_runner(config, engine_config())
    assert second.runner.info == first.runner.info
    text = "Riders share the wind: 1, 2, 3 … ✓"
    assert second.tokenizer.encode(text) == first.tokenizer.encode(text)
    assert second.tokenizer.eos_token_ids == first.tokenizer.eos_token_ids
    prompt = list(range(30))
    logits = [logits_of(each.runner, prompt) for each in (first, second)]
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("family", "engine", "why"),
    [
        ("gemma2", {}, "soft-cap"),
        ("llama", {"page_size": 16}, "32 tokens"),
        ("llama", {"deterministic": True}, "--deterministic"),
    ],
)
def test_torch_takes_over(family: str, engine: dict[str, object], why: str) -> None:
    """What OpenVINO cannot compute, torch does; who insists is told why it cannot be."""
    config = engine_config(Mode.CONTINUOUS, **engine)
    with pytest.raises(SetupError, match=why):
        make_runner(loaded(family), config, model_config())
    runner = make_runner(loaded(family), config, model_config(runtime="auto"))
    assert isinstance(runner, TorchRunner)


def test_a_refusal_leaves_the_model_in_its_own_format() -> None:
    """Where torch takes over, it computes in the number format that was asked for."""
    source = loaded("gemma2")
    torch.nn.Module.to(source.model, torch.bfloat16)
    runner = make_runner(
        dataclasses.replace(source, dtype=torch.bfloat16),
        engine_config(),
        model_config(runtime="auto"),
    )
    assert isinstance(runner, TorchRunner)
    assert source.model.dtype is torch.bfloat16


# What it starts and whom it asks while it loads a model, line by line.
_WATCHED = """
import sys

WATCHED = {"os.fork", "socket.connect", "socket.getaddrinfo"}
sys.addaudithook(lambda event, _: print(event) if event in WATCHED else None)
from paceline.server.config import EngineConfig, ModelConfig
from paceline.server.runner.make import load_runner

load_runner(ModelConfig(model=sys.argv[1], runtime="openvino"), EngineConfig(page_size=32))
print("openvino" in sys.modules)
"""


def test_nobody_is_told_that_it_is_used(tmp_path: Path) -> None:
    """Outside CI, too, it forks no process, calls nobody and leaves nothing in the user's home."""
    home = tmp_path / "home"
    home.mkdir()
    save_tiny_model("llama", tmp_path / "model")
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED, str(tmp_path / "model")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
    assert not list(home.rglob("openvino*"))
