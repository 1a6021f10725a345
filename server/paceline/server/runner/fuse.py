"""Joins linear layers that read the same input: queries, keys and values; gate and up.

Each product then starts once where it started three times or twice, and reads longer rows of weights. The
modules put in place compute what transformers' own do, with its rotary embedding and its norms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Their attention differs by its norms and by what `_interface_arguments` says, and by nothing else.
_ATTENTIONS = {
    "LlamaAttention",
    "MistralAttention",
    "Qwen2Attention",
    "Qwen3Attention",
    "Gemma2Attention",
    "Gemma3Attention",
}
_MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "Gemma2MLP", "Gemma3MLP"}


class FusedAttention(nn.Module):
    """Attention whose queries, keys and values come from one product.

    Attributes:
        layer_idx: the place of the layer, as transformers numbers them.
        arguments: what the family passes to the attention function.
        qkv_proj: gives queries, keys and values of a token one after the other.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        source: Any = attention  # attributes of transformers' modules are not annotated
        self.config = source.config
        self.layer_idx: int = source.layer_idx
        self.head_dim: int = source.head_dim
        self.num_key_value_groups: int = source.num_key_value_groups
        self.scaling: float = source.scaling
        self.is_causal: bool = source.is_causal
        self.qkv_proj, self._sizes = _join(source.q_proj, source.k_proj, source.v_proj)
        self.o_proj = source.o_proj
        self.q_norm = getattr(source, "q_norm", None)
        self.k_norm = getattr(source, "k_norm", None)
        self.arguments = _interface_arguments(source)
        family = sys.modules[type(attention).__module__]
        self._rotate: Callable[..., tuple[Tensor, Tensor]] = family.apply_rotary_pos_emb
        self._eager: Callable[..., Any] = family.eager_attention_forward

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """`[batch, tokens, hidden]` in, the same out, with the attention's weights if it has them."""
        batch, tokens, _ = hidden_states.shape
        parts = self.qkv_proj(hidden_states).split(self._sizes, dim=-1)
        query, key, value = (
            part.view(batch, tokens, -1, self.head_dim).transpose(1, 2) for part in parts
        )
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key = self._rotate(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, self._eager
        )
        out, weights = attend(
            self, query, key, value, attention_mask, dropout=0.0, **self.arguments, **kwargs
        )
        return self.o_proj(out.reshape(batch, tokens, -1).contiguous()), weights


class FusedMLP(nn.Module):
    """A gated MLP whose gate and up come from one product."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        source: Any = mlp
        self.gate_up_proj, _ = _join(source.gate_proj, source.up_proj)
        self.down_proj = source.down_proj
        self.act_fn = source.act_fn

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(self.act_fn(gate) * up)
        return out


def fuse_projections(model: nn.Module) -> int:
    """Replaces the attentions and gated MLPs of known families in place; returns how many were replaced.

    What does not fit is left alone. Layer by layer, so that the weights are there twice for one layer only.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            fused = _fused(child)
            if fused is not None:
                setattr(parent, name, fused.train(child.training))
                replaced += 1
    return replaced


def _fused(module: nn.Module) -> nn.Module | None:
    kind = type(module).__name__
    if kind in _ATTENTIONS and _all_linear(module, "q_proj", "k_proj", "v_proj"):
        return FusedAttention(module)
    if kind in _MLPS and _all_linear(module, "gate_proj", "up_proj"):
        return FusedMLP(module)
    return None


def _all_linear(module: nn.Module, *names: str) -> bool:
    """Whether all are plain linear layers, which a quantised model's are not, and alike in their bias."""
    layers = [getattr(module, name, None) for name in names]
    plain = all(type(layer) is nn.Linear for layer in layers)
    return plain and len({layer.bias is None for layer in layers if layer is not None}) == 1


def _join(*layers: nn.Linear) -> tuple[nn.Linear, list[int]]:
    """One layer that gives the outputs of all one after the other, and how long each is."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    sizes = [layer.out_features for layer in layers]
    with torch.device("meta"):
        joined = nn.Linear(layers[0].in_features, len(weight), bias=layers[0].bias is not None)
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if layers[0].bias is not None:
        bias = torch.cat([layer.bias.detach() for layer in layers])
        joined.bias = nn.Parameter(bias, requires_grad=False)
    return joined, sizes


def _interface_arguments(attention: Any) -> dict[str, Any]:
    """What the family's attention says of itself to the attention function."""
    arguments: dict[str, Any] = {"scaling": attention.scaling}
    kind = type(attention).__name__
    if kind == "MistralAttention":
        arguments["sliding_window"] = getattr(attention.config, "sliding_window", None)
    elif kind != "LlamaAttention":
        arguments["sliding_window"] = attention.sliding_window
    if kind == "Gemma2Attention":
        arguments["softcap"] = attention.attn_logit_softcapping
    return arguments
