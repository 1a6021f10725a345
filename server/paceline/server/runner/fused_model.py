"""The forward pass of Llama-like models with few kernels: Llama, Mistral, Qwen 2 and 3.

transformers loads the weights and stays the reference (`tests/server/test_paged_runner.py`). Here its layer is six
kernels: norm + QKV, rotation + storing, attention, output + residual, norm + gate/up + activation, down + residual.
Small batches of a small model are bound by how many kernels start, so norms and activations ride on the products
(`triton_linear`, which takes norms apart again where weights are large); large ones by the products, cuBLAS's then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import scaled
from .linear_configs import TORCH, Config
from .scaled import Scaled, Weight
from .triton_attention import PagedStep, attend
from .triton_layer import rotate_and_store
from .triton_linear import linear_residual, norm_linear, product

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
# Up to here the products are our own; beyond, cuBLAS is faster than what the fusion saves.
SMALL = 64


@dataclass(frozen=True, eq=False)
class _Layer:
    """One decoder layer's weights; `[out, in]` as in `nn.Linear`."""

    input_norm: Tensor
    qkv: Weight
    qkv_bias: Tensor | None
    head_norms: tuple[Tensor, Tensor, float] | None
    out: Weight
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Weight
    down: Weight
    scale: float
    window: int | None


def fits(model: PreTrainedModel) -> bool:
    """Whether this model computes what `FusedModel` does."""
    config = model.config
    return (
        config.model_type in FAMILIES
        and getattr(config, "hidden_act", None) == "silu"
        and not getattr(config, "mlp_bias", False)
        and model.dtype in (torch.bfloat16, torch.float16, torch.float32)
    )


class FusedModel:
    """Computes a step's logits with the weights of a transformers model.

    Args:
        model: one that `fits`; its projections become views of the concatenated weights made here, or with `fp8` empty.
        max_positions: rows of the rotary tables.
        fp8: the device on which the layers' weights are stored in fp8, and to which the rest of the model is moved.

    Raises:
        SetupError: these weights cannot be.
    """

    def __init__(
        self, model: PreTrainedModel, max_positions: int, *, fp8: torch.device | None = None
    ) -> None:
        inner: Any = model.model
        join: Callable[[list[nn.Linear]], Weight] = _joined
        if fp8 is not None:
            join = partial(_joined_fp8, scaled.take_over(inner.layers, fp8))
            nn.Module.to(model, fp8)
        config = model.config
        self._heads = int(config.num_attention_heads)
        self._eps = float(config.rms_norm_eps)
        # The interpreter takes a second for what a GPU does in microseconds: there torch multiplies.
        self._small = SMALL if model.device.type == "cuda" else 0
        self._embedding: Tensor = inner.embed_tokens.weight
        self._norm: Tensor = inner.norm.weight
        head: Any = model.get_output_embeddings()
        self._head: Tensor = head.weight
        self._layers = [_read(layer, config, join) for layer in inner.layers]
        self._caches: list[Tensor] = []
        self._cos, self._sin = _rotary_tables(inner.rotary_emb, max_positions, self._embedding)

    def bind(self, caches: list[Tensor]) -> None:
        """Gives each layer its pages, `[2, pages, kv_heads, page_size, dim]`."""
        self._caches = caches

    def compute(self, ids: Tensor, step: PagedStep, sample_at: Tensor, out: Tensor) -> None:
        """Writes the logits of the places `sample_at` `[rows]` of the line `ids` `[tokens]` to `out` `[rows, V]`."""
        x = F.embedding(ids, self._embedding)
        *others, last = zip(self._layers, self._caches, strict=True)
        for layer, cache in others:
            x = self._layer(x, layer, cache, step)
        # Behind the last attention only the places count that choose a token.
        chosen = self._layer(x, *last, step, sample_at)
        norm_linear(chosen, self._norm, self._eps, self._head, config=self._how(chosen), out=out)

    def _layer(
        self, x: Tensor, layer: _Layer, cache: Tensor, step: PagedStep, keep: Tensor | None = None
    ) -> Tensor:
        """The layer's output `[tokens, hidden]`, or of the places `keep` alone."""
        how = self._how(x)
        qkv = norm_linear(x, layer.input_norm, self._eps, layer.qkv, layer.qkv_bias, config=how)
        query = rotate_and_store(
            qkv, self._cos, self._sin, cache, step, self._heads, layer.head_norms
        )
        attended = attend(query, cache, step, scale=layer.scale, window=layer.window).flatten(1)
        if keep is not None:
            x, attended = x.index_select(0, keep), attended.index_select(0, keep)
            how = self._how(x)
        add = linear_residual if how is None else _add_product
        x = add(attended, layer.out, layer.out_bias, x)
        inner = norm_linear(
            x, layer.mlp_norm, self._eps, layer.gate_up, activation="silu_mul", config=how
        )
        return add(inner, layer.down, None, x)

    def _how(self, x: Tensor) -> Config | None:
        """How the products of these rows are made; None: as the kernels choose."""
        return None if len(x) <= self._small else TORCH


def _add_product(x: Tensor, weight: Weight, bias: Tensor | None, residual: Tensor) -> Tensor:
    """`residual + x W^T + b` by torch, in place: nobody needs the residual any more."""
    if isinstance(weight, Scaled):
        return residual.add_(product(x, weight, bias))
    if bias is not None:
        residual += bias
    return residual.addmm_(x, weight.t())


def _read(layer: Any, config: Any, join: Callable[[list[nn.Linear]], Weight]) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    norms = None
    if hasattr(attention, "q_norm"):
        q_norm, k_norm = attention.q_norm, attention.k_norm
        norms = (q_norm.weight, k_norm.weight, float(q_norm.variance_epsilon))
    window = getattr(attention, "sliding_window", None)
    if config.model_type == "mistral":
        window = config.sliding_window
    return _Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=join(qkv),
        qkv_bias=None if qkv[0].bias is None else torch.cat([each.bias for each in qkv]),
        head_norms=norms,
        out=join([attention.o_proj]),
        out_bias=attention.o_proj.bias,
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=join([mlp.gate_proj, mlp.up_proj]),
        down=join([mlp.down_proj]),
        scale=float(attention.scaling),
        window=window,
    )


def _joined(linears: list[nn.Linear]) -> Tensor:
    """One weight for all; the layers keep views of it, so that nothing is stored twice."""
    if len(linears) == 1:
        return linears[0].weight
    whole = torch.cat([linear.weight.detach() for linear in linears])
    start = 0
    for linear in linears:
        end = start + linear.out_features
        linear.weight = nn.Parameter(whole[start:end], requires_grad=False)
        start = end
    return whole


def _joined_fp8(taken: dict[nn.Module, Scaled], linears: list[nn.Linear]) -> Scaled:
    """One weight for all of what was taken over from them, which is let go."""
    return scaled.join([taken.pop(linear) for linear in linears])


def _rotary_tables(rotary: Any, positions: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[positions, dim / 2]` as the model's own module makes them."""
    where = torch.arange(positions, device=like.device)[None]
    cos, sin = rotary(like[:1], where)
    half = cos.shape[-1] // 2
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()
