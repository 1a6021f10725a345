"""A transformers model as an OpenVINO model with paged attention.

The model's own code is traced once, with attention as a call that leaves a mark; OpenVINO's paged attention then goes
in place of each mark, with a pool of keys and values of its own. Nothing of a family is written down here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset16 as ops
from openvino.frontend import FrontEndManager, OpConversionFailure
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from openvino.op import Parameter, _PagedAttentionExtension
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from .kv_cache import KVShape
from .quiet import quiet

NAME = "paceline-openvino"
# Tokens in a page: what OpenVINO's kernels for CPUs are written for.
PAGE_SIZE = 32
_MARK = "paceline.attend"
_Node = Any  # openvino's own classes are not annotated
_LEVELS = 127


class NotConvertible(Exception):
    """The model needs what OpenVINO's attention has not; the text says what."""


# Stands for a layer's attention in a trace: `[tokens, heads * head_dim]` in and out.
_LIBRARY: Any = torch.library.Library("paceline", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "attend(Tensor q, Tensor k, Tensor v, int layer, float scale, int window) -> Tensor"
)
_LIBRARY.impl("attend", lambda q, *_: q.clone(), "CPU")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer, with `[tokens, heads, 1, head_dim]`: every token a row of its own."""
    _, heads, _, dim = query.shape
    flat = [part.reshape(-1, part.shape[1] * dim) for part in (query, key, value)]
    scale = dim**-0.5 if scaling is None else scaling
    out = torch.ops.paceline.attend(*flat, module.layer_idx, float(scale), sliding_window or 0)
    return out.view(-1, 1, heads, dim), None


class _Line(nn.Module):
    """A step as the trace sees it: a line of tokens in, the logits of some of them out.

    Tokens are the batch, one a row: what swaps tokens and heads then moves nothing, and OpenVINO leaves it out.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, positions: Tensor, sample_at: Tensor) -> Tensor:
        """`[tokens]`, `[tokens]` and `[rows]` int64 to `[rows, vocabulary]`."""
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][sample_at],))
        try:
            logits: Tensor = self.model(
                input_ids=input_ids[:, None], position_ids=positions[:, None], use_cache=False
            ).logits[:, 0]
        finally:
            hook.remove()
        return logits


def trace(model: PreTrainedModel) -> ov.Model:
    """The model with marks for attention; it can be saved. NotConvertible where that is impossible."""
    config = model.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise NotConvertible("its attention has no soft-cap, and this model has one")
    before = config._attn_implementation
    AttentionInterface.register(NAME, _attention)
    model.set_attn_implementation(NAME)
    try:
        with _in_float32(model):
            return _trace(model)
    except (RuntimeError, OpConversionFailure) as exc:
        reason = str(exc).strip().splitlines() or [type(exc).__name__]
        raise NotConvertible(f"the model cannot be traced: {reason[0]}") from exc
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[None]:
    """For the time of a trace: a plugin lowers precision itself, and knows only such models well."""
    changed = [
        (tensor, tensor.data)
        for tensor in chain(model.parameters(), model.buffers())
        if tensor.is_floating_point() and tensor.dtype is not torch.float32
    ]
    try:
        for tensor, narrow in changed:
            tensor.data = narrow.float()
        yield
    finally:
        for tensor, narrow in changed:
            tensor.data = narrow


def _trace(model: PreTrainedModel) -> ov.Model:
    # The front end itself, not `ov.convert_model` around it, which reports its use to OpenVINO's makers.
    frontend = FrontEndManager().load_by_framework("pytorch")
    frontend.add_extension(ConversionExtension("paceline::attend", _mark))
    example = (torch.zeros(4, dtype=torch.int64), torch.arange(4), torch.tensor([1, 3]))
    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tracing always warns of
        decoder = TorchScriptPythonDecoder(
            _Line(model), example_input=example, trace_kwargs={"check_trace": False}
        )
        found = frontend.convert(frontend.load(decoder))
    for name, parameter in zip(("input_ids", "positions", "sample_at"), found.inputs, strict=True):
        parameter.set_names({name})
        parameter.get_node().set_partial_shape(ov.PartialShape([-1]))
        parameter.get_node().set_element_type(ov.Type.i64)
    found.validate_nodes_and_infer_types()
    return ov.Model(found)


def _mark(context: Any) -> list[Any]:
    inputs = [context.get_input(i) for i in range(3)]
    numbers = [context.get_values_from_const_input(i) for i in range(3, 6)]
    node = ops.concat(inputs, -1)
    node.set_friendly_name(":".join([_MARK, *map(str, numbers)]))
    return list(node.outputs())


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
        if node.get_friendly_name().startswith(f"{_MARK}:"):
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
