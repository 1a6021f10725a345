"""Saves a model with random weights of a named shape and a tokenizer of bytes, as `--model` takes it.

    python benchmarks/random_model.py llama-1b FOLDER

Seeded: every call saves the same. Made on the GPU where there is one, in bfloat16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from paceline.server.runner.dummy import build, byte_tokenizer, shape_config
from paceline.server.runner.hardware import pick_device
from paceline.server.runner.quiet import quiet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    config = shape_config(arguments.shape)
    model = build(config, pick_device("auto"), torch.bfloat16, None)
    with quiet():
        model.save_pretrained(arguments.folder)
        byte_tokenizer(config).save_pretrained(arguments.folder)
    size = sum(file.stat().st_size for file in arguments.folder.iterdir())
    print(json.dumps({"shape": arguments.shape, "bytes": size}))  # noqa: T201


if __name__ == "__main__":
    main()
