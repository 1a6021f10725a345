"""Computes steps on a GPU: pages, graphs, sampling on the device, and never a wait but for tokens.

A launch is one copy to the device, one graph for the model, one for sampling, and one copy back that nobody waits for
until `collect`. Each slot's last token stays on the device, so the next step is launched before this one is read.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..config import EngineConfig, ModelConfig
from ..errors import SetupError, StepOutOfMemory
from ..step import Sampled, Step
from . import staging, triton_early
from .choosing import prompt_logprobs, raw_prompt_logprobs
from .fused_model import FAMILIES, FusedModel, fits
from .graphs import Graphs
from .kv_cache import KVCache, KVShape
from .lines import Lines
from .loading import LoadedModel
from .memory import MIB, pages_that_fit
from .paged_model import PagedModel
from .paged_sampling import PagedSampling, Pending, to_host
from .residents import Residents
from .sampling import RawLogprobs
from .shapes import Shapes
from .staging import Fields, Shape
from .triton_attention import PagedStep
from .triton_layer import begin

logger = logging.getLogger(__name__)

_SCORES = 128  # places for prompt tokens' logits, or a multiple of it


class Computes(Protocol):
    """A model on pages."""

    def bind(self, caches: list[Tensor]) -> None: ...
    def compute(self, ids: Tensor, step: PagedStep, sample_at: Tensor, out: Tensor) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Launched:
    step: Step
    pending: Pending
    scores: RawLogprobs | None  # of prompt tokens


class PagedRunner:
    """Owns the model, its pages and its graphs. Runs without a GPU too, under Triton's interpreter, for tests.

    Args:
        loaded: the model as transformers has it.
        engine: page size and batch bounds.
        config: memory, compilation, graphs.
    """

    def __init__(self, loaded: LoadedModel, engine: EngineConfig, config: ModelConfig) -> None:
        self.info = loaded.info
        self.ahead = True
        self._engine = engine
        self._device = torch.device(loaded.info.device)
        self._on_gpu = self._device.type == "cuda"
        self._take_device()
        # Graphs are not captured on the default stream. Whichever thread calls, all work goes here.
        self._stream = torch.cuda.Stream(self._device) if self._on_gpu else None  # type: ignore[no-untyped-call]
        self._graphs = Graphs(self._on_gpu and config.cuda_graphs)
        triton_early.allow(config.early_launch)
        self._slots = engine.max_batch_size
        most_tokens = max(engine.max_step_tokens, engine.max_batch_size)
        if engine.deterministic:
            most_tokens = max(most_tokens, engine.prefill_chunk)
        model = loaded.model
        kv = KVShape.of(model, engine.page_size)
        context = loaded.info.max_context_tokens
        self._shapes = Shapes(
            slots=self._slots,
            most_tokens=most_tokens,
            context=context,
            page_size=engine.page_size,
            heads=int(model.config.get_text_config().num_attention_heads),
            kv_heads=kv.num_kv_heads,
        )
        self.buckets = self._shapes.buckets
        self._max_pages = self._shapes.longest // engine.page_size
        self._model = _computes(loaded, config, context)
        self._make_tables(loaded)
        self.num_pages = 1 + self._size_cache(kv, config)
        self._bind(KVCache(kv, self.num_pages, self._device))
        if self._on_gpu:
            torch.cuda.synchronize(self._device)  # what the default stream made is there for ours

    def warm_up(self) -> None:
        """Compiles and captures every usual shape, the largest first, so that later ones fit in its memory."""
        self._take_device()
        started, before = time.monotonic(), self._free()
        shapes = list(self._shapes.usual())
        for number, shape in enumerate(shapes, 1):
            with torch.cuda.stream(self._stream):
                self._sampling.prepare(self._graphs, self._run(shape))
            if number % 16 == 0:
                logger.info("prepared %d of %d shapes", number, len(shapes))
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
        logger.info(
            "prepared %d shapes, %d graphs in %.1f s, %.0f MiB",
            len(shapes),
            len(self._graphs),
            time.monotonic() - started,
            (before - self._free()) / MIB,
        )

    @torch.inference_mode()
    def launch(self, step: Step) -> _Launched:
        """Starts a step; the device may still be busy with earlier ones. StepOutOfMemory if it cannot hold it."""
        try:
            self._take_device()
            with torch.cuda.stream(self._stream):
                return self._launch(step)
        except torch.OutOfMemoryError as exc:
            torch.cuda.empty_cache()
            raise StepOutOfMemory(str(exc).splitlines()[0]) from exc

    def _launch(self, step: Step) -> _Launched:
        contents = staging.read(step, self._residents)
        self._sampling.joined(contents.joined)
        shape = self._shapes.of(step, contents)
        host, device = self._lines.next(shape)
        staging.fill(host, contents, shape.block_q)
        self._send_overflow(contents.news[3 * shape.updates :])
        self._lines.send(shape)
        scores = None
        if step.scored_rows:
            scores = self._score(step, shape, device)
        else:
            self._graphs.run(shape, lambda: self._forward(shape, device))
        pending = self._sampling.launch(self._graphs, step.sampling_rows, host, device)
        return _Launched(step, pending, scores)

    def collect(self, handle: object) -> Sampled:
        """Waits for a step's tokens."""
        assert isinstance(handle, _Launched)
        sampled = handle.pending.wait()
        if handle.scores is not None:
            scores = prompt_logprobs(handle.step, handle.scores)
            sampled = replace(sampled, prompt_logprobs=scores)
        if sampled.token_ids and min(sampled.token_ids) < 0:
            for row, token in zip(handle.step.sampling_rows, sampled.token_ids, strict=True):
                if token < 0:
                    logger.error("request=%s got no finite logits", row.sequence.request_id)
        return sampled

    def close(self) -> None:
        """Gives the model's memory back. A second call does nothing."""
        for name in (
            "_model",
            "_cache",
            "_graphs",
            "_sampling",
            "_logits",
            "_page_table",
            "_lines",
        ):
            self.__dict__.pop(name, None)
        if self._on_gpu:
            torch.cuda.empty_cache()

    def _take_device(self) -> None:
        """Kernels start on the calling thread's current device, which is the first one if nobody says."""
        if self._on_gpu:
            torch.cuda.set_device(self._device)

    def _make_tables(self, loaded: LoadedModel) -> None:
        """Everything that graphs read and write, at its largest."""
        device, slots = self._device, self._slots
        length = max(shape.length for shape in self._shapes.usual())
        self._page_table = torch.zeros((slots, self._max_pages), dtype=torch.int32, device=device)
        self._lines = Lines(length, device)
        self._residents = Residents(slots, self._engine.page_size)
        vocab_size = int(loaded.model.config.get_text_config().vocab_size)
        self._logits = torch.zeros((slots, vocab_size), dtype=loaded.model.dtype, device=device)
        self._sampling = PagedSampling(self._logits)

    def _bind(self, cache: KVCache) -> None:
        self._cache = cache
        self._model.bind(cache.layers)

    def _size_cache(self, kv: KVShape, config: ModelConfig) -> int:
        """Pages beside the weights and what the largest step needs, which is tried out on a cache of one page."""
        wanted = self._slots * self._max_pages
        working = 0
        if self._on_gpu and config.kv_cache_mib is None:
            self._bind(KVCache(kv, 1, self._device))
            torch.cuda.reset_peak_memory_stats(self._device)
            before = torch.cuda.memory_allocated(self._device)
            graphs, self._graphs = self._graphs, Graphs(False)
            self._run(self._shapes.largest)
            torch.cuda.synchronize(self._device)
            self._graphs = graphs
            working = torch.cuda.max_memory_allocated(self._device) - before
            torch.cuda.empty_cache()
        return min(wanted, pages_that_fit(kv.page_bytes, self._device, config, working))

    def _send_overflow(self, news: list[int]) -> None:
        """Pages that did not fit in the line, as when a long prefix is found in the cache."""
        if news:
            entries = torch.tensor(news, dtype=torch.int64, pin_memory=self._on_gpu).view(-1, 3)
            entries = entries.to(self._device, non_blocking=True)
            self._page_table[entries[:, 0], entries[:, 1]] = entries[:, 2].int()

    def _score(self, step: Step, shape: Shape, fields: Fields[Tensor]) -> RawLogprobs:
        """Computes a step whose prompt tokens are scored: without a graph, for few steps are."""
        scored = step.scored_places
        padding = [0] * (-len(scored) % _SCORES)  # few sizes: kernels are compiled for each kind
        places = torch.tensor(scored + padding, dtype=torch.int32, device=self._device)
        sample_at = torch.cat((fields.sample_at, places))
        logits = self._logits.new_empty(len(sample_at), self._logits.shape[1])
        self._forward(shape, fields, sample_at, logits)
        self._logits[: shape.rows].copy_(logits[: shape.rows])
        mine = logits[shape.rows : shape.rows + len(scored)]
        return to_host(raw_prompt_logprobs(mine, step))

    def _forward(
        self,
        shape: Shape,
        fields: Fields[Tensor],
        sample_at: Tensor | None = None,
        out: Tensor | None = None,
    ) -> None:
        ids = begin(
            fields.tokens,
            fields.token_slots,
            fields.updates,
            self._sampling.last_token,
            self._page_table,
        )
        step = PagedStep(
            fields.positions,
            fields.token_slots,
            fields.blocks.view(-1, 4),
            self._page_table,
            shape.block_q,
            shape.splits,
        )
        at = fields.sample_at if sample_at is None else sample_at
        self._model.compute(ids, step, at, self._logits[: shape.rows] if out is None else out)

    @torch.inference_mode()
    def _run(self, shape: Shape) -> Fields[Tensor]:
        """Computes an empty step: everything in it is padding."""
        fields = self._lines.empty(shape)
        self._graphs.run(shape, lambda: self._forward(shape, fields))
        return fields

    def _free(self) -> int:
        return torch.cuda.mem_get_info(self._device)[0] if self._on_gpu else 0


def _computes(loaded: LoadedModel, config: ModelConfig, context: int) -> Computes:
    fp8 = config.quantization == "fp8"
    if config.fused_layers and config.compile != "on" and fits(loaded.model):
        return FusedModel(loaded.model, context, fp8=loaded.device if fp8 else None)
    if fp8:
        raise SetupError(f"--quantization fp8 needs fused layers, which {', '.join(FAMILIES)} have")
    compiled = config.compile == "on" or (config.compile == "auto" and config.cuda_graphs)
    return PagedModel(loaded.model, compiled and loaded.device.type == "cuda")
