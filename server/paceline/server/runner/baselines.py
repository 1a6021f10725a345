"""`paceline baseline`: the same file through transformers' own `generate()`, the measure of what an engine gives.

Two systems: one prompt at a time, and left-padded batches in the order of the file. A batch runs until its
longest member has its tokens, as `generate()` has it, with the sampling settings of its first member; only
the tokens that were asked for are counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from ..config import ModelConfig
from ..errors import SetupError
from ..job import Job
from ..offline_jobs import prepare, read
from ..request import Request
from ..settings import Command, read_command
from .loading import LoadedModel, load
from .quiet import quiet

ONE_BY_ONE = "transformers"
BATCHED = "transformers-batched"


class BaselineOptions(ModelConfig):
    """Everything `paceline baseline` takes."""

    input: Path = Field(description="file of requests, one JSON object a line")
    batch_sizes: str = Field("1,2,4,8", description="sizes of the padded batches")
    one_by_one: bool = Field(True, description="also run one prompt at a time")
    max_seconds: float | None = Field(
        None,
        gt=0,
        description="begin no further batch of a size after so long; unset: the whole file",
    )

    @field_validator("batch_sizes")
    @classmethod
    def _check_sizes(cls, value: str) -> str:
        if not all(part.strip().isdecimal() and int(part) >= 1 for part in value.split(",")):
            raise ValueError("should be numbers from 1 on, with commas between")
        return value

    @property
    def sizes(self) -> list[int]:
        return [int(part) for part in self.batch_sizes.split(",")]


BASELINE = Command(
    "baseline",
    "Run a file of requests through transformers' own generate(). Each line on standard output is a JSON object "
    "with the figures of one batch size.",
    BaselineOptions,
    (("model", ModelConfig), ("measuring", BaselineOptions)),
    positional=("input",),
)


@dataclass(slots=True)
class Figures:
    """What one system did at one batch size.

    Latencies are of the `generate()` call a request was in, in seconds: time spent waiting for it is not in them.
    Token counts are of computed tokens as in the engine's: a prompt and all but the last output token.
    """

    outputs: list[list[int]] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0
    real_tokens: int = 0
    padded_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": len(self.outputs),
            "output_tokens": sum(len(output) for output in self.outputs),
            "wall_s": self.wall_s,
            "latency_s": self.latency_s,
            "padding_waste": 1 - self.real_tokens / self.padded_tokens,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 where nothing could be run."""
    try:
        options = read_command(BASELINE, sys.argv[1:] if argv is None else argv)
        run(options)
    except SetupError as exc:
        sys.stderr.write(f"paceline baseline: {exc}\n")
        return 2
    return 0


def run(options: BaselineOptions) -> None:
    """Prints one line of figures after the other. SetupError where a line of the file or the model is bad."""
    if options.tensor_parallel > 1:
        raise SetupError("paceline baseline computes on one device, without --tensor-parallel")
    entries = read(options.input)
    loaded = load(options)
    requests = []
    for entry in entries:
        job = prepare(entry, loaded.tokenizer, loaded.info)
        if not isinstance(job, Job):
            raise SetupError(f"{str(options.input)!r} line {entry.number}: {job}")
        if len(job.request.prompt_ids) >= loaded.info.max_context_tokens:
            raise SetupError(f"{str(options.input)!r} line {entry.number}: the prompt is too long")
        requests.append(job.request)
    systems = [(ONE_BY_ONE, 1)] if options.one_by_one else []
    systems += [(BATCHED, size) for size in options.sizes]
    for system, size in systems:
        figures = measure(loaded, requests, size, options.max_seconds)
        _print(system, size, len(requests), figures, loaded)


def measure(
    loaded: LoadedModel, requests: Sequence[Request], size: int, max_seconds: float | None = None
) -> Figures:
    """Runs the requests in batches of `size`, after one short call that is not counted."""
    with quiet():
        _generate(loaded, requests[:size], max_new_tokens=4)
        figures = Figures()
        started = time.perf_counter()
        for first in range(0, len(requests), size):
            _run_batch(loaded, requests[first : first + size], figures)
            figures.wall_s = time.perf_counter() - started
            if max_seconds is not None and figures.wall_s >= max_seconds:
                break
    return figures


def _run_batch(loaded: LoadedModel, batch: Sequence[Request], figures: Figures) -> None:
    width = max(len(request.prompt_ids) for request in batch)
    longest = max(request.stopping.max_tokens for request in batch)
    longest = min(longest, loaded.info.max_context_tokens - width)
    started = time.perf_counter()
    made = _generate(loaded, batch, max_new_tokens=longest)
    elapsed = time.perf_counter() - started
    outputs = [_asked_for(request, row) for request, row in zip(batch, made, strict=True)]
    figures.outputs += outputs
    figures.latency_s += [elapsed] * len(batch)
    figures.padded_tokens += len(batch) * (width + len(made[0]) - 1)
    figures.real_tokens += sum(
        len(request.prompt_ids) + len(output) - 1
        for request, output in zip(batch, outputs, strict=True)
    )


def _generate(
    loaded: LoadedModel, batch: Sequence[Request], max_new_tokens: int
) -> list[list[int]]:
    """The new tokens of each row, padding and all."""
    width = max(len(request.prompt_ids) for request in batch)
    pad = loaded.info.eos_token_ids[0] if loaded.info.eos_token_ids else 0
    rows = [[pad] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in batch]
    mask = [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in batch]
    torch.manual_seed(batch[0].sampling.seed)
    generate: Any = loaded.model.generate
    output = generate(
        torch.tensor(rows, device=loaded.device),
        attention_mask=torch.tensor(mask, device=loaded.device),
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        **_stopping(batch, loaded),
        **_sampling(batch[0]),
    )
    new_tokens: list[list[int]] = output[:, width:].tolist()
    return new_tokens


def _stopping(batch: Sequence[Request], loaded: LoadedModel) -> dict[str, Any]:
    """A batch with a row that goes past end-of-sequence goes on as a whole."""
    if all(request.stopping.eos_token_ids for request in batch):
        return {"eos_token_id": list(loaded.info.eos_token_ids)}
    return {"eos_token_id": None}


def _sampling(request: Request) -> dict[str, Any]:
    sampling = request.sampling
    penalty = {"repetition_penalty": sampling.repetition_penalty}
    if sampling.greedy:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None} | penalty
    return penalty | {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p or None,
    }


def _asked_for(request: Request, row: list[int]) -> list[int]:
    """The row up to its own end: its `max_tokens`, or the token that ended it."""
    stopping = request.stopping
    ends = stopping.eos_token_ids | stopping.stop_token_ids
    output = row[: stopping.max_tokens]
    end = next((place for place, token in enumerate(output) if token in ends), len(output))
    return output[: end + 1]


def _print(system: str, size: int, total: int, figures: Figures, loaded: LoadedModel) -> None:
    line = {"system": system, "batch_size": size, "requests_total": total, **figures.to_json()}
    line |= {"model": loaded.info.name, "dtype": loaded.info.dtype, "device": loaded.info.device}
    sys.stdout.write(json.dumps(line | {"threads": loaded.num_threads}) + "\n")
    sys.stdout.flush()
