"""Converted models, kept in the user's cache: tracing a model takes longer than all the rest of a start."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

import openvino as ov
import torch
import transformers

from ..embedded import cache_dir
from . import openvino_model
from .loading import LoadedModel

logger = logging.getLogger(__name__)

# Raise it when the conversion changes what it writes.
_SCHEMA = 2
_FILE = "model.xml"


def converted(loaded: LoadedModel, quantization: str) -> ov.Model:
    """The model with marks for attention: from the cache, or traced and put there.

    Weights that are equal to the last bit share an entry, whatever they are called. An entry replaces those of the
    same name and number format, so that the cache does not grow with every change of a model.
    """
    prefix = f"{_plain(loaded.info.name)}-{loaded.info.dtype}-{quantization}-"
    folder = cache_dir() / "openvino" / f"{prefix}{_digest(loaded, quantization)}"
    if (folder / _FILE).exists():
        try:
            return ov.Core().read_model(folder / _FILE)
        except RuntimeError as exc:  # replaced or damaged just now
            logger.warning("the converted model in %s is made anew: %s", folder, _last_line(exc))
    model = openvino_model.trace(loaded.model)
    if quantization == "int8":
        openvino_model.quantize(model)
    try:
        _keep(model, folder, prefix)
    except OSError as exc:
        logger.warning("the converted model was not kept: %s", exc)
        return model
    return ov.Core().read_model(folder / _FILE)  # mapped, where the other copy takes memory


def _keep(model: ov.Model, folder: Path, prefix: str) -> None:
    """Under its final name in one rename, complete, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        _save(model, partial / _FILE)
        for old in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(old, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _save(model: ov.Model, path: Path) -> None:
    try:
        ov.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as exc:  # a full disk
        raise OSError(_last_line(exc)) from exc


def _last_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[-1]


def _digest(loaded: LoadedModel, quantization: str) -> str:
    """Of everything that the converted model depends on, every weight included."""
    versions = (ov.__version__, torch.__version__, transformers.__version__)
    found = hashlib.sha256(repr((_SCHEMA, versions, quantization)).encode())
    found.update(loaded.config.to_json_string().encode())
    for name, tensor in loaded.model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def _plain(name: str) -> str:
    return "".join(char if char.isalnum() or char in "._" else "-" for char in name)[-80:]
