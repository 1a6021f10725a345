"""Loads a model: from a hub name, a folder, a GGUF file, the embedded default, or as random weights."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from .. import tokenizer
from ..config import ModelConfig
from ..errors import SetupError
from ..request import ModelInfo
from . import dummy
from .converting import gguf_arguments
from .families import check_family, check_supported
from .hardware import pick_device, pick_dtype, pick_threads
from .quiet import quiet
from .sources import Source, resolve

_LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    ImportError,
    SafetensorError,
    HfHubHTTPError,
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, ready to compute, and what goes with it."""

    model: PreTrainedModel
    config: PreTrainedConfig
    tokenizer: tokenizer.Tokenizer
    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    num_threads: int
    source: Source | None = None  # None: no files
    shards: int = 1  # ranks that it is spread over, this one among them


def load(config: ModelConfig, attention: str | None = None, shards: int = 1) -> LoadedModel:
    """The model that `config` asks for, in evaluation mode. Sets torch's number of CPU threads.

    Args:
        attention: name of an implementation in transformers' attention interface; None: its own choice.
        shards: processes that each load a part of every layer, on devices of their own; over 1, they have
            joined (see `ranks`), and all call this.

    Raises:
        SetupError: one line for the operator: what is wrong, and what to do.
    """
    source = None
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device, config.quantization)
    num_threads = pick_threads(config.num_threads)
    torch.set_num_threads(num_threads)
    if config.dummy_weights is None:
        source = resolve(config)
        name, model, tokens = _load_real(source, config, device, dtype, attention, shards)
    elif config.model is not None:
        raise SetupError("--model and --dummy-weights exclude each other")
    else:
        name, model, tokens = _make_dummy(config.dummy_weights, device, dtype, attention)
    model.eval().requires_grad_(False)
    info = _describe(name, model, tokens, device, config.max_context_tokens)
    return LoadedModel(
        model, model.config, tokens, info, device, dtype, num_threads, source, shards
    )


_Loaded = tuple[str, PreTrainedModel, tokenizer.Tokenizer]


def _load_real(
    source: Source,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    attention: str | None,
    shards: int,
) -> _Loaded:
    # Unset, transformers would load pickles, and ask on the terminal whether to run a model's code.
    trust = config.trust_remote_code
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": None if config.allow_pickle else True,
        "trust_remote_code": trust,
    }
    if source.gguf is not None:
        arguments |= gguf_arguments(source.gguf)
    if attention is not None:
        arguments["attn_implementation"] = attention
    if shards > 1:
        from transformers.distributed.configuration_utils import DistributedConfig

        arguments["distributed_config"] = DistributedConfig(tp_size=shards)
    elif device.type != "cpu" and config.quantization != "fp8":
        # Fp8 weights are made one layer after the other: from here to the device, which never holds the whole model.
        arguments["device_map"] = {"": device}
    with _one_line_errors(source), quiet(downloads=source.on_hub):
        check_supported(read_config(source, trust))
        found: Any  # with output_loading_info a pair, which the annotations do not know
        found = AutoModelForCausalLM.from_pretrained(
            source.location, output_loading_info=True, **arguments
        )
        model, report = found
        tokens = tokenizer.load(source.tokenizer, trust)
    if missing := report["missing_keys"]:
        some = ", ".join(sorted(missing)[:3])
        raise SetupError(f"model {source.name!r} lacks {len(missing)} of its weights ({some}, …)")
    return source.name, model, tokens


def read_config(source: Source, trust: bool) -> PreTrainedConfig:
    """What to refuse a model by before gigabytes are read. SetupError if it cannot be had, or is of no known family."""
    found: PreTrainedConfig
    with _one_line_errors(source):
        if source.gguf is not None:
            found = AutoConfig.from_pretrained(source.location, gguf_file=source.gguf.name)
            return found
        settings, _ = PreTrainedConfig.get_config_dict(source.location)
        check_family(settings.get("model_type"))
        found = AutoConfig.from_pretrained(source.location, trust_remote_code=trust)
        return found


def _make_dummy(
    shape: str, device: torch.device, dtype: torch.dtype, attention: str | None
) -> _Loaded:
    config = dummy.shape_config(shape)
    check_supported(config)
    with quiet():
        model = dummy.build(config, device, dtype, attention)
        tokens = tokenizer.Tokenizer(dummy.byte_tokenizer(config))
    return f"dummy-{dummy.shape_name(shape)}", model, tokens


@contextmanager
def _one_line_errors(source: Source) -> Iterator[None]:
    try:
        yield
    except SetupError:
        raise
    except OfflineModeIsEnabled as exc:
        raise SetupError(_not_found(source)) from exc
    except pickle.UnpicklingError as exc:  # torch unpickles tensors and runs nothing
        raise SetupError(
            f"cannot load model {source.name!r}: its pickle holds more than weights, or is damaged"
        ) from exc
    except _LOADING_ERRORS as exc:
        if refused := tokenizer.own_code(source.name, exc):
            raise refused from exc
        if source.on_hub and isinstance(exc, OSError):
            raise SetupError(_not_found(source, exc)) from exc
        raise SetupError(f"cannot load model {source.name!r}: {_first_line(exc)}") from exc


def _not_found(source: Source, exc: Exception | None = None) -> str:
    reason = "not in the local cache, and the hub is not reachable"
    if exc is not None and "connect" not in str(exc):
        reason = _first_line(exc)
    return (
        f"cannot load model {source.name!r} from the hub: {reason}; pass --model FOLDER or FILE.gguf, "
        "or no --model for the embedded one"
    )


def _first_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return lines[0].strip().rstrip(".")[:300]


def _describe(
    name: str,
    model: PreTrainedModel,
    tokens: tokenizer.Tokenizer,
    device: torch.device,
    max_context: int | None,
) -> ModelInfo:
    config = model.config
    limit = int(config.max_position_embeddings)
    if max_context is not None and max_context > limit:
        raise SetupError(f"--max-context-tokens {max_context} is over the model's limit of {limit}")
    first = next(model.parameters())
    return ModelInfo(
        name=name,
        architecture=config.model_type,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        dtype=str(first.dtype).removeprefix("torch."),
        device=str(device),
        vocab_size=int(config.vocab_size),
        max_context_tokens=max_context or limit,
        eos_token_ids=_eos_token_ids(model) or tokens.eos_token_ids,
        num_layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )


def _eos_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """As `generate()` would have it: the generation settings, else the configuration."""
    generation = getattr(model, "generation_config", None)
    for settings in (generation, model.config):
        eos = getattr(settings, "eos_token_id", None)
        if eos is not None:
            return tuple(eos) if isinstance(eos, Iterable) else (int(eos),)
    return ()
