"""Which runner computes a loaded model."""

from __future__ import annotations

import torch

from ..config import EngineConfig, ModelConfig
from ..engine import Runner
from ..errors import SetupError
from . import attention
from .loading import LoadedModel, load
from .torch_runner import TorchRunner


def load_runner(model: ModelConfig, engine: EngineConfig) -> tuple[LoadedModel, Runner]:
    """The model that `model` names, and what computes it: not warm yet. SetupError if it cannot be had."""
    loaded = load(model, attention.register())
    return loaded, make_runner(loaded, engine, model)


def make_runner(loaded: LoadedModel, engine: EngineConfig, config: ModelConfig) -> Runner:
    """Pages and Triton where there is a GPU for it, else padded attention in plain torch.

    Raises:
        SetupError: `attention`, `quantization` or `compile` names what cannot run here.
    """
    device = torch.device(loaded.info.device).type
    on_gpu = device == "cuda"
    if config.quantization != "none" and device != "cpu":
        raise SetupError(f"--quantization {config.quantization} needs the CPU; {device} takes none")
    if config.compile == "on" and (not on_gpu or config.attention == "sdpa"):
        raise SetupError("--compile on needs a GPU and its own attention; nothing else is compiled")
    if config.attention == "triton" and not on_gpu:
        raise SetupError("--attention triton needs a GPU; on this device it is sdpa")
    if on_gpu and config.attention != "sdpa":
        from .paged_runner import PagedRunner

        return PagedRunner(loaded, engine, config)
    return TorchRunner(loaded, engine, config)
