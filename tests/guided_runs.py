"""Constrained requests on tiny models, and what a loop with transformers and llguidance alone makes of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer
from transformers import PreTrainedModel

from paceline.server.config import EngineConfig, ModelConfig
from paceline.server.engine import Engine
from paceline.server.guidance import Guides
from paceline.server.offline_run import KeptRunner
from paceline.server.request import (
    Constraint,
    Load,
    Output,
    Request,
    SamplingParams,
    StoppingParams,
)
from paceline.server.runner import attention
from paceline.server.runner.dummy import byte_tokenizer
from paceline.server.runner.loading import LoadedModel
from paceline.server.runner.make import make_runner
from paceline.server.runner.torch_runner import TorchRunner
from paceline.server.runner_port import Runner
from paceline.server.tokenizer import Tokenizer
from tiny_models import EOS, VOCAB_SIZE, model_info, tiny_config, tiny_model

PATIENCE_S = 100.0
GREEDY = SamplingParams(temperature=0.0)
CHOICE = Constraint("choice", ("red", "green", "blue é\n"))
REGEX = Constraint("regex", ("[a-f]{3}-[0-9]{2,9}",))
SCHEMA = Constraint(
    "json_schema",
    (
        '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 6},'
        ' "ok": {"type": "boolean"}}, "required": ["name", "ok"], "additionalProperties": false}',
    ),
)


@cache
def tokenizer() -> Tokenizer:
    """Bytes and the tiny models' special tokens."""
    return Tokenizer(byte_tokenizer(tiny_config("llama")))


@cache
def guides() -> Guides:
    return Guides(tokenizer(), VOCAB_SIZE, [EOS])


def loaded(family: str = "llama", device: str = "cpu") -> LoadedModel:
    """A tiny model with our attention; a runner takes it apart."""
    torch.set_num_threads(1)
    config, model = tiny_model(family)
    torch.nn.Module.to(model, device)
    model.set_attn_implementation(attention.register())
    info = model_info(family, model)
    return LoadedModel(model, config, None, info, model.device, model.dtype, 1)  # type: ignore[arg-type]


def request(
    name: str,
    prompt: Iterable[int],
    constraint: Constraint | None = None,
    *,
    max_tokens: int = 24,
    min_tokens: int = 0,
    ignore_eos: bool = False,
    sampling: SamplingParams = GREEDY,
    **more: Any,
) -> Request:
    eos = frozenset() if ignore_eos else frozenset({EOS})
    stopping = StoppingParams(max_tokens, min_tokens, eos)
    return Request(
        name, tuple(prompt), sampling, stopping, time.monotonic(), constraint=constraint, **more
    )


def make(kind: str, **settings: Any) -> Runner:
    """A runner of the tiny model: "torch", "openvino", or "paged", the GPU's under Triton's interpreter."""
    bounds = {"max_batch_size": 4, "max_step_tokens": 24, "page_size": 4}
    if kind == "openvino":
        pytest.importorskip("openvino")
        settings["page_size"] = 32
        engine = EngineConfig.model_validate(bounds | settings)
        made = make_runner(loaded(), engine, ModelConfig(kv_cache_mib=4, runtime="openvino"))
        assert type(made).__name__ == "OpenVinoRunner"
        return made
    engine = EngineConfig.model_validate(bounds | settings)
    if kind == "torch":
        return TorchRunner(loaded(), engine, ModelConfig(kv_cache_mib=1))
    pytest.importorskip("triton")
    from paceline.server.runner.paged_runner import PagedRunner
    from triton_interpreter import DEVICE

    ready = loaded(device=str(DEVICE))
    paged = PagedRunner(ready, engine, ModelConfig(kv_cache_mib=1, compile="off"))
    # The interpreter takes a minute for all shapes; they come up as they are needed.
    paged.warm_up = lambda: None  # type: ignore[method-assign]
    return paged


class Answers:
    """What became of requests: tokens and outputs by request id and completion."""

    def __init__(self, outputs: list[Output], load: Load) -> None:
        self.load = load
        self.outputs: defaultdict[tuple[str, int], list[Output]] = defaultdict(list)
        for output in outputs:
            self.outputs[output.request_id, output.index].append(output)

    def tokens(self, name: str, index: int = 0) -> list[int]:
        return [token for o in self.outputs[name, index] for token in o.token_ids]

    def reason(self, name: str, index: int = 0) -> str:
        finish = self.outputs[name, index][-1].finish
        assert finish is not None
        return finish.reason.value

    def text(self, name: str, index: int = 0) -> str:
        return tokenizer().decode(self.tokens(name, index))


def run(
    runner: Runner, requests: list[Request], num_pages: int | None = None, **settings: Any
) -> Answers:
    """All requests at once, through a real engine; with few pages, preemption happens."""
    outputs: list[Output] = []
    if num_pages is not None:
        assert runner.num_pages >= num_pages
        runner.num_pages = num_pages
    bounds = {"max_wait_ms": 0, "page_size": 4, "max_batch_size": 4, "max_step_tokens": 24}
    config = EngineConfig.model_validate(bounds | settings)
    engine = Engine(KeptRunner(runner), config, outputs.extend, guides=guides())
    engine.start()
    for each in requests:
        if each.constraint is not None:
            guides().check(each.constraint)  # else it would join later, when it is compiled
        engine.submit(each)
    idle = engine.wait_idle(PATIENCE_S)
    load = engine.load()
    engine.stop()
    assert idle
    return Answers(outputs, load)


@torch.inference_mode()
def naive(
    model: PreTrainedModel, prompt: list[int], constraint: Constraint, max_tokens: int
) -> list[int]:
    """Greedy decoding of one prompt, the whole sequence anew for each token, masked by llguidance."""
    vocabulary = LLTokenizer(tokenizer().serialised(), n_vocab=VOCAB_SIZE, eos_token=EOS)
    match constraint.kind:
        case "choice":
            options = "|".join(option.replace("\n", r"\n") for option in constraint.texts)
            grammar = LLMatcher.grammar_from_regex(options)
        case "regex":
            grammar = LLMatcher.grammar_from_regex(constraint.texts[0])
        case "json_schema":
            one_line: Any = {
                "whitespace_flexible": False,
                "item_separator": ", ",
                "key_separator": ": ",
            }
            grammar = LLMatcher.grammar_from_json_schema(constraint.texts[0], overrides=one_line)
    matcher = LLMatcher(vocabulary, grammar)
    made: list[int] = []
    while len(made) < max_tokens and EOS not in made:
        logits = model(torch.tensor([prompt + made])).logits[0, -1]
        mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(mask, bitorder="little")[:VOCAB_SIZE].astype(bool)
        logits[~torch.from_numpy(allowed)] = -torch.inf
        made.append(int(logits.argmax()))
        matcher.consume_token(made[-1])
    return made


@torch.inference_mode()
def true_logprobs(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """Row i: the log-probabilities of what may follow the first i + 1 ids."""
    logprobs: torch.Tensor = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return logprobs
