"""`--deterministic` on plain torch: what a request gets does not depend on its neighbours, to the last bit."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
import torch

from paceline.server.config import EngineConfig, ModelConfig
from paceline.server.pages import PagePool
from paceline.server.request import Output, Request, SamplingParams, StoppingParams
from paceline.server.runner import attention
from paceline.server.runner.loading import LoadedModel
from paceline.server.runner.torch_runner import TorchRunner
from paceline.server.scheduler import Scheduler
from tiny_models import MAX_POSITIONS, model_info, tiny_model

TARGETS = 3
ROWS = 24


def runner(family: str, dtype: torch.dtype, config: EngineConfig) -> TorchRunner:
    torch.set_num_threads(2)
    _, model = tiny_model(family)
    model.to(dtype)  # type: ignore[arg-type]
    model.set_attn_implementation(attention.register())
    info = model_info(family, model)
    loaded = LoadedModel(model, model.config, None, info, model.device, dtype, 2)  # type: ignore[arg-type]
    return TorchRunner(loaded, config, ModelConfig(kv_cache_mib=4))


def targets() -> list[Request]:
    """Prompts of different lengths, drawn and greedy, with log-probabilities."""
    rng = random.Random(1)
    found = []
    for i in range(TARGETS):
        prompt = tuple(rng.randrange(256) for _ in range(rng.randint(1, 40)))
        sampling = SamplingParams(temperature=0.8 * (i % 2), seed=i)
        found.append(Request(f"t{i}", prompt, sampling, StoppingParams(8), 0.0, logprobs=3))
    return found


def neighbours() -> list[Request]:
    rng = random.Random(2)
    return [
        Request(
            f"n{i}",
            tuple(rng.randrange(256) for _ in range(rng.randint(1, 24))),
            SamplingParams(temperature=0.9, top_k=20, seed=i),
            StoppingParams(rng.randint(1, 8)),
            0.0,
        )
        for i in range(ROWS)
    ]


def run(
    torch_runner: TorchRunner, config: EngineConfig, requests: list[Request]
) -> dict[str, list[Output]]:
    pages = PagePool(torch_runner.num_pages, config.page_size)
    scheduler = Scheduler(config, pages, MAX_POSITIONS, torch_runner.buckets)
    outputs: defaultdict[str, list[Output]] = defaultdict(list)
    for request in requests:
        scheduler.add(request)
    while (step := scheduler.plan(0.0)) is not None:
        for output in scheduler.apply(step, torch_runner.collect(torch_runner.launch(step)), 0.0):
            outputs[output.request_id].append(output)
    return outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_alone_and_in_a_crowd(dtype: torch.dtype) -> None:
    """Tokens and log-probabilities of three requests, each alone and all among 24 others."""
    config = EngineConfig(
        max_batch_size=ROWS, page_size=4, deterministic=True, prefill_chunk=16, max_step_tokens=64
    )
    torch_runner = runner("llama", dtype, config)
    alone = [run(torch_runner, config, [request])[request.id] for request in targets()]
    assert all(len(outputs) == 8 for outputs in alone)
    crowd = neighbours()
    together = run(torch_runner, config, [*crowd[:8], *targets(), *crowd[8:]])
    for request, expected in zip(targets(), alone, strict=True):
        got = together[request.id]
        assert [o.token_ids for o in got] == [o.token_ids for o in expected]
        assert [o.logprobs for o in got] == [o.logprobs for o in expected]


def test_without_it_bits_differ() -> None:
    """The test above would notice: in ordinary steps neighbours change the last bits."""
    config = EngineConfig(max_batch_size=ROWS, page_size=4, max_step_tokens=512)
    torch_runner = runner("llama", torch.float32, config)
    alone = [run(torch_runner, config, [request])[request.id] for request in targets()]
    together = run(torch_runner, config, [*neighbours(), *targets()])
    assert [together[r.id] for r in targets()] != alone
