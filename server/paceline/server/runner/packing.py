"""Lays a step out in tensors: one flat line of tokens, rectangle after rectangle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..bare_step import BareRectangle, BareStep
from .kv_cache import KVCache


@dataclass(eq=False)
class PackedRectangle:
    """Where a rectangle lies in the line of tokens, and which keys its queries may see.

    Attributes:
        start: first token of the rectangle in the line; it is `height * width` long, row by row.
        gather: flat places of its rows' pages, `[2 * height * kv_heads * pages]`.
        query_at: positions of its queries, `[height, width]`.
        num_keys: tokens its rows' pages hold.
    """

    start: int
    height: int
    width: int
    gather: Tensor
    query_at: Tensor
    num_keys: int
    dtype: torch.dtype
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    @property
    def end(self) -> int:
        return self.start + self.height * self.width

    def mask(self, window: int | None) -> Tensor:
        """Added to the scores, `[height, 1, width, keys]`: 0 where a query may look, else -inf.

        A query at position p sees keys 0 .. p, with a sliding window only the last `window` of them.
        The same for every layer with the same window, so it is made once.
        """
        mask = self._masks.get(window)
        if mask is None:
            key_at = torch.arange(self.num_keys, device=self.query_at.device)
            query_at = self.query_at[:, :, None]
            hidden = key_at > query_at
            if window is not None:
                hidden |= key_at <= query_at - window
            mask = torch.zeros(hidden.shape, dtype=self.dtype, device=hidden.device)
            mask = mask.masked_fill_(hidden, float("-inf"))[:, None]
            self._masks[window] = mask
        return mask


@dataclass(frozen=True, eq=False)
class PackedStep:
    """A step in tensors.

    Attributes:
        input_ids, positions: the line of tokens, `[1, tokens]`; padding is token 0 at position 0.
        write: flat places for the line's keys and values, `[2 * tokens * kv_heads]`; padding goes to
            page 0.
        sample_at: places in the line whose logits choose next tokens, in the order of `sampling_rows`.
        score_at: the step's `scored_places`.
    """

    input_ids: Tensor
    positions: Tensor
    write: Tensor
    sample_at: Tensor
    score_at: Tensor
    rectangles: tuple[PackedRectangle, ...]


def pack(
    step: BareStep, cache: KVCache, device: torch.device, *, alone: bool = False
) -> PackedStep:
    """Builds a step's tensors on `device`.

    Args:
        alone: whether each row attends by itself, to a number of keys that its own length says: then its
            result depends on no other row, to the last bit.
    """
    shape = cache.shape
    total = step.line
    ids = np.zeros(total, dtype=np.int64)
    positions = np.zeros(total, dtype=np.int64)
    slots = np.zeros(total, dtype=np.int64)  # page * page_size + offset; 0 lies in the padding page
    sample_at: list[int] = []
    rectangles = []
    start = 0
    for rectangle in step.rectangles:
        at = start
        for row in rectangle.rows:
            here = slice(at, at + len(row.tokens))
            where = np.arange(row.start, row.end)
            ids[here] = row.tokens
            positions[here] = where
            pages = np.asarray(row.pages, dtype=np.int64)
            slots[here] = pages[where // shape.page_size] * shape.page_size
            slots[here] += where % shape.page_size
            if row.samples:
                sample_at.append(here.stop - 1)
            at += rectangle.width
        for part in _one_by_one(rectangle) if alone else (rectangle,):
            longest = max((len(row.pages) for row in part.rows), default=1)
            keys = 1 << (longest - 1).bit_length() if alone else longest
            rectangles.append(_pack_rectangle(part, keys, positions, start, cache, device))
            start += part.area
    return PackedStep(
        input_ids=torch.from_numpy(ids)[None].to(device),
        positions=torch.from_numpy(positions)[None].to(device),
        write=torch.from_numpy(_write_places(slots, cache)).to(device),
        sample_at=torch.tensor(sample_at, dtype=torch.int64, device=device),
        score_at=torch.tensor(step.scored_places, dtype=torch.int64, device=device),
        rectangles=tuple(rectangles),
    )


def _one_by_one(rectangle: BareRectangle) -> Iterator[BareRectangle]:
    """The same line, but each row attends in a rectangle of its own, and the padding in one."""
    for row in rectangle.rows:
        yield BareRectangle((row,), 1, rectangle.width)
    if padding := rectangle.height - len(rectangle.rows):
        yield BareRectangle((), padding, rectangle.width)


def _pack_rectangle(
    rectangle: BareRectangle,
    longest: int,
    positions: np.ndarray,
    start: int,
    cache: KVCache,
    device: torch.device,
) -> PackedRectangle:
    """Keys are padded to `longest` pages."""
    shape, height, width = cache.shape, rectangle.height, rectangle.width
    pages = np.zeros((height, longest), dtype=np.int64)
    for i, row in enumerate(rectangle.rows):
        pages[i, : len(row.pages)] = row.pages
    heads = np.arange(shape.num_kv_heads)[None, :, None]
    gather = pages[:, None, :] * shape.num_kv_heads + heads
    query_at = positions[start : start + rectangle.area].reshape(height, width)
    return PackedRectangle(
        start=start,
        height=height,
        width=width,
        gather=torch.from_numpy(_keys_and_values(gather, cache, 1)).to(device),
        query_at=torch.from_numpy(query_at).to(device),
        num_keys=longest * shape.page_size,
        dtype=shape.dtype,
    )


def _write_places(slots: np.ndarray, cache: KVCache) -> np.ndarray:
    """Places of each token's keys and values, one for each head."""
    shape = cache.shape
    page, offset = np.divmod(slots, shape.page_size)
    heads = np.arange(shape.num_kv_heads)
    places = (page[:, None] * shape.num_kv_heads + heads) * shape.page_size + offset[:, None]
    return _keys_and_values(places, cache, shape.page_size)


def _keys_and_values(places: np.ndarray, cache: KVCache, unit: int) -> np.ndarray:
    """Places among keys, then the same among values, which follow all keys.

    `unit` is how many places a page has for each head: 1 for whole pages, else its tokens.
    """
    flat = places.reshape(-1)
    return np.concatenate((flat, flat + cache.num_pages * cache.shape.num_kv_heads * unit))
