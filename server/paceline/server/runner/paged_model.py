"""transformers' own forward pass on the Triton attention: every family that `FusedModel` does not know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from .triton_attention import PagedStep, attend, store

NAME = "paceline_paged"
_CACHE = "paceline_cache"


class PagedModel:
    """Computes a step's logits by calling the model.

    Args:
        compile_layers: whether each layer runs as compiled code: one compilation for all layers of a kind and all
            lengths, since the layer's number is read nowhere and its pages come as a buffer.
    """

    def __init__(self, model: PreTrainedModel, compile_layers: bool = False) -> None:
        AttentionInterface.register(NAME, _attention)
        model.set_attn_implementation(NAME)
        self._model = model
        if compile_layers:
            for layer in decoder_layers(model):
                layer.compile(dynamic=True)

    def bind(self, caches: list[Tensor]) -> None:
        """Gives each layer its pages, `[2, pages, kv_heads, page_size, dim]`."""
        for module in self._model.modules():
            index = getattr(module, "layer_idx", None)
            if isinstance(index, int):
                module.register_buffer(_CACHE, caches[index], persistent=False)

    def compute(self, ids: Tensor, step: PagedStep, sample_at: Tensor, out: Tensor) -> None:
        """Writes the logits of the places `sample_at` `[rows]` of the line `ids` `[tokens]` to `out` `[rows, V]`."""
        call: Any = self._model
        result = call(
            input_ids=ids[None],
            position_ids=step.positions[None].long(),
            use_cache=False,
            logits_to_keep=sample_at,
            paged=step,
        )
        out.copy_(result.logits[0])


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of layers: the longest list of modules that a model holds."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)


@torch.library.custom_op("paceline::attend_pages", mutates_args=())
def _attend_pages(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: Tensor,
    positions: Tensor,
    token_slots: Tensor,
    blocks: Tensor,
    page_table: Tensor,
    block_q: int,
    splits: int,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Stores, then attends. A compiler sees one opaque call.

    It is not told that `cache` changes: nothing else in a compiled layer reads it, and a declared change would make
    the compiler copy the whole cache.
    """
    step = PagedStep(positions, token_slots, blocks, page_table, block_q, splits)
    store(key, value, cache, step)
    return attend(query, cache, step, scale=scale, window=window, softcap=softcap)


@_attend_pages.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    return query.new_empty(query.shape)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paged: PagedStep,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. Query `[1, heads, tokens, dim]`; result `[1, tokens, heads, dim]`."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = _attend_pages(
        q,
        k,
        v,
        getattr(module, _CACHE),
        paged.positions,
        paged.token_slots,
        paged.blocks,
        paged.page_table,
        paged.block_q,
        paged.splits,
        float(scale),
        sliding_window,
        softcap,
    )
    return out[None], None
