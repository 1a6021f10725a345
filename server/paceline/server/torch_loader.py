"""What `paceline serve` and `paceline batch` load unless told otherwise: a model, and torch with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import ServeConfig
from .loader import Loaded

if TYPE_CHECKING:
    from .batch import BatchOptions


def load_torch(config: ServeConfig | BatchOptions) -> Loaded:
    """The model that `config` names. SetupError if it cannot be loaded."""
    from .runner.make import load_runner

    return load_runner(config, config)
