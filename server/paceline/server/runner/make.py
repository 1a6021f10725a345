"""Which runner computes a loaded model."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch

from ..config import EngineConfig, ModelConfig
from ..engine import Runner
from ..errors import SetupError
from . import attention
from .loading import LoadedModel, load
from .torch_runner import TorchRunner

logger = logging.getLogger(__name__)


def load_runner(model: ModelConfig, engine: EngineConfig) -> tuple[LoadedModel, Runner]:
    """The model that `model` names, and what computes it: not warm yet. SetupError if it cannot be had."""
    loaded = load(model, attention.register())
    return loaded, make_runner(loaded, engine, model)


def make_runner(loaded: LoadedModel, engine: EngineConfig, config: ModelConfig) -> Runner:
    """Pages and Triton where there is a GPU for it, OpenVINO on a CPU, else padded attention in plain torch.

    Raises:
        SetupError: `attention`, `quantization`, `runtime` or `compile` names what cannot run here.
    """
    device = torch.device(loaded.info.device).type
    on_gpu = device == "cuda"
    if config.quantization != "none" and device != "cpu":
        raise SetupError(f"--quantization {config.quantization} needs the CPU; {device} takes none")
    if config.compile == "on" and (not on_gpu or config.attention == "sdpa"):
        raise SetupError("--compile on needs a GPU and its own attention; nothing else is compiled")
    if config.attention == "triton" and not on_gpu:
        raise SetupError("--attention triton needs a GPU; on this device it is sdpa")
    if config.runtime == "openvino" and device != "cpu":
        raise SetupError(f"--runtime openvino computes on the CPU; {device} takes none")
    if on_gpu and config.attention != "sdpa":
        from .paged_runner import PagedRunner

        return PagedRunner(loaded, engine, config)
    if device == "cpu" and config.runtime != "torch":
        try:
            return _openvino_runner(loaded, engine, config)
        except _Unable as exc:
            if config.runtime == "openvino":
                raise SetupError(f"--runtime openvino: {exc}") from exc
            logger.info("torch computes in place of OpenVINO: %s", exc)
    return TorchRunner(loaded, engine, config)


class _Unable(Exception):
    """OpenVINO cannot compute this; the text says why."""


def _openvino_runner(loaded: LoadedModel, engine: EngineConfig, config: ModelConfig) -> Runner:
    if engine.deterministic:
        raise _Unable("its sums depend on the rows of a step, which --deterministic rules out")
    if find_spec("openvino") is None:
        raise _Unable("openvino is not installed (pip install 'paceline[openvino]')")
    from .openvino_model import PAGE_SIZE, NotConvertible
    from .openvino_runner import OpenVinoRunner

    if engine.page_size != PAGE_SIZE:
        raise _Unable(f"its pages have {PAGE_SIZE} tokens, not {engine.page_size}")
    try:
        return OpenVinoRunner(loaded, engine, config)
    except NotConvertible as exc:
        raise _Unable(str(exc)) from exc
