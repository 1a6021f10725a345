"""What a decode step cannot be faster than: the bytes it must move, and the products it must compute. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder in the manner of Llama: grouped heads, gated MLP, an output matrix."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    dtype: str

    @classmethod
    def of(cls, config: Any, dtype: str) -> Shape:
        """From a transformers configuration."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            intermediate=config.intermediate_size,
            vocab=config.vocab_size,
            dtype=dtype,
        )

    @property
    def matrix_elements(self) -> int:
        """Elements of every matrix a token is multiplied with: all weights but norms and the input embedding."""
        attention = 2 * self.heads + 2 * self.kv_heads
        layer = self.hidden * (attention * self.head_dim + 3 * self.intermediate)
        return self.layers * layer + self.vocab * self.hidden

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES[self.dtype]

    def step_bytes(self, rows: int, context: float) -> float:
        """Bytes one decode step must move.

        Weights are read once, the input embedding only where tokens stand; each row's keys and values are
        read, and its new ones written; logits are written and read once. Activations are left out.
        """
        size = BYTES[self.dtype]
        norms = (2 * self.layers + 1) * self.hidden * size
        weights = self.matrix_elements * size + norms + rows * self.hidden * size
        logits = 2 * rows * self.vocab * size
        return weights + rows * (context + 1) * self.kv_bytes + logits

    def step_flops(self, rows: int, context: float) -> float:
        """Floating-point operations of its matrix products and attention."""
        attention = 4 * self.layers * self.heads * self.head_dim * context
        return rows * (2 * self.matrix_elements + attention)


@dataclass(frozen=True, slots=True)
class Device:
    """What the device was measured to do: copy (read and write counted) and multiply."""

    copy_bytes_per_s: float
    flops_per_s: float

    def floor_ms(self, shape: Shape, rows: int, context: float) -> tuple[float, str]:
        """The shortest decode step in milliseconds, and what sets it: `memory` or `arithmetic`."""
        memory = shape.step_bytes(rows, context) / self.copy_bytes_per_s * 1e3
        arithmetic = shape.step_flops(rows, context) / self.flops_per_s * 1e3
        return (memory, "memory") if memory >= arithmetic else (arithmetic, "arithmetic")
