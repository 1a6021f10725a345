"""Decoder layers of the Llama kind for CPUs, where a small step is bound by the number of operator calls.

The same arithmetic as transformers' layers with `fuse`'s projections, in a third of the calls: one rotation for
queries and keys together, norms in one call, and single tokens attended without being transposed first.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend_rectangle, by_products
from .fuse import FusedAttention, FusedMLP
from .kv_cache import KVCache
from .packing import PackedStep

_LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer"}


class _Rotation:
    """What all layers of a step multiply by: made by the first of them."""

    def __init__(self) -> None:
        self._source: Tensor | None = None
        self._cos = self._sin = torch.empty(0)

    def tables(self, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """`[tokens, 1, dim]` each; the first half of the sines is negated, as the rotation wants it."""
        if self._source is not cos:
            half = sin.shape[-1] // 2
            signed = torch.cat((-sin[0, :, :half], sin[0, :, half:]), dim=-1)
            self._source, self._cos, self._sin = cos, cos[0, :, None], signed[:, None]
        return self._cos, self._sin


class LeanLayer(nn.Module):
    """Stands in for a decoder layer; takes what transformers passes to one."""

    def __init__(self, layer: Any, rotation: _Rotation) -> None:
        super().__init__()
        attention: FusedAttention = layer.self_attn
        self.layer_idx = attention.layer_idx
        self.head_dim = attention.head_dim
        self.scaling = attention.scaling
        self.window: int | None = attention.arguments.get("sliding_window")
        self.group = attention.num_key_value_groups
        self.qkv_proj, self.o_proj = attention.qkv_proj, attention.o_proj
        self.gate_up_proj, self.down_proj = layer.mlp.gate_up_proj, layer.mlp.down_proj
        self.act_fn = layer.mlp.act_fn
        self.first_norm = layer.input_layernorm.weight
        self.second_norm = layer.post_attention_layernorm.weight
        self.eps: float = layer.input_layernorm.variance_epsilon
        self._rotation = rotation
        out = self.o_proj.in_features // self.head_dim
        self.heads, self.kv_heads = out, out // self.group

    def forward(
        self,
        hidden_states: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        packed: PackedStep,
        cache: KVCache,
        **_: Any,
    ) -> Tensor:
        """`[1, tokens, hidden]` in and out."""
        x = hidden_states[0]
        size = self.first_norm.shape
        tables = self._rotation.tables(*position_embeddings)
        attended = self._attend(
            F.rms_norm(x, size, self.first_norm, self.eps), tables, packed, cache
        )
        x = x + self.o_proj(attended)
        gate, up = self.gate_up_proj(F.rms_norm(x, size, self.second_norm, self.eps)).chunk(2, -1)
        out: Tensor = x + self.down_proj(self.act_fn(gate) * up)
        return out[None]

    def _attend(
        self, x: Tensor, tables: tuple[Tensor, Tensor], packed: PackedStep, cache: KVCache
    ) -> Tensor:
        """`[tokens, hidden]` to `[tokens, heads * dim]`."""
        cos, sin = tables
        heads, kv_heads, dim = self.heads, self.kv_heads, self.head_dim
        qkv = self.qkv_proj(x).view(-1, heads + 2 * kv_heads, dim)
        turning = qkv[:, : heads + kv_heads]
        turned = torch.addcmul(turning * cos, turning.roll(dim // 2, -1), sin)
        cache.write(self.layer_idx, packed.write, turned[:, heads:], qkv[:, heads + kv_heads :])
        outputs = []
        for rectangle in packed.rectangles:
            keys, values = cache.gather(self.layer_idx, rectangle.gather, rectangle.height)
            queries, mask = (
                turned[rectangle.start : rectangle.end, :heads],
                rectangle.mask(self.window),
            )
            if rectangle.width == 1:
                grouped = queries.reshape(-1, kv_heads, self.group, dim)
                out = by_products(grouped, keys, values, mask, self.scaling, None)
            else:
                queries = queries.transpose(0, 1)
                out = attend_rectangle(queries, keys, values, mask, rectangle, self.scaling, None)
            outputs.append(out.reshape(-1, heads * dim))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def use_lean_layers(model: nn.Module) -> int:
    """Replaces decoder layers that `fuse` has been through, in place; returns how many."""
    rotation = _Rotation()
    replaced = 0
    for parent in list(model.modules()):
        if isinstance(parent, nn.ModuleList):
            for i, layer in enumerate(parent):
                if _fits(layer):
                    parent[i] = LeanLayer(layer, rotation)
                    replaced += 1
    return replaced


def _fits(layer: Any) -> bool:
    if type(layer).__name__ not in _LAYERS:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    if not (isinstance(attention, FusedAttention) and isinstance(mlp, FusedMLP)):
        return False
    same_eps = (
        layer.input_layernorm.variance_epsilon == layer.post_attention_layernorm.variance_epsilon
    )
    return same_eps and attention.q_norm is None
