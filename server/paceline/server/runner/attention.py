"""Attention over pages, padded: the reference on every device, and the path on CPU.

transformers calls `paged_attention` through its attention interface, in place of its own; the step
comes along as the keyword argument `packed`, the storage as `cache`. For each layer it stores the keys
and values of all tokens first, then lets each rectangle of queries look at its rows' pages.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from .kv_cache import KVCache
from .packing import PackedRectangle, PackedStep

NAME = "paceline"


def register() -> str:
    """Makes the attention known to transformers; returns the name to pass as `attn_implementation`."""
    AttentionInterface.register(NAME, paged_attention)
    return NAME


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: PackedStep,
    cache: KVCache,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """One layer's attention for a whole step.

    Args:
        query: `[1, heads, tokens, head_dim]`; key and value: `[1, kv_heads, tokens, head_dim]`.

    Returns:
        `[1, tokens, heads, head_dim]`, and no weights.
    """
    layer = module.layer_idx
    assert isinstance(layer, int)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    cache.write(layer, packed.write, key[0].transpose(0, 1), value[0].transpose(0, 1))
    outputs = []
    for rectangle in packed.rectangles:
        keys, values = cache.gather(layer, rectangle.gather, rectangle.height)
        queries = query[0, :, rectangle.start : rectangle.end]
        mask = rectangle.mask(sliding_window)
        outputs.append(attend_rectangle(queries, keys, values, mask, rectangle, scale, softcap))
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return joined[None], None


def attend_rectangle(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    rectangle: PackedRectangle,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """`[heads, height * width, dim]` queries over `[height, kv_heads, keys, dim]`: `[h * w, heads, dim]`.

    The query heads that share a key head are laid out as further queries of that head, so keys are
    read once and never repeated.
    """
    heads, _, dim = queries.shape
    height, width, kv_heads = rectangle.height, rectangle.width, keys.shape[1]
    group = heads // kv_heads
    grouped = queries.view(kv_heads, group, height, width, dim).permute(2, 0, 1, 3, 4)
    grouped = grouped.reshape(height, kv_heads, group * width, dim)
    if width > 1:
        mask = mask[:, :, None].expand(-1, -1, group, -1, -1).reshape(height, 1, group * width, -1)
    if softcap is not None or (width == 1 and queries.device.type == "cpu"):
        out = by_products(grouped, keys, values, mask, scale, softcap)
    else:
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    out = out.view(height, kv_heads, group, width, dim).permute(0, 3, 1, 2, 4)
    return out.reshape(height * width, heads, dim)


def by_products(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float, softcap: float | None
) -> Tensor:
    """Attention as two products: soft-caps need it, and for single tokens on CPU it beats SDPA."""
    rows, kv_heads, length, dim = queries.shape
    batch = rows * kv_heads
    mask = mask.expand(rows, kv_heads, length, -1).reshape(batch, length, -1)
    queries = queries.reshape(batch, length, dim)
    keys = keys.reshape(batch, -1, dim).transpose(1, 2)
    if softcap is None:
        scores = torch.baddbmm(mask, queries, keys, alpha=scale)
    else:
        scores = torch.tanh(torch.bmm(queries, keys) * (scale / softcap)) * softcap + mask
    weights = torch.softmax(scores, dim=-1)
    return torch.bmm(weights, values.reshape(batch, -1, dim)).view(rows, kv_heads, length, dim)
