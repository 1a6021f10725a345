"""Brings a model's files to this machine and no more: `python -m paceline.server.runner.prepare [--model …]`.

For who measures servers: the first fetch and conversion must not count as a server's start. Nothing heavy is
imported where the files are here already.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .. import embedded
from ..config import ModelConfig
from ..errors import SetupError
from ..settings import Command, read_command

PREPARE = Command(
    "prepare",
    "Bring a model's files to this machine.",
    ModelConfig,
    (("model", ModelConfig),),
)


def prepare(config: ModelConfig) -> None:
    """Returns when the files of the model that `config` names are here. SetupError where they cannot be had."""
    if config.dummy_weights is not None:
        return
    if config.model is None:
        embedded.ensure(_convert)
    elif not Path(config.model).expanduser().exists():
        from . import loading

        loading.load(config)  # the only way to fetch exactly what a server will ask the hub for


def _convert(gguf: Path, folder: Path) -> None:
    from .converting import convert

    convert(gguf, folder)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 and one line on standard error where the user has to change something."""
    try:
        prepare(read_command(PREPARE, sys.argv[1:] if argv is None else argv))
    except SetupError as exc:
        sys.stderr.write(f"paceline: {exc}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
