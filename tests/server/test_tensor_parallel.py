"""`paceline serve --tensor-parallel 2` on two CPU ranks, or GPUs: what it says, and what comes of a rank's death."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import torch
from transformers import PreTrainedModel

from paceline.server.config import ServeConfig
from paceline.server.errors import SetupError
from paceline.server.runner.make import load_runner
from paceline.v1 import generation_pb2 as pb
from process_serving import COMMAND, Server, status_of
from tiny_models import greedy_reference, mixed_work, save_tiny_model

ON_GPUS = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or (ON_GPUS and torch.cuda.device_count() < 2),
    reason="two ranks on CPUs, or on two GPUs, kept by Linux",
)

PAGES = 42  # of 4 tokens each, in a MiB of one rank: far fewer than eight rows need
FLAGS = {
    "tensor_parallel": "2",
    "frontends": "1",
    "dtype": "float32",
    "page_size": "4",
    "kv_cache_mib": "1",
    "max_batch_size": "8",
    "max_step_tokens": "48",
    "log_level": "warning",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedModel]:
    """A model of four heads and two key-value heads, large ones so that a MiB holds few pages."""
    folder = tmp_path_factory.mktemp("model")
    return folder, save_tiny_model("llama", folder, head_dim=256)


@pytest.fixture
def server(model: tuple[Path, PreTrainedModel]) -> Iterator[Server]:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in FLAGS.items()]
    running = Server("--model", str(model[0]), *flags, program=("-c", COMMAND))
    yield running
    running.close()


def other_rank(server: Server) -> psutil.Process:
    """The process of rank 1."""
    (rank,) = server.engine.children()
    assert "paceline.server.runner.rank" in rank.cmdline()
    return rank


def asked(prompt: list[int], max_tokens: int, **fields: Any) -> pb.Generation:
    return pb.Generation(
        token_ids=pb.TokenIds(ids=prompt),
        sampling=pb.Sampling(temperature=0.0),
        stopping=pb.Stopping(max_tokens=max_tokens, ignore_eos="constraint" not in fields),
        **({"response": pb.ResponseOptions(token_ids=True)} | fields),
    )


@pytest.mark.timeout(300)
def test_two_ranks_serve_one_model(server: Server, model: tuple[Path, PreTrainedModel]) -> None:
    """Both compute what `generate()` says, preempted or not; one killed takes the engine along, which is restarted."""
    (front,) = server.connect_each()
    work = [(prompt, length + 12) for prompt, length in mixed_work()]
    expected = [greedy_reference(model[1], prompt, length) for prompt, length in work]
    assert front.stub.GetServerInfo(pb.GetServerInfoRequest()).device == (
        "cuda x 2" if ON_GPUS else "cpu x 2"
    )
    assert front.load().pages_total == PAGES

    batch = pb.GenerateBatchRequest(generations=[asked(*one) for one in work])
    results = [item.result for item in front.stub.GenerateBatch(batch).items]
    assert [list(result.completions[0].token_ids) for result in results] == expected
    load = front.load()
    assert load.preemptions > 0 and load.cached_tokens > 0
    prompt = max((prompt for prompt, _ in work), key=len)
    scored = asked(prompt, 1, response=pb.ResponseOptions(prompt_logprobs=0))
    result = front.stub.Generate(pb.GenerateRequest(generation=scored)).result
    with torch.inference_mode():
        right = model[1](torch.tensor([prompt])).logits[0].log_softmax(-1)
    got = [each.chosen.logprob for each in result.prompt_logprobs[1:]]
    assert got == pytest.approx([float(right[i, t]) for i, t in enumerate(prompt[1:])], abs=1e-3)
    constraint = pb.Constraint(regex="[a-f]{3}-[0-9]{2,9}")
    request = pb.GenerateRequest(generation=asked(prompt, 24, constraint=constraint))
    text = front.stub.Generate(request).result.completions[0].text
    assert text[3] == "-" and set(text[:3]) <= set("abcdef") and text[4:].isdecimal()

    running = front.stub.GenerateStream(pb.GenerateStreamRequest(generation=asked(prompt[:1], 160)))
    next(running)
    other_rank(server).kill()
    error = status_of(partial(list, running))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    server.until_logged("rank 1 of 2 ended (-9): so do the others")
    server.until_logged("the engine died (signal 9) while it computed 1 requests: restarting")


@pytest.mark.parametrize(
    ("size", "problem"),
    [(8, "its 4 heads do not divide"), (4, "its 2 key-value heads do not divide")],
)
def test_heads_that_do_not_divide_are_refused(
    model: tuple[Path, PreTrainedModel], size: int, problem: str
) -> None:
    """One line says why, before a rank is started."""
    config = ServeConfig(model=str(model[0]), device="cpu", tensor_parallel=size)
    before = psutil.Process().children()

    with pytest.raises(SetupError, match=f"over {size} ranks: {problem}"):
        load_runner(config, config)
    assert psutil.Process().children() == before


def test_what_does_not_go_together_is_refused(model: tuple[Path, PreTrainedModel]) -> None:
    """Deterministic steps and rounded weights are named, together."""
    config = ServeConfig(
        model=str(model[0]), tensor_parallel=2, deterministic=True, quantization="int8"
    )

    with pytest.raises(
        SetupError, match="not go together with --deterministic, --quantization int8"
    ):
        load_runner(config, config)
