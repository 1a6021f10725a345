"""Storage of keys and values, in pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token costs: the same in every layer of the checked families.

    Of a model spread over ranks, what it costs one of them.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    dtype: torch.dtype

    @classmethod
    def of(cls, model: PreTrainedModel, page_size: int, shards: int = 1) -> KVShape:
        """What a token of this model costs, in its own number format; each of `shards` has its share of the heads."""
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(config.num_hidden_layers, kv_heads // shards, head_dim, page_size, model.dtype)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers, keys and values."""
        elements = self.num_layers * 2 * self.num_kv_heads * self.head_dim * self.page_size
        return elements * self.dtype.itemsize


class KVCache:
    """One tensor a layer, `[2, pages, kv_heads, page_size, head_dim]`: keys, then values.

    A page keeps each head's tokens together, so that gathering the pages of a row gives
    `[kv_heads, tokens, head_dim]`, which is what attention multiplies, without another copy. Keys and
    values lie in one tensor, so that one call writes both and one gathers both.
    """

    def __init__(self, shape: KVShape, num_pages: int, device: torch.device) -> None:
        self.shape = shape
        self.num_pages = num_pages
        size = (2, num_pages, shape.num_kv_heads, shape.page_size, shape.head_dim)
        self.layers = [_zeros(size, shape.dtype, device) for _ in range(shape.num_layers)]
        self._tokens = [layer.view(-1, shape.head_dim) for layer in self.layers]
        self._pages = [layer.view(-1, shape.page_size * shape.head_dim) for layer in self.layers]
        self._scratch = self._pages[0].new_empty((0, shape.page_size * shape.head_dim))

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Stores `[tokens, kv_heads, head_dim]` keys and values at flat `places` (see `packing`)."""
        new = torch.stack((keys, values)).view(-1, self.shape.head_dim)
        self._tokens[layer].index_copy_(0, places, new)

    def gather(self, layer: int, places: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Keys and values of `rows` rows, each `[rows, kv_heads, tokens, head_dim]`.

        They are scratch memory: the next gather overwrites them.
        """
        # One buffer for all layers stays in the processor's cache; fresh memory would fault each time.
        if len(self._scratch) < len(places):
            self._scratch = self._scratch.new_empty((len(places), self._scratch.shape[1]))
        out = self._scratch[: len(places)]
        torch.index_select(self._pages[layer], 0, places, out=out)
        both = out.view(2, rows, self.shape.num_kv_heads, -1, self.shape.head_dim)
        return both[0], both[1]

    def heal(self, pages: Sequence[int]) -> None:
        """Zeroes what is not finite in these pages, before anybody else gets them.

        The rest stays: a page may hold a prefix that others are using.
        """
        index = torch.tensor(pages, device=self._scratch.device)
        for layer in self.layers:
            layer[:, index] = torch.nan_to_num(layer[:, index], 0.0, 0.0, 0.0)


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, for masked places are multiplied by zero and 0 x NaN is NaN.

    On CPU they come from the operating system when first touched: an idle pool takes no memory.
    """
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    lazy = lazy_zeros(math.prod(size) * dtype.itemsize)
    return torch.from_numpy(lazy).view(dtype).view(size)


def lazy_zeros(nbytes: int) -> np.ndarray:
    """Zero bytes at the start of a cache line, from the operating system as they are touched."""
    raw = np.zeros(nbytes + _ALIGNMENT, dtype=np.uint8)
    return raw[-raw.ctypes.data % _ALIGNMENT :][:nbytes]
