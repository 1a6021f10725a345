"""A transformers model as an OpenVINO model, with marks where its attention was.

The model's own code is traced once, with attention as a call that leaves a mark, in whose place `openvino_model` puts
OpenVINO's own. Nothing of a family is written down here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import openvino as ov
import torch
from openvino import opset16 as ops
from openvino.frontend import FrontEndManager, OpConversionFailure
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from .openvino_model import MARK
from .quiet import quiet

NAME = "paceline-openvino"


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
        """`[tokens]`, `[tokens]` and `[rows]` int64 to `[rows, 1, vocabulary]`: one axis less would cost a copy."""
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][sample_at],))
        try:
            logits: Tensor = self.model(
                input_ids=input_ids[:, None], position_ids=positions[:, None], use_cache=False
            ).logits
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
    node.set_friendly_name(":".join([MARK, *map(str, numbers)]))
    return list(node.outputs())
