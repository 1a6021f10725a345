"""Converted models, kept in the user's cache: tracing a model takes longer than all the rest of a start."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openvino as ov
import torch

from ..cache import cache_dir, install, workshop
from ..config import ModelConfig
from ..request import ModelInfo
from .kv_cache import KVShape
from .openvino_model import PAGE_SIZE, quantize
from .sources import Source

if TYPE_CHECKING:
    from .loading import LoadedModel

logger = logging.getLogger(__name__)

# Raise it when the conversion changes what it writes.
_SCHEMA = 5
_FILE = "model.xml"
_FACTS = "facts.json"


@dataclass(frozen=True, slots=True)
class Converted:
    """A model with marks for attention, and what a server must know of it. `shape` has the model's own format."""

    model: ov.Model
    info: ModelInfo
    shape: KVShape
    generic_tokenizer: bool = False


def converted(loaded: LoadedModel, config: ModelConfig) -> Converted:
    """The model from the cache, or traced and put there; afterwards `loaded` has no weights any more.

    Weights that are equal to the last bit share an entry, whatever they are called. An entry replaces those of the
    same name and number format, so that the cache does not grow with every change of a model.

    Raises:
        NotConvertible: the model needs what OpenVINO's attention has not; its weights are left alone.
    """
    folder = _folder(loaded.info.name, loaded.dtype, config, _digest(loaded, config.quantization))
    model = _read(folder)
    if model is None:
        model = _convert(loaded, config.quantization, folder)
    shape = KVShape.of(loaded.model, PAGE_SIZE)
    if loaded.source is not None and not loaded.source.on_hub:
        _note(folder, loaded, shape)
    torch.nn.Module.to(loaded.model, "meta")
    return Converted(model, loaded.info, shape)


def recall(source: Source, dtype: torch.dtype, config: ModelConfig) -> Converted | None:
    """What was made of these very files by these very libraries, without a look into the files; None: nothing.

    Files are the same where names, sizes and times are, as for `make`. A hub name may stand for newer files by now.
    """
    if source.on_hub:
        return None
    for folder in (cache_dir() / "openvino").glob(_name(source.name, dtype, config) + "*"):
        facts = _facts(folder)
        if facts is None or facts["files"] != _files(source):
            continue
        limit, asked = facts["context_limit"], config.max_context_tokens
        if asked is not None and asked > limit:
            return None  # who loads it says what is wrong
        if (model := _read(folder)) is not None:
            eos = tuple(facts["info"].pop("eos_token_ids"))
            info = ModelInfo(**facts["info"], eos_token_ids=eos)
            info = dataclasses.replace(info, max_context_tokens=asked or limit)
            shape = KVShape(**facts["shape"], dtype=dtype)
            return Converted(model, info, shape, facts["generic_tokenizer"])
    return None


def _read(folder: Path) -> ov.Model | None:
    """The model of an entry, its weights mapped rather than copied."""
    if not (folder / _FILE).exists():
        return None
    try:
        return ov.Core().read_model(folder / _FILE)
    except RuntimeError as exc:  # replaced or damaged just now
        logger.warning("the converted model in %s is made anew: %s", folder, _last_line(exc))
        return None


def _convert(loaded: LoadedModel, quantization: str, folder: Path) -> ov.Model:
    from .openvino_trace import trace

    model = trace(loaded.model)
    if quantization == "int8":
        quantize(model)
    try:
        with workshop(folder.parent) as room:
            made = room / "made"
            made.mkdir()
            _save(model, made / _FILE)
            for old in folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*"):
                shutil.rmtree(old, ignore_errors=True)
            install(made, folder)
    except OSError as exc:
        logger.warning("the converted model was not kept: %s", exc)
        return model
    return _read(folder) or model


def _save(model: ov.Model, path: Path) -> None:
    try:
        ov.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as exc:  # a full disk
        raise OSError(_last_line(exc)) from exc


def _note(folder: Path, loaded: LoadedModel, shape: KVShape) -> None:
    """Writes down what `recall` needs; without it the next start takes longer, no more."""
    assert loaded.source is not None
    layers = {name: getattr(shape, name) for name in ("num_layers", "num_kv_heads", "head_dim")}
    facts = {
        "files": _files(loaded.source),
        "context_limit": int(loaded.config.max_position_embeddings),
        "info": dataclasses.asdict(loaded.info),
        "generic_tokenizer": loaded.tokenizer.generic,
        "shape": layers | {"page_size": shape.page_size},
    }
    if not folder.exists() or _facts(folder) == json.loads(json.dumps(facts)):
        return
    try:
        with workshop(folder.parent) as room:
            (room / _FACTS).write_text(json.dumps(facts, indent=1))
            (room / _FACTS).replace(folder / _FACTS)
    except OSError as exc:
        logger.warning("nothing was noted of the converted model: %s", exc)


def _facts(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / _FACTS).read_text())
    except (OSError, ValueError):
        return None
    return found


def _files(source: Source) -> str:
    """Which files a model is loaded from, and with which libraries, as a digest."""
    place = Path(source.location)
    files = [source.gguf] if source.gguf is not None else sorted(place.iterdir())
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    seen = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr((_versions(), str(place.resolve()), seen)).encode()).hexdigest()


def _digest(loaded: LoadedModel, quantization: str) -> str:
    """Of everything that the converted model depends on, every weight included."""
    found = hashlib.sha256(repr((_versions(), quantization)).encode())
    found.update(loaded.config.to_json_string().encode())
    for name, tensor in loaded.model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def _versions() -> tuple[int | str, ...]:
    return _SCHEMA, *(version(name) for name in ("openvino", "torch", "transformers"))


def _folder(name: str, dtype: torch.dtype, config: ModelConfig, digest: str) -> Path:
    return cache_dir() / "openvino" / f"{_name(name, dtype, config)}{digest}"


def _name(name: str, dtype: torch.dtype, config: ModelConfig) -> str:
    """Up to the digest: a model's name, number format and quantization."""
    plain = "".join(char if char.isalnum() or char in "._" else "-" for char in name)[-80:]
    return f"{plain}-{str(dtype).removeprefix('torch.')}-{config.quantization}-"


def _last_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[-1]
