"""Which runner computes a model."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from .. import tokenizer
from ..config import EngineConfig, ModelConfig
from ..errors import SetupError
from ..loader import Loaded
from ..runner_port import Runner
from .hardware import pick_device, pick_dtype, pick_threads
from .sources import resolve

if TYPE_CHECKING:
    from .loading import LoadedModel

logger = logging.getLogger(__name__)

_FP8 = (8, 9)  # the first GPUs that multiply it: Ada, Hopper


def load_runner(model: ModelConfig, engine: EngineConfig) -> Loaded:
    """What computes the model that `model` names, not warm yet, and its tokenizer. SetupError if it cannot be had."""
    if model.tensor_parallel > 1:
        from .leading import load_leader

        return load_leader(model, engine)
    device = pick_device(model.device)
    _check(device, model)  # before weights are read
    if (recalled := _recall(device, model, engine)) is not None:
        return recalled
    from . import attention
    from .loading import load

    loaded = load(model, attention.register())
    return Loaded(make_runner(loaded, engine, model), loaded.tokenizer, loaded.num_threads)


def make_runner(loaded: LoadedModel, engine: EngineConfig, config: ModelConfig) -> Runner:
    """Pages and Triton where there is a GPU for it, OpenVINO on a CPU, else padded attention in plain torch.

    Raises:
        SetupError: `attention`, `quantization`, `runtime` or `compile` names what cannot run here.
    """
    device = torch.device(loaded.info.device)
    _check(device, config)
    if device.type == "cuda" and config.attention != "sdpa":
        from .paged_runner import PagedRunner

        return PagedRunner(loaded, engine, config)
    if device.type == "cpu" and config.runtime != "torch":
        try:
            return _openvino_runner(loaded, engine, config)
        except _Unable as exc:
            if config.runtime == "openvino":
                raise SetupError(f"--runtime openvino: {exc}") from exc
            logger.info("torch computes in place of OpenVINO: %s", exc)
    from .torch_runner import TorchRunner

    return TorchRunner(loaded, engine, config)


def _check(device: torch.device, config: ModelConfig) -> None:
    on_gpu = device.type == "cuda"
    if config.quantization == "int8" and device.type != "cpu":
        other = " (but fp8)" if on_gpu else ""
        raise SetupError(f"--quantization int8 needs the CPU; {device.type} takes none{other}")
    if config.quantization == "fp8":
        # ROCm counts capabilities in its own way, and most of its fp8 is another format.
        if not on_gpu or torch.version.hip or torch.cuda.get_device_capability(device) < _FP8:
            raise SetupError("--quantization fp8 needs a GPU of compute capability 8.9 or more")
        if config.attention == "sdpa":
            raise SetupError("--quantization fp8 does not go together with --attention sdpa")
        if config.compile == "on" or not config.fused_layers:
            raise SetupError(
                "--quantization fp8 needs fused layers: neither --no-fused-layers nor --compile on"
            )
    if config.compile == "on" and (not on_gpu or config.attention == "sdpa"):
        raise SetupError("--compile on needs a GPU and its own attention; nothing else is compiled")
    if config.attention == "triton" and not on_gpu:
        raise SetupError("--attention triton needs a GPU; on this device it is sdpa")
    if config.runtime == "openvino" and device.type != "cpu":
        raise SetupError(f"--runtime openvino computes on the CPU; {device.type} takes none")


class _Unable(Exception):
    """OpenVINO cannot compute this; the text says why."""


def _may_use_openvino(engine: EngineConfig) -> None:
    """_Unable where it cannot, whatever the model."""
    if engine.deterministic:
        raise _Unable("its sums depend on the rows of a step, which --deterministic rules out")
    if find_spec("openvino") is None:
        raise _Unable("openvino is not installed (pip install 'paceline[openvino]')")
    from .openvino_model import PAGE_SIZE

    if engine.page_size != PAGE_SIZE:
        raise _Unable(f"its pages have {PAGE_SIZE} tokens, not {engine.page_size}")


def _openvino_runner(loaded: LoadedModel, engine: EngineConfig, config: ModelConfig) -> Runner:
    _may_use_openvino(engine)
    from .openvino_cache import converted
    from .openvino_runner import OpenVinoRunner
    from .openvino_trace import NotConvertible

    try:
        found = converted(loaded, config)
    except NotConvertible as exc:
        raise _Unable(str(exc)) from exc
    return OpenVinoRunner(found, loaded.num_threads, engine, config)


def _recall(device: torch.device, config: ModelConfig, engine: EngineConfig) -> Loaded | None:
    """A model that was converted before: neither its weights nor transformers' models need to be loaded."""
    if device.type != "cpu" or config.runtime == "torch" or config.dummy_weights is not None:
        return None
    try:
        _may_use_openvino(engine)
    except _Unable:
        return None  # who loads the model says so
    from .openvino_cache import recall
    from .openvino_runner import OpenVinoRunner

    source = resolve(config)
    found = recall(source, pick_dtype(config.dtype, device, config.quantization), config)
    if found is None:
        return None
    num_threads = pick_threads(config.num_threads)
    torch.set_num_threads(num_threads)
    tokens = tokenizer.load(
        source.tokenizer, config.trust_remote_code, generic=found.generic_tokenizer
    )
    return Loaded(OpenVinoRunner(found, num_threads, engine, config), tokens, num_threads)
