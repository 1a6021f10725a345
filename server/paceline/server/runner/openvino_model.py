"""A traced model with OpenVINO's paged attention in place of its marks, and with weights in int8.

Imports nothing of transformers, which takes longer to load than a converted model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset16 as ops
from openvino.op import Parameter, _PagedAttentionExtension

from .kv_cache import KVShape

# Tokens in a page: what OpenVINO's kernels for CPUs are written for.
PAGE_SIZE = 32
# Names what stands for an attention in a traced model: `MARK:layer:scale:window`, its inputs joined.
MARK = "paceline.attend"
_Node = Any  # openvino's own classes are not annotated
_LEVELS = 127


def page(model: ov.Model, shape: KVShape) -> None:
    """Puts paged attention in place of every mark, in place.

    New inputs: `past_lens`, `subsequence_begins`, `block_indices`, `block_indices_begins` and `max_context_len`, all
    int32, which say of each sequence how many tokens its pages hold, where its new ones begin in the line, and which
    pages are its own; `key_cache.N` and `value_cache.N` of each layer.
    """
    names = ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")
    inputs = {name: _parameter(name, ov.Type.i32, [-1]) for name in names}
    inputs["max_context_len"] = _parameter("max_context_len", ov.Type.i32, [])
    caches: list[_Node] = []
    for node in list(_marks(model)):
        _, layer, scale, window = node.get_friendly_name().split(":")
        pools = [
            _parameter(f"{kind}_cache.{layer}", ov.Type.dynamic, [-1] * 4)
            for kind in ("key", "value")
        ]
        attention = _paged_attention(node, pools, inputs, float(scale), int(window))
        facts = attention.get_rt_info()
        for kind in ("k", "v"):
            facts[f"num_{kind}_heads"] = shape.num_kv_heads
            facts[f"{kind}_head_size"] = shape.head_dim
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(attention.output(0))
        caches += pools
    model.add_parameters([*inputs.values(), *caches])
    model.validate_nodes_and_infer_types()


def _marks(model: ov.Model) -> Iterator[_Node]:
    for node in model.get_ops():
        if node.get_friendly_name().startswith(f"{MARK}:"):
            yield node


def _parameter(name: str, kind: ov.Type, shape: list[int]) -> _Node:
    parameter = Parameter(kind, ov.PartialShape(shape))
    parameter.set_friendly_name(name)
    parameter.output(0).set_names({name})
    return parameter


def _paged_attention(
    mark: _Node, pools: list[_Node], inputs: dict[str, _Node], scale: float, window: int
) -> _Node:
    """OpenVINO 2026's operator takes 28 inputs; those that select what we do not use are empty or neutral."""
    i32, f32 = np.int32, np.float32

    def empty(kind: Any) -> _Node:
        return ops.constant(np.zeros(0, dtype=kind))

    def number(value: float, kind: Any) -> _Node:
        return ops.constant(np.array(value, dtype=kind))

    sources = [each.get_source_output() for each in mark.inputs()]
    rest = [
        *pools,
        *(inputs[name] for name in ("past_lens", "subsequence_begins")),
        *(inputs[name] for name in ("block_indices", "block_indices_begins")),
        number(scale, f32),
        number(window, i32),
        empty(f32),  # slopes of ALiBi
        inputs["max_context_len"],
        empty(i32),  # window of score aggregation
        empty(i32),  # rotated blocks, by how much, and a table for it
        empty(i32),
        empty(f32),
        empty(f32),  # XAttention: threshold, block, stride
        number(1, i32),
        number(1, i32),
        ops.constant(np.zeros((0, 0, 0, 0), dtype=f32)),  # sinks
        number(0, i32),  # adaptive eviction: sizes and sets
        *(empty(i32) for _ in range(4)),
        empty(np.uint8),  # token types
        empty(i32),
    ]
    return _PagedAttentionExtension([*sources, *(node.output(0) for node in rest)])


def quantize(model: ov.Model) -> int:
    """Weights of every product in int8 with a scale for each output, in place; returns how many.

    OpenVINO's plugin keeps such weights as they are and multiplies by the scales afterwards.
    """
    replaced = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weight = _constant_behind(node.input_value(1).get_node())
        if weight is None:
            continue
        across = 1 if node.get_attributes()["transpose_b"] else 0
        values = _as_float32(weight)
        scale = np.maximum(np.abs(values).max(across, keepdims=True), 1e-30) / _LEVELS
        rounded = np.rint(values / scale).astype(np.int8)
        narrow = ops.multiply(
            ops.convert(ops.constant(rounded), "f32"), ops.constant(scale.astype(np.float32))
        )
        node.input(1).replace_source_output(narrow.output(0))
        replaced += 1
    model.validate_nodes_and_infer_types()
    return replaced


def _constant_behind(node: _Node) -> _Node | None:
    """The matrix that a product reads, perhaps converted from a narrower format."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    is_matrix = node.get_type_name() == "Constant" and len(node.get_output_shape(0)) == 2
    return node if is_matrix else None


def _as_float32(constant: _Node) -> np.ndarray:
    values: np.ndarray = constant.get_data(dtype=np.float32)
    return values
