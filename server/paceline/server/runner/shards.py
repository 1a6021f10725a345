"""Whether a model can be spread over ranks, and the part of it that one rank has."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from ..devices import under_torchrun
from ..errors import SetupError
from . import attention
from .families import check_supported
from .hardware import pick_device, pick_threads
from .loading import LoadedModel, load, read_config
from .ranks import BACKENDS, Place, RankConfig, Ranks
from .sources import resolve
from .torch_runner import TorchRunner


@dataclass(frozen=True, slots=True)
class Part:
    """One rank's part: layers with their share of the heads, and pages for these."""

    ranks: Ranks
    loaded: LoadedModel
    runner: TorchRunner

    @classmethod
    def load(cls, config: RankConfig, place: Place) -> Part:
        """Joins the others and loads; all ranks do this at the same time. SetupError as `loading.load`."""
        own = _of_rank(config, place)
        ranks = Ranks(place, torch.device(own.device))
        loaded = load(own, attention.register(), place.size)
        return cls(ranks, loaded, TorchRunner(loaded, own, own, ranks.fewest))


def _of_rank(config: RankConfig, place: Place) -> RankConfig:
    """With a device of its own, or a share of the processor."""
    device = pick_device(config.device).type
    if device != "cpu":
        return config.model_copy(update={"device": f"{device}:{place.local}"})
    threads = config.num_threads or max(1, pick_threads(None) // place.size)
    return config.model_copy(update={"device": device, "num_threads": threads})


def check(config: RankConfig) -> None:
    """Refuses what cannot be spread, before anything is started or loaded. SetupError with one line."""
    for problem in (_unsupported(config), _system(), _devices(config)):
        if problem:
            raise SetupError(f"--tensor-parallel {config.tensor_parallel}: {problem}")
    source = resolve(config)
    if source.gguf is not None:
        raise SetupError(
            "--tensor-parallel needs a folder or hub name, for a GGUF file is read whole"
        )
    model = read_config(source, config.trust_remote_code)
    check_supported(model)
    if problem := _indivisible(model, config.tensor_parallel):
        raise SetupError(
            f"model {source.name!r} cannot be spread over {config.tensor_parallel} ranks: {problem}"
        )


def _unsupported(config: RankConfig) -> str | None:
    settings = {
        "--deterministic": config.deterministic,
        "--dummy-weights": config.dummy_weights is not None,
        f"--quantization {config.quantization}": config.quantization != "none",
        f"--runtime {config.runtime}": config.runtime == "openvino",
        f"--attention {config.attention}": config.attention == "triton",
        f"--compile {config.compile}": config.compile == "on",
    }
    refused = ", ".join(name for name, given in settings.items() if given)
    return f"it does not go together with {refused}" if refused else None


def _system() -> str | None:
    linux = sys.platform.startswith("linux")
    return None if linux or under_torchrun() else "ranks are started on Linux alone"


def _devices(config: RankConfig) -> str | None:
    device = pick_device(config.device)
    accelerator = torch.accelerator.current_accelerator()
    used = (
        "cpu" if accelerator is None else accelerator.type
    )  # by transformers, which takes no other
    if device.type not in BACKENDS:
        return f"{device.type} devices do not compute together"
    if device.type != used:
        return (
            f"with a {used} device here it takes no {device.type}; hide it (CUDA_VISIBLE_DEVICES=)"
        )
    if config.device.partition(":")[2]:
        return f"it takes GPUs from the first on, not --device {config.device}; set CUDA_VISIBLE_DEVICES"
    if device.type == "cuda" and not under_torchrun():
        here = torch.cuda.device_count()
        return f"there are {here} GPUs here" if here < config.tensor_parallel else None
    return None


def _indivisible(config: PreTrainedConfig, size: int) -> str | None:
    """Why transformers' plan and our pages do not give each rank the same."""
    if not config.base_model_tp_plan:
        return f"transformers has no tensor-parallel plan for {config.model_type}"
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % size:
        return f"its {heads} heads do not divide"
    if kv_heads % size:
        return f"its {kv_heads} key-value heads do not divide"
    return None
