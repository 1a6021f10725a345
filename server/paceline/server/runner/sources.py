"""From what `--model` says to where the files are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .. import embedded
from ..config import ModelConfig
from ..errors import SetupError
from .converting import convert

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is: a folder or a hub name in `location`, or one GGUF file in a folder."""

    name: str  # what clients are told
    location: str
    gguf: Path | None = None

    @property
    def on_hub(self) -> bool:
        return self.gguf is None and not Path(self.location).is_dir()

    @property
    def tokenizer(self) -> str:
        """What `tokenizer.load` takes."""
        return str(self.gguf) if self.gguf is not None else self.location


def resolve(config: ModelConfig) -> Source:
    """Where the model's files are; the embedded one is fetched if it is not here yet.

    Raises:
        SetupError: there is no such folder, file or name, or it holds nothing that can be loaded.
    """
    if config.model is None:
        folder = embedded.ensure(convert)
        return Source(embedded.SMOLLM2.name, str(folder))
    path = Path(config.model).expanduser()
    try:
        if path.is_dir():
            return _folder(path, config.allow_pickle)
        if path.is_file():
            return _file(path)
    except PermissionError as exc:
        raise SetupError(f"model folder {str(path)!r} cannot be read: {exc.strerror}") from exc
    if _looks_like_path(config.model) or not _HUB_NAME.fullmatch(config.model):
        raise SetupError(f"no such model folder or file: {config.model!r}")
    return Source(config.model, config.model)


def _looks_like_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or model.endswith((".gguf", "/"))


def _file(path: Path) -> Source:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SetupError(
                f"{str(path)!r} is no GGUF file; --model takes a folder for other kinds"
            )
    return Source(path.stem, str(path.parent), path)


def _folder(path: Path, allow_pickle: bool) -> Source:
    names = [entry.name for entry in path.iterdir()]
    if "config.json" not in names:
        ggufs = [name for name in names if name.endswith(".gguf")]
        hint = f"; it holds a GGUF file: pass {str(path / ggufs[0])!r}" if ggufs else ""
        raise SetupError(f"model folder {str(path)!r} has no config.json{hint}")
    if not any(path.glob("*.safetensors")):
        pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
        if pickles and not allow_pickle:
            raise SetupError(
                f"model folder {str(path)!r} has its weights as pickle only ({pickles[0]}), which may run "
                "code when it is loaded: refused; convert them to safetensors, or say --allow-pickle if you trust them"
            )
        if not pickles:
            raise SetupError(f"model folder {str(path)!r} has no weights (*.safetensors)")
    return Source(path.resolve().name, str(path))
