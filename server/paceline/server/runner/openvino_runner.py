"""Computes steps on a CPU with OpenVINO: no padding between rows, and kernels made for few rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import cores
from ..config import EngineConfig, ModelConfig
from ..pages import PADDING_PAGE
from ..rectangles import Buckets
from ..step import Sampled, Step
from .choosing import choose, choose_largest, empty_step
from .kv_cache import KVShape, lazy_zeros
from .memory import pages_that_fit
from .openvino_cache import Converted
from .openvino_model import PAGE_SIZE, page

TYPES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


@dataclass(slots=True)
class _Line:
    """A step's inputs: sequence after sequence in one line of tokens. Padding is a sequence of its own."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    past_lens: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=lambda: [0])
    pages: list[int] = field(default_factory=list)
    page_begins: list[int] = field(default_factory=lambda: [0])
    sample_at: list[int] = field(default_factory=list)
    longest: int = 0

    def add(self, ids: Sequence[int], start: int, pages: Sequence[int]) -> None:
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.past_lens.append(start)
        self.begins.append(len(self.ids))
        self.pages += pages
        self.page_begins.append(len(self.pages))
        self.longest = max(self.longest, start + len(ids))

    def add_padding(self, tokens: int) -> None:
        if tokens:
            self.add([0] * tokens, 0, [PADDING_PAGE] * -(-tokens // PAGE_SIZE))

    @classmethod
    def of(cls, step: Step) -> _Line:
        line = cls()
        for rectangle in step.rectangles:
            for row in rectangle.rows:
                line.add(row.tokens, row.start, row.pages)
                if row.samples:
                    line.sample_at.append(len(line.ids) - 1)
                line.add_padding(rectangle.width - (row.end - row.start))
            for _ in range(rectangle.height - len(rectangle.rows)):
                line.add_padding(rectangle.width)
        return line


class _Inputs:
    """What the model reads, in memory of ours that it shares.

    Between two steps the weights have passed through the processor's caches, and all that the host touches is read
    from memory again: a call of 3 µs takes 40 there. So what is as long as in the step before is written in place.
    """

    def __init__(self, request: ov.InferRequest) -> None:
        self._request = request
        self._kept: dict[str, NDArray[np.int32 | np.int64]] = {}
        self._longest = np.zeros((), np.int32)
        self._request.set_tensor("max_context_len", ov.Tensor(self._longest, shared_memory=True))

    def fill(self, line: _Line, places: list[int]) -> None:
        self._put("input_ids", line.ids, np.int64)
        self._put("positions", line.positions, np.int64)
        self._put("sample_at", places, np.int64)
        self._put("past_lens", line.past_lens)
        self._put("subsequence_begins", line.begins)
        self._put("block_indices", line.pages)
        self._put("block_indices_begins", line.page_begins)
        self._longest[()] = line.longest

    def _put(
        self, name: str, values: list[int], dtype: type[np.int32 | np.int64] = np.int32
    ) -> None:
        kept = self._kept.get(name)
        if kept is not None and len(kept) == len(values):
            kept[:] = values
            return
        new: NDArray[np.int32 | np.int64] = np.array(values, dtype)
        self._request.set_tensor(name, ov.Tensor(new, shared_memory=True))
        self._kept[name] = new  # the old one was the request's until now


class OpenVinoRunner:
    """Owns the compiled model and its pages.

    Args:
        found: the converted model.
        num_threads: that compute.
        engine: page size, which must be `PAGE_SIZE`, and batch bounds.
        config: memory.
    """

    ahead = False  # it would compute on the same cores as the host's work
    buckets = Buckets(rows=(), width=1)  # any shape is as good as another

    def __init__(
        self, found: Converted, num_threads: int, engine: EngineConfig, config: ModelConfig
    ) -> None:
        assert engine.page_size == PAGE_SIZE
        self._engine = engine
        core = ov.Core()
        computes = TYPES[found.shape.dtype]
        can = computes.upper() in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # Release 2026.4 joins an MLP below float32, and then ends with SIGFPE where one thread computes.
        if not can or min(num_threads, cores.usable() or num_threads) < 2:
            computes = "f32"
        dtype = next(dtype for dtype, name in TYPES.items() if name == computes)
        shape = dataclasses.replace(found.shape, dtype=dtype)
        versions = dict(found.info.versions) | {"openvino": ov.__version__}
        self.info = dataclasses.replace(found.info, versions=versions)
        wanted = engine.max_batch_size * -(-found.info.max_context_tokens // PAGE_SIZE)
        self.num_pages = 1 + min(
            wanted, pages_that_fit(shape.page_bytes, torch.device("cpu"), config)
        )
        page(found.model, shape)
        settings = {
            "INFERENCE_PRECISION_HINT": computes,
            "KV_CACHE_PRECISION": computes,
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core.compile_model(found.model, "CPU", settings).create_infer_request()
        self._inputs = _Inputs(self._request)
        self._caches = [self._make_cache(each, shape) for each in self._cache_inputs()]

    def warm_up(self) -> None:
        """Runs few rows, all rows and a full prompt chunk once: kernels are built at first use."""
        for rows in {1, 2, 4, self._engine.max_batch_size}:
            self._run_empty(rows, 1)
        self._run_empty(1, min(self._engine.max_step_tokens, self.info.max_context_tokens))

    def launch(self, step: Step) -> tuple[Step, NDArray[np.float32]]:
        """Computes a step: the logits of sampling rows, then of scored places, which hold until the next one."""
        line = _Line.of(step)
        places = [*line.sample_at, *step.scored_places]
        # A step of prompt chunks alone chooses nothing; one place keeps the output from being empty.
        self._inputs.fill(line, places or [0])
        self._request.infer(share_outputs=True)  # else it would copy them
        return step, self._request.get_output_tensor(0).data[:, 0]

    def collect(self, handle: object) -> Sampled:
        """Chooses the next tokens of a launched step."""
        assert isinstance(handle, tuple)
        step, logits = handle
        return choose_largest(logits, step) or self._choose(step, torch.from_numpy(logits))

    @torch.inference_mode()
    def _choose(self, step: Step, logits: Tensor) -> Sampled:
        chosen = len(step.sampling_rows)
        return choose(
            logits[:chosen], logits[chosen : chosen + len(step.scored_places)], step, self._heal
        )

    def close(self) -> None:
        """Gives the model's memory back. A second call does nothing."""
        self.__dict__.pop("_request", None)
        self.__dict__.pop("_inputs", None)
        self.__dict__.pop("_caches", None)

    def _cache_inputs(self) -> list[ov.ConstOutput]:
        inputs = self._request.get_compiled_model().inputs
        return [each for each in inputs if "_cache." in each.get_any_name()]

    def _make_cache(self, each: ov.ConstOutput, shape: KVShape) -> Tensor:
        """A pool of keys or values, which the system gives memory for as it is touched, and the model's input."""
        size = (self.num_pages, shape.num_kv_heads, PAGE_SIZE, shape.head_dim)
        assert tuple(each.get_partial_shape().get_max_shape())[1:] == size[1:]
        raw = lazy_zeros(math.prod(size) * shape.dtype.itemsize)
        self._request.set_tensor(
            each.get_any_name(), ov.Tensor(raw, ov.Shape(size), each.get_element_type())
        )
        return torch.from_numpy(raw).view(shape.dtype).view(size)

    def _heal(self, pages: Sequence[int]) -> None:
        """Zeroes what is not finite in these pages, before anybody else gets them."""
        index = torch.tensor(pages)
        for cache in self._caches:
            cache[index] = torch.nan_to_num(cache[index], 0.0, 0.0, 0.0)

    def _run_empty(self, height: int, width: int) -> None:
        self.collect(self.launch(empty_step(height, width, PAGE_SIZE)))
