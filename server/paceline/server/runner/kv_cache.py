"""Storage of keys and values, in pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class KVShape:
    """What one token costs: the same in every layer of the checked families."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    dtype: torch.dtype

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers, keys and values."""
        elements = self.num_layers * 2 * self.num_kv_heads * self.head_dim * self.page_size
        return elements * self.dtype.itemsize


class KVCache:
    """Two tensors a layer, `[pages, kv_heads, page_size, head_dim]`: keys and values.

    A page keeps each head's tokens together, so that gathering the pages of a row gives
    `[kv_heads, tokens, head_dim]`, which is what attention multiplies, without another copy.
    """

    def __init__(self, shape: KVShape, num_pages: int, device: torch.device) -> None:
        self.shape = shape
        self.num_pages = num_pages
        size = (num_pages, shape.num_kv_heads, shape.page_size, shape.head_dim)
        # Zeroed, not empty: masked places are multiplied by zero, and 0 x NaN is NaN.
        self.keys = [
            torch.zeros(size, dtype=shape.dtype, device=device) for _ in range(shape.num_layers)
        ]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self._scratch: dict[str, Tensor] = {}

    def write(self, layer: int, index: Tensor, keys: Tensor, values: Tensor) -> None:
        """Stores `[tokens, kv_heads, head_dim]` at the flat places `index` (see `packing`)."""
        dim = self.shape.head_dim
        for store, new in ((self.keys[layer], keys), (self.values[layer], values)):
            store.view(-1, dim).index_copy_(0, index, new.reshape(-1, dim))

    def gather(self, layer: int, index: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Keys and values of `rows` rows, `[rows, kv_heads, tokens, head_dim]`.

        The tensors are scratch memory: the next gather of this size overwrites them.
        """
        shape = self.shape
        gathered = []
        for name, store in (("k", self.keys[layer]), ("v", self.values[layer])):
            flat = store.view(-1, shape.page_size * shape.head_dim)
            out = self._scratch_for(name, index.numel(), flat)
            torch.index_select(flat, 0, index, out=out)
            gathered.append(out.view(rows, shape.num_kv_heads, -1, shape.head_dim))
        return gathered[0], gathered[1]

    def clear(self, pages: Sequence[int]) -> None:
        """Zeroes pages whose content is not finite, before anybody else gets them."""
        index = torch.tensor(pages, device=self.keys[0].device)
        for store in (*self.keys, *self.values):
            store.index_fill_(0, index, 0)

    def _scratch_for(self, name: str, rows: int, like: Tensor) -> Tensor:
        # One buffer for all layers stays in the processor's cache; fresh memory would fault each time.
        held = self._scratch.get(name)
        if held is None or held.shape[0] < rows:
            held = like.new_empty((rows, like.shape[1]))
            self._scratch[name] = held
        return held[:rows]
