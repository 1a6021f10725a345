"""Computes steps with a transformers model: the engine's `Runner` on any device torch has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bare_step import BareStep
from ..config import EngineConfig, ModelConfig
from ..errors import StepOutOfMemory
from ..rectangles import Buckets
from ..step import Sampled, Step
from .choosing import choose, empty_step
from .fuse import fuse_projections
from .kv_cache import KVCache, KVShape
from .lean import use_lean_layers
from .linear import pack_linear_layers
from .loading import LoadedModel
from .memory import pages_that_fit
from .packing import pack
from .quantize import quantize_linear_layers

# Few shapes where each costs a captured graph.
GPU_BUCKETS = Buckets(rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
# Finer ones where a new shape costs a millisecond once, and padding costs every time.
CPU_BUCKETS = Buckets(
    rows=(1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 128, 192, 256),
    split_gain=48,
)


@dataclass(frozen=True, slots=True, eq=False)
class _Launched:
    step: Step
    logits: Tensor  # [sampling rows, vocabulary]
    scores: Tensor  # [scored places, vocabulary]


class TorchRunner:
    """Owns the model and its KV cache.

    Args:
        loaded: a model whose attention is `attention.NAME`.
        engine: page size and batch bounds.
        config: memory and threads.
        agree: makes of the pages that fit here those that there are: of several ranks, the fewest of all.
    """

    ahead = False  # `pack` needs every token on the host

    def __init__(
        self,
        loaded: LoadedModel,
        engine: EngineConfig,
        config: ModelConfig,
        agree: Callable[[int], int] = lambda pages: pages,
    ) -> None:
        self.info = loaded.info
        self._model = loaded.model
        self._device = torch.device(loaded.info.device)
        self._engine = engine
        if (
            loaded.shards == 1
        ):  # else the layers are wrapped by transformers, and hold parts of their weights
            self._rebuild(config)
        self.buckets = CPU_BUCKETS if self._device.type == "cpu" else GPU_BUCKETS
        shape = KVShape.of(loaded.model, engine.page_size, loaded.shards)
        wanted = engine.max_batch_size * -(-loaded.info.max_context_tokens // engine.page_size)
        self.num_pages = 1 + min(
            wanted, agree(pages_that_fit(shape.page_bytes, self._device, config))
        )
        self._cache = KVCache(shape, self.num_pages, self._device)

    def _rebuild(self, config: ModelConfig) -> None:
        """Layers that compute the same faster."""
        fuse_projections(self._model)
        if self._device.type == "cpu":
            use_lean_layers(self._model)
            prepare_linear_layers(self._model, config.quantization)

    def warm_up(self) -> None:
        """Runs every row bucket and a full prompt chunk once: operators are built at first use."""
        bound = self._engine.max_batch_size
        for rows in (*(r for r in self.buckets.rows if r < bound), bound):
            self._run_empty(self.buckets.height_for(rows), 1)
        widest = min(self._engine.max_step_tokens, self.info.max_context_tokens)
        self._run_empty(1, widest)

    def launch(self, step: Step) -> _Launched:
        """Runs the model on a step. StepOutOfMemory if the device cannot hold it."""
        try:
            return _Launched(step, *self.compute(BareStep.of(step)))
        except torch.OutOfMemoryError as exc:
            torch.cuda.empty_cache()
            raise StepOutOfMemory(str(exc).splitlines()[0]) from exc

    @torch.inference_mode()
    def compute(self, step: BareStep) -> tuple[Tensor, Tensor]:
        """The logits of its sampling rows, and those of its scored places: `[rows or places, vocabulary]`."""
        alone = self._engine.deterministic
        packed = pack(step, self._cache, self._device, alone=alone)
        # A step of prompt chunks alone chooses nothing; one place keeps the output from being empty. Where rows are
        # not to depend on each other, as many logits are computed as could be asked for.
        rows = sum(rectangle.height for rectangle in step.rectangles)
        places = max(1, len(packed.sample_at), rows if alone else 0)
        keep = F.pad(packed.sample_at, (0, places - len(packed.sample_at)))
        keep = torch.cat((keep, packed.score_at))
        logits = self._model(
            input_ids=packed.input_ids,
            position_ids=packed.positions,
            use_cache=False,
            logits_to_keep=keep,
            packed=packed,
            cache=self._cache,
        ).logits[0]
        return logits[: len(packed.sample_at)], logits[places:]

    @torch.inference_mode()
    def collect(self, handle: object) -> Sampled:
        """Chooses the next tokens of a launched step."""
        assert isinstance(handle, _Launched)
        return choose(handle.logits, handle.scores, handle.step, self.heal)

    def heal(self, pages: Sequence[int]) -> None:
        """Zeroes what is not finite in these pages."""
        self._cache.heal(pages)

    def close(self) -> None:
        """Gives the model's memory back. A second call does nothing."""
        self.__dict__.pop("_model", None)
        self.__dict__.pop("_cache", None)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _run_empty(self, height: int, width: int) -> None:
        self.collect(self.launch(empty_step(height, width, self._engine.page_size)))


def prepare_linear_layers(model: nn.Module, quantization: str) -> None:
    """Packs or quantises for the CPU. SetupError where this torch cannot."""
    if quantization == "none":
        pack_linear_layers(model)
    else:
        quantize_linear_layers(model)
